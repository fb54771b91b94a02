"""The scores of a classifier on labelled rows: one flat schema for files, terminal and Python."""

from __future__ import annotations

from dataclasses import asdict, dataclass


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
        """JSON-serialisable form."""
        return asdict(self)
