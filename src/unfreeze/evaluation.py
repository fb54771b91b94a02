"""Scoring a finished run on labelled data that it has never seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unfreeze.data.dataset import PARTS
from unfreeze.data.load import load_whole
from unfreeze.errors import DataError, RequestError
from unfreeze.evaluate.metrics import score
from unfreeze.evaluate.scores import Scores
from unfreeze.model import load
from unfreeze.progress import Progress, Silent
from unfreeze.runtime.remote import scrubbed


@dataclass(frozen=True)
class Evaluation:
    """The scores, the rows that could not be read as (name, reason), and what was scored."""

    run: str
    data: str
    scores: Scores
    unreadable: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, object]:
        """The scores' flat schema, with ``run``, ``data`` and ``unreadable`` beside."""
        return self.scores.to_dict() | {
            "run": self.run,
            "data": self.data,
            "unreadable": [{"input": name, "reason": reason} for name, reason in self.unreadable],
        }


def evaluate_run(
    run: str | Path,
    data: str,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    part: str | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Evaluation:
    """The scores of a run on all labelled rows of ``data``, or on one of its parts; classes match by name.

    Raises RequestError for a folder that is no run, data of the other modality, or a class the run does not know.
    """
    tell = progress or Silent()
    if part is not None and part not in PARTS:
        raise RequestError(f"--part {part} is unknown: choose {', '.join(PARTS)}.")
    model = load(run)
    dataset = load_whole(
        data,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        labels=model.classifier.labels,
    )
    wanted = model.classifier.backbone.modality
    if dataset.modality != wanted:
        raise RequestError(
            f"{scrubbed(str(run))} classifies {wanted}s, and {dataset.source} holds {dataset.modality}s."
        )
    rows = np.arange(len(dataset)) if part is None else dataset.rows(part)
    if not len(rows):
        raise DataError(f"{dataset.source} has no {part or 'labelled'} rows to score.")
    tell.say(f"{len(rows):,} rows to score.")
    chosen = dataset.select(rows)
    probabilities, errors = model.probabilities(chosen.samples, batch_size=batch_size)
    readable = np.array([row not in errors for row in range(len(chosen))])
    if not readable.any():
        raise DataError(f"None of the {len(rows):,} rows of {dataset.source} can be read.")
    return Evaluation(
        run=scrubbed(str(run)),
        data=scrubbed(data),
        scores=score(probabilities[readable], chosen.label[readable], chosen.labels.names),
        unreadable=tuple((chosen.samples.name(row), reason) for row, reason in errors.items()),
    )
