"""The scores of a classifier on labelled rows: one flat schema for files, terminal and Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

# Classes whose confusion is still read by eye.
MOST_INDENTED = 30


@dataclass(frozen=True)
class ClassScores:
    """One class: precision, recall, F1 in 0..1, and the number of rows that truly belong to it."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """All numbers of one evaluation; shares in 0..1, ``log_loss`` in nats.

    ``accuracy_low`` and ``accuracy_high`` bound a 95 % Wilson interval. ``confusion`` has true classes
    as rows and predicted ones as columns, in label order. ``top_k`` maps k to the share of rows whose true
    class is among the k most probable. ``roc_auc`` exists for two classes only.
    """

    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    balanced_accuracy_low: float
    balanced_accuracy_high: float
    macro_f1: float
    macro_f1_low: float
    macro_f1_high: float
    log_loss: float
    ece: float
    per_class: dict[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    top_k: dict[int, float]
    roc_auc: float | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form; of a thousand classes the confusion has a million counts, which are not copied."""
        return dict(vars(self)) | {
            "per_class": {name: asdict(own) for name, own in self.per_class.items()},
            "top_k": dict(self.top_k),
        }


def scores_text(values: Mapping[str, object], *, classes: int) -> str:
    """Scores as the text of a JSON file: indented, unless lines of one count each would make it many times as long."""
    indent = 2 if classes <= MOST_INDENTED else None
    return json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
