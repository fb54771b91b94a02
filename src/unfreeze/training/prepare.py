"""From a request to data, a backbone, an executor and the features of every row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from unfreeze.backbones import default_backbone, with_fit, with_truncation
from unfreeze.bundle.loading import is_run, open_source, read_bundle
from unfreeze.choose.settings import Decisions
from unfreeze.config import TrainRequest
from unfreeze.contracts import Backbone, Executor, Modality
from unfreeze.data.dataset import Dataset
from unfreeze.data.hub import HUB_PREFIX
from unfreeze.data.load import load_dataset
from unfreeze.engine.choice import choose_executor, resolve_device
from unfreeze.engine.first_batch import ROWS as FIRST_ROWS
from unfreeze.engine.first_batch import look_at_first_batch
from unfreeze.engine.frozen_pass import Features, compute_features, golden_batch, open_store
from unfreeze.errors import DataError, RequestError
from unfreeze.plan import check_variation
from unfreeze.progress import Progress

if TYPE_CHECKING:
    from unfreeze.engine.choice import ExecutorChoice
    from unfreeze.runtime.preprocess import Fit, Truncation


def read_data(request: TrainRequest) -> Dataset:
    """The data set of a request, with its parts; raises RequestError or DataError."""
    return load_dataset(
        request.data,
        text_column=request.text_column,
        image_column=request.image_column,
        label_column=request.label_column,
        group_column=request.group_column,
        stratify_column=request.stratify_column,
        val=request.val,
        test=request.test,
        seed=request.seed or 0,
        train_size=request.train_size,
    )


def open_backbone(dataset: Dataset, decisions: Decisions, progress: Progress) -> Backbone:
    """The backbone of a request, or the best one at hand; RequestError for settings of the other kind of input too."""
    request = decisions.request
    _check_modality(request, dataset.modality)
    name = request.backbone
    if name is None:
        name, reason = default_backbone(dataset.modality)
        decisions.record("backbone", name, "default", reason)
        progress.say(f"Backbone {name}: {reason}.")
    if is_run(name):
        _refuse_another_split(name, dataset)
    backbone = open_source(
        name,
        modality=dataset.modality,
        image_size=request.image_size,
        pooling=request.pooling,
        max_length=request.max_length,
    )
    backbone = _prepared_as_asked(backbone, name, decisions)
    decisions.record(
        "preprocessing", backbone.preprocess.to_dict(), "default", "from the pretrained configuration"
    )
    for note in backbone.notes:
        progress.say(note)
    return backbone


def _check_modality(request: TrainRequest, modality: Modality) -> None:
    """Raise RequestError for a setting of the other kind of input.

    The plan of a strategy that was named would say so itself; ``auto`` has plans only after the frozen pass.
    """
    check_variation(
        modality,
        augment=request.augment or "none",
        mixup=request.mixup or 0.0,
        token_dropout=request.token_dropout or 0.0,
    )
    if modality == "text" and request.fit is not None:
        raise RequestError("--fit says how images become squares: leave it out for texts.")
    if modality == "image" and request.truncation is not None:
        raise RequestError("--truncation is for texts, and these are images: leave it out.")


def _prepared_as_asked(backbone: Backbone, name: str, decisions: Decisions) -> Backbone:
    """The backbone with the fit of images or the truncation of texts that was asked for; a run has its own."""
    given = decisions.request.given()
    own, foreign = ("fit", "truncation") if backbone.modality == "image" else ("truncation", "fit")
    decisions.entries.pop(foreign, None)
    if is_run(name) and own not in given:
        decisions.record(own, backbone.preprocess.to_dict()[own], "data", f"as in {name}")
        return backbone
    if own == "fit":
        return with_fit(backbone, cast("Fit", decisions.text("fit")))
    return with_truncation(backbone, cast("Truncation", decisions.text("truncation")))


def _refuse_another_split(run: str, dataset: Dataset) -> None:
    """Raise RequestError when rows that are test here may have trained the run to start from."""
    before = read_bundle(Path(run)).data
    # Data sets of the hub were recorded without their prefix once.
    same = before.source.removeprefix(HUB_PREFIX) == dataset.source.removeprefix(HUB_PREFIX)
    if same and before.fingerprint != dataset.fingerprint:
        raise RequestError(
            f"The run {run} was trained on another split of {dataset.source}, so that rows which it has learnt would "
            "be tested here: give the same --seed, --val and --test, or other data."
        )


def pick_executor(
    backbone: Backbone, dataset: Dataset, decisions: Decisions, progress: Progress
) -> tuple[ExecutorChoice, Executor]:
    """What runs the frozen part, chosen with its error measured on real rows."""
    if decisions.text("device") == "auto":
        device = resolve_device("auto")
        decisions.record("device", device, "data", "the first accelerator that answers, else the processor")
    choice = choose_executor(
        backbone,
        dataset,
        device=decisions.text("device"),
        precision=decisions.text("precision"),
        boundaries=boundaries_of(backbone),
        store=lambda executor: open_store(
            backbone, executor, boundaries_of(backbone), use=decisions.text("store")
        ),
    )
    decisions.record("executor", choice.name, "data", choice.reason)
    progress.say(f"Executor {choice.name}: {choice.reason}")
    return choice, choice.executor


def boundaries_of(backbone: Backbone) -> tuple[int, ...]:
    """Every boundary that has a summary: after each stage."""
    return tuple(range(1, len(backbone.stages) + 1))


def frozen_pass(
    backbone: Backbone, dataset: Dataset, executor: Executor, decisions: Decisions, progress: Progress
) -> Features:
    """The features of all rows but the test rows, without the rows that cannot be read."""
    rows = dataset.rows("train", "val")
    store = open_store(
        backbone, executor, boundaries_of(backbone), use=decisions.text("store"), progress=progress
    )
    features = compute_features(
        dataset,
        backbone,
        executor=executor,
        store=store,
        rows=rows,
        boundaries=boundaries_of(backbone),
        batch_size=decisions.number("batch_size"),
        progress=lambda done, total: progress.count("Frozen pass, rows", done, total),
    )
    if features.reused:
        progress.say(
            f"{features.reused:,} of {len(rows):,} rows came from the store: nothing is computed twice."
        )
    name_left_out(features, progress)
    _check_classes(dataset, features.rows)
    if backbone.modality == "image":
        first = look_at_first_batch(backbone, golden_batch(dataset, backbone, features.rows[:FIRST_ROWS]))
        progress.say(first.told())
    return features


def name_left_out(features: Features, progress: Progress) -> None:
    """Say which rows could not be read, and why; five by name."""
    for bad in features.quarantined[:5]:
        progress.say(f"Left out: {bad.name}: {bad.reason}")
    if len(features.quarantined) > 5:
        progress.say(f"Left out: {len(features.quarantined) - 5:,} more rows that cannot be read.")


def _check_classes(dataset: Dataset, rows: NDArray[np.intp]) -> None:
    counts = np.bincount(dataset.label[rows], minlength=len(dataset.labels))
    empty = [name for name, count in zip(dataset.labels, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"No readable row of class {empty[0]!r} is left for training in {dataset.source}: "
            "run `unfreeze check` to see what is wrong with its files."
        )
