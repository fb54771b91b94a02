"""Writing what a run leaves in its folder, beside its pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.examples import Examples, write_examples
from unfreeze.bundle.folder import BUNDLE, Story, save
from unfreeze.bundle.loading import is_run, read_bundle
from unfreeze.choose.settings import Decisions
from unfreeze.config import Resolved, write_config
from unfreeze.data.dataset import PARTS, Dataset
from unfreeze.engine.frozen_pass import golden_batch
from unfreeze.evaluate.scores import Scores, scores_text
from unfreeze.runtime.files import file_hash, write_atomically
from unfreeze.runtime.predictions import Prediction, write_rows
from unfreeze.training.probing import Fitted, Tested


def save_run(
    folder: Path,
    fitted: Fitted,
    dataset: Dataset,
    decisions: Decisions,
    names: tuple[str, ...],
    tested: Tested,
    examples: Examples | None,
) -> None:
    """Write configuration, predictions of the test rows, weights, golden answers, examples and ``bundle.json``.

    A classifier of weights that were not taken, where there is one, is written first, as a run of its own.
    """
    classifier, settings = fitted.classifier, decisions.resolved()
    save_settings(folder, settings)
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        write_rows(_prediction_rows(classifier, dataset, names, tested.probabilities, tested.rows), file)
    story = tell_story(fitted, dataset, decisions)
    golden = golden_batch(dataset, classifier.backbone, tested.rows[:4])
    if fitted.spare is not None:
        name, spare = fitted.spare
        (folder / name).mkdir(exist_ok=True)
        save_settings(folder / name, settings)
        save(spare.classifier, folder / name, story=tell_story(spare, dataset, decisions), golden=golden)
    save(
        classifier,
        folder,
        story=story,
        golden=golden,
        examples=None if examples is None else write_examples(examples),
    )


def save_settings(folder: Path, settings: tuple[Resolved, ...]) -> None:
    """Write ``config.yaml``, by which the run's data are read and split again."""
    write_atomically(folder / "config.yaml", write_config(settings))


def tell_story(fitted: Fitted, dataset: Dataset, decisions: Decisions) -> Story:
    """What ``bundle.json`` says of how the classifier came about."""
    return Story(
        strategy=decisions.text("strategy"),
        calibrated_on=fitted.how,
        calibration_rows=len(fitted.rows),
        data_source=dataset.source,
        data_fingerprint=dataset.fingerprint,
        data_rows={part: len(dataset.rows(part)) for part in PARTS},
        lineage=_lineage(decisions.text("backbone")),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _lineage(source: str) -> tuple[str, ...]:
    """The runs that this one started from, the nearest first, each with the hash of its ``bundle.json``."""
    if not is_run(source):
        return ()
    folder = Path(source).resolve()
    return (f"{folder} {file_hash(folder / BUNDLE)}", *read_bundle(folder).lineage)


def _prediction_rows(
    classifier: Classifier,
    dataset: Dataset,
    names: tuple[str, ...],
    probabilities: NDArray[np.float64],
    rows: NDArray[np.intp],
) -> list[dict[str, object]]:
    limit = None if classifier.threshold is None else classifier.threshold.probability
    names_of = classifier.labels.names
    table = []
    for name, row, chances in zip(names, rows, probabilities, strict=True):
        answer = Prediction.of(name, chances, names_of, threshold=limit, top_k=1).to_row(1)
        table.append(answer | {"true_label": names_of[int(dataset.label[row])]})
    return table


def save_metrics(
    folder: Path,
    validation: Scores,
    test: Scores,
    how: str,
    baselines: Sequence[Mapping[str, object]] = (),
) -> None:
    """Write ``metrics.json``; ``how`` says where the validation numbers come from.

    ``baselines``: what stands beside the test accuracy, the floor among it, with paired differences.
    """
    values: Mapping[str, object] = {
        "validation": validation.to_dict() | {"how": how},
        "test": test.to_dict() | {"how": "the saved model in fp32 from the raw inputs"},
        "baselines": list(baselines),
    }
    write_atomically(folder / "metrics.json", scores_text(values, classes=len(test.labels)))
