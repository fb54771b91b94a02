"""Scoring a finished run on labelled data that it has never seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unfreeze.bundle.loading import load as load_folder
from unfreeze.bundle.places import run_folder
from unfreeze.bundle.schema import DataEntry
from unfreeze.data.dataset import PARTS, Dataset
from unfreeze.data.hub import HUB_PREFIX
from unfreeze.data.load import load_whole
from unfreeze.data.rows import unread_inputs
from unfreeze.errors import DataError, RequestError
from unfreeze.evaluate.metrics import score
from unfreeze.evaluate.scores import Scores
from unfreeze.model import Model
from unfreeze.progress import Progress, Silent
from unfreeze.runtime.remote import is_remote, scrubbed
from unfreeze.training.reopening import located


@dataclass(frozen=True)
class Evaluation:
    """The scores, the rows that could not be read as (name, reason), and what was scored.

    ``majority``: what always answering with the most frequent class of these rows would give. ``warnings``: what to
    read before the scores are believed.
    """

    run: str
    data: str
    scores: Scores
    unreadable: tuple[tuple[str, str], ...]
    majority: float
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """The scores' flat schema, with what was scored and what stands beside it."""
        return self.scores.to_dict() | {
            "run": self.run,
            "data": self.data,
            "majority": self.majority,
            "warnings": list(self.warnings),
            "unreadable": [{"input": name, "reason": reason} for name, reason in self.unreadable],
        }


def evaluate_run(
    run: str | Path,
    data: str,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    part: str | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Evaluation:
    """The scores of a run on all labelled rows of ``data``, or on one of its parts; classes match by name.

    ``group_column``: rows of one group stand and fall together, which widens the intervals. Raises RequestError for a
    folder that is no run, data of the other modality, a class the run does not know, and a part that the data lack.
    """
    tell = progress or Silent()
    if part is not None and part not in PARTS:
        raise RequestError(f"--part {part} is unknown: choose {', '.join(PARTS)}.")
    loaded = load_folder(run_folder(run))
    model = Model(loaded.classifier)
    dataset = load_whole(
        data,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        labels=model.classifier.labels,
    )
    wanted = model.classifier.backbone.modality
    if dataset.modality != wanted:
        raise RequestError(
            f"{scrubbed(str(run))} classifies {wanted}s, and {dataset.source} holds {dataset.modality}s."
        )
    if part is not None and part not in dataset.given:
        own = f"its parts are {', '.join(sorted(dataset.given))}" if dataset.given else "it comes in no parts"
        raise DataError(f"{dataset.source} has no {part} rows: {own}. Leave --part out to score every row.")
    rows = np.arange(len(dataset)) if part is None else dataset.rows(part)
    if not len(rows):
        raise DataError(f"{dataset.source} has no {part or 'labelled'} rows to score.")
    tell.say(f"{len(rows):,} rows to score.")
    chosen = dataset.select(rows)
    scores, errors = score_model(model, chosen, batch_size=batch_size)
    return Evaluation(
        run=scrubbed(str(run)),
        data=scrubbed(data),
        scores=scores,
        unreadable=tuple((chosen.samples.name(row), reason) for row, reason in errors.items()),
        majority=max(one.support for one in scores.per_class.values()) / scores.n,
        warnings=(
            *_learnt(loaded.bundle.data, data, part),
            *dataset.warnings,
            *unread_inputs(dataset.ignored, dataset.modality),
            *model.notes(scores.n),
        ),
    )


def score_model(model: Model, dataset: Dataset, *, batch_size: int = 32) -> tuple[Scores, dict[int, str]]:
    """The scores of a model on all rows that can be read, and by their positions why the others cannot.

    Raises DataError where none can.
    """
    probabilities, errors = model.probabilities(dataset.samples, batch_size=batch_size)
    rows = np.array([row for row in range(len(dataset)) if row not in errors], dtype=np.intp)
    if not len(rows):
        raise DataError(f"None of the {len(dataset):,} rows of {dataset.source} can be read.")
    groups = dataset.groups_of(rows)
    return score(probabilities[rows], dataset.label[rows], dataset.labels.names, groups=groups), errors


def _learnt(trained: DataEntry, data: str, part: str | None) -> tuple[str, ...]:
    """A warning where these are the data that the run was trained on."""
    if part == "test" or is_remote(data) or is_remote(trained.source):
        return ()
    asked, learnt = (
        name.removeprefix(HUB_PREFIX) for name in (data, located(trained.source, trained.folder))
    )
    if Path(asked).resolve() != Path(learnt).resolve():
        return ()
    return (
        "The run was trained on these data: most of the rows have been learnt, and what it is worth on new ones stands "
        "in its report.",
    )
