"""One training from data to a run folder, as a table of contents: each line of ``train`` is a room's work."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from unfreeze.backbones import default_backbone, load_backbone, with_fit
from unfreeze.bundle.classifier import Classifier, Threshold
from unfreeze.bundle.folder import Story, claim_folder, release_folder, save
from unfreeze.choose.settings import Decisions, record_data
from unfreeze.config import Origin, TrainRequest, write_config
from unfreeze.contracts import Backbone, Executor
from unfreeze.data.dataset import Dataset
from unfreeze.data.load import load_dataset
from unfreeze.engine.frozen_pass import Features, choose_executor, compute_features, golden_batch, open_store
from unfreeze.errors import DataError
from unfreeze.evaluate.calibration import abstain_threshold, fit_temperature, softmax
from unfreeze.evaluate.metrics import score
from unfreeze.evaluate.scores import Scores
from unfreeze.executors import build_executor
from unfreeze.heads.probe import ProbeResult, fit_probe
from unfreeze.heads.weights import needs_class_weights
from unfreeze.progress import Clock, Progress, Silent
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.predictions import Prediction, write_rows
from unfreeze.runtime.preprocess import Fit

if TYPE_CHECKING:
    from rich.console import Console

    from unfreeze.engine.frozen_pass import ExecutorChoice
    from unfreeze.model import Model
    from unfreeze.report.content import ReportData

RUNS = Path("runs")
# Fewer validation rows than this set no threshold: a share of 95 % of 100 rows is known to ±4 points at best.
THRESHOLD_ROWS = 100


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training: its folder and what it measured."""

    folder: Path
    strategy: str
    backbone: str
    seconds: float
    validation: Scores
    test: Scores
    test_names: tuple[str, ...]
    report: ReportData = field(repr=False)

    def model(self) -> Model:
        """The classifier, loaded from the folder as any user would."""
        from unfreeze.model import load

        return load(self.folder)

    def to_dict(self) -> dict[str, object]:
        """What ``train --json`` prints."""
        return {
            "run": str(self.folder),
            "strategy": self.strategy,
            "backbone": self.backbone,
            "seconds": round(self.seconds, 3),
            "validation": self.validation.to_dict(),
            "test": self.test.to_dict(),
        }

    def print(self, console: Console) -> None:
        """The summary for a person."""
        from unfreeze.report.terminal import print_summary

        print_summary(self.report, console)

    def _repr_html_(self) -> str:
        from html import escape

        test = self.test
        return (
            f"<p><b>{escape(self.strategy)}</b> on {escape(self.backbone)}: {test.accuracy:.1%} of {test.n} held-out "
            f"rows are right (95 % interval {test.accuracy_low:.1%} to {test.accuracy_high:.1%}). "
            f"Report: <code>{escape(str(self.folder / 'report.html'))}</code></p>"
        )


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier, and the predictions it was calibrated with.

    ``logits`` and ``y`` belong to ``rows`` of the data set, none of which the logits' head was fitted on; ``how`` says
    why that is so.
    """

    classifier: Classifier
    logits: NDArray[np.float32]
    y: NDArray[np.int32]
    rows: NDArray[np.intp]
    how: str


def train(request: TrainRequest, *, progress: Progress | None = None) -> Run:
    """Train, measure and save what the request describes.

    Raises RequestError when the request or its data cannot be used; nothing is left behind then.
    """
    progress = progress or Silent()
    clock = Clock()
    request.check()
    folder = request.output_dir
    if folder is not None:
        claim_folder(folder)
    try:
        with clock.part("reading the data"):
            dataset = read_data(request)
        if folder is None:
            folder = free_run_folder(Path(dataset.source).stem or "run")
            claim_folder(folder)
        return _train_into(folder, dataset, request, clock, progress)
    except BaseException:
        if folder is not None:
            release_folder(folder)
        raise


def _train_into(
    folder: Path, dataset: Dataset, request: TrainRequest, clock: Clock, progress: Progress
) -> Run:
    decisions = Decisions(request)
    record_data(decisions, dataset)
    with clock.part("loading the backbone"):
        backbone = open_backbone(dataset, decisions, progress)
    with clock.part("choosing the executor"):
        chosen, executor = pick_executor(backbone, dataset, decisions, progress)
    with clock.part("frozen pass"):
        dataset, features = frozen_pass(backbone, dataset, executor, decisions, progress)
    with clock.part("probe and thaw curve"):
        probe = probe_features(dataset, features, backbone, decisions, progress)
        fitted = calibrate(dataset, features, probe, backbone, decisions)
    with clock.part("test rows, from the raw inputs"):
        dataset, test_logits, test_rows = score_test(fitted.classifier, dataset, decisions, progress)
    with clock.part("scoring"):
        temperature = fitted.classifier.temperature
        validation = score(softmax(fitted.logits, temperature), fitted.y, dataset.labels.names)
        test = score(softmax(test_logits, temperature), dataset.label[test_rows], dataset.labels.names)
    with clock.part("saving"):
        names = tuple(dataset.samples.name(int(row)) for row in test_rows)
        _save_run(folder, fitted, dataset, decisions, names, test_logits, test_rows)
        _save_metrics(folder, validation, test, fitted.how)
    from unfreeze.reporting import Evidence, write_pages

    evidence = Evidence(
        folder=folder,
        dataset=dataset,
        backbone=backbone,
        executor=chosen,
        features=features,
        probe=probe,
        classifier=fitted.classifier,
        validation=validation,
        validation_how=fitted.how,
        oof=(fitted.rows, softmax(fitted.logits, temperature)),
        test=test,
        test_rows=test_rows,
        test_logits=test_logits,
        settings=decisions.resolved(),
        fingerprint=fingerprint(dataset),
        command=shlex.join(["unfreeze", *sys.argv[1:]]),
    )
    report = write_pages(evidence, clock, progress)
    return Run(
        folder=folder,
        strategy=decisions.text("strategy"),
        backbone=backbone.name,
        seconds=clock.total,
        validation=validation,
        test=test,
        test_names=names,
        report=report,
    )


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
    )


def open_backbone(dataset: Dataset, decisions: Decisions, progress: Progress) -> Backbone:
    """The backbone of a request, or the best one at hand."""
    request = decisions.request
    name = request.backbone
    if name is None:
        name, reason = default_backbone(dataset.modality)
        decisions.record("backbone", name, "default", reason)
    backbone = load_backbone(
        name,
        modality=dataset.modality,
        image_size=request.image_size,
        pooling=request.pooling,
        max_length=request.max_length,
    )
    if dataset.modality == "image":
        backbone = with_fit(backbone, cast("Fit", decisions.text("fit")))
    else:
        decisions.entries.pop("fit", None)
    origin: Origin = "user" if request.backbone else "default"
    decisions.record(
        "preprocessing", backbone.preprocess.to_dict(), origin, "from the pretrained configuration"
    )
    for note in backbone.notes:
        progress.say(note)
    return backbone


def pick_executor(
    backbone: Backbone, dataset: Dataset, decisions: Decisions, progress: Progress
) -> tuple[ExecutorChoice, Executor]:
    """What runs the frozen part, chosen with its error measured on real rows."""
    choice = choose_executor(
        backbone,
        dataset,
        device=decisions.text("device"),
        precision=decisions.text("precision"),
        boundaries=boundaries_of(backbone),
    )
    decisions.record("executor", choice.name, "data", choice.reason)
    progress.say(f"Executor {choice.name}: {choice.reason}")
    return choice, choice.executor


def boundaries_of(backbone: Backbone) -> tuple[int, ...]:
    """Every boundary that has a summary: after each stage."""
    return tuple(range(1, len(backbone.stages) + 1))


def frozen_pass(
    backbone: Backbone, dataset: Dataset, executor: Executor, decisions: Decisions, progress: Progress
) -> tuple[Dataset, Features]:
    """The features of all rows but the test rows, and the data set without the rows that could not be read."""
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
    for bad in features.quarantined[:5]:
        progress.say(f"Left out: {bad.name}: {bad.reason}")
    if len(features.quarantined) > 5:
        progress.say(f"Left out: {len(features.quarantined) - 5:,} more rows that cannot be read.")
    _check_classes(dataset, features.rows)
    return dataset, features


def _check_classes(dataset: Dataset, rows: NDArray[np.intp]) -> None:
    counts = np.bincount(dataset.label[rows], minlength=len(dataset.labels))
    empty = [name for name, count in zip(dataset.labels, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"No readable row of class {empty[0]!r} is left for training in {dataset.source}: "
            "run `unfreeze check` to see what is wrong with its files."
        )


def fit_rows(dataset: Dataset, features: Features) -> NDArray[np.bool_]:
    """Which rows of the features the head is fitted on: all, or train alone when validation data was given."""
    if "val" not in dataset.given:
        return np.ones(len(features.rows), dtype=bool)
    return np.asarray(np.isin(features.rows, dataset.rows("train")))


def probe_features(
    dataset: Dataset, features: Features, backbone: Backbone, decisions: Decisions, progress: Progress
) -> ProbeResult:
    """The probe at every depth, and the head that ships."""
    chosen = fit_rows(dataset, features)
    y = dataset.label[features.rows[chosen]]
    balanced, reason = needs_class_weights([int(n) for n in np.bincount(y, minlength=len(dataset.labels))])
    decisions.record("class_weight", "balanced" if balanced else "none", "data", reason)
    kind = decisions.text("head")
    probe = fit_probe(
        {boundary: array[chosen] for boundary, array in features.arrays.items()},
        y,
        classes=len(dataset.labels),
        boundaries_names={index + 1: stage.name for index, stage in enumerate(backbone.stages)},
        seed=decisions.number("seed"),
        groups=None if dataset.group is None else dataset.group[features.rows[chosen]],
        class_weight="balanced" if balanced else None,
        kind="mlp" if kind == "mlp" else "linear",
    )
    decisions.record("regularisation", probe.probe.regularisation, "probe", " ".join(probe.reasons))
    depths = ", ".join(backbone.stages[boundary - 1].name for boundary in probe.probe.boundaries)
    decisions.record("head_reads", depths, "probe", "the choice with the lower log-loss out of fold")
    progress.say(f"Probe: {probe.probe.accuracy:.1%} right out of fold, reading {depths}.")
    return probe


def calibrate(
    dataset: Dataset, features: Features, probe: ProbeResult, backbone: Backbone, decisions: Decisions
) -> Fitted:
    """The classifier with its temperature and threshold, from rows that its head did not see."""
    head = probe.probe.head
    chosen = fit_rows(dataset, features)
    held = ~chosen
    own_validation = int(held.sum()) >= THRESHOLD_ROWS
    if own_validation:
        rows = features.rows[held]
        joined = np.concatenate([features.arrays[b][held] for b in head.boundaries], axis=1)
        logits, how = head.logits(joined), f"{len(rows):,} validation rows that were given"
    else:
        scored = probe.probe.held_out
        rows = features.rows[chosen][scored]
        logits, how = probe.probe.oof_logits[scored], f"out of fold over {len(rows):,} rows that are not test"
    y = dataset.label[rows]
    temperature = fit_temperature(logits, y)
    threshold = None
    if len(rows) >= THRESHOLD_ROWS:
        target = decisions.entries["precision_target"].value
        found = abstain_threshold(softmax(logits, temperature), y, precision=float(str(target)))
        if found is not None:
            threshold = Threshold(
                probability=found.confidence, precision=found.precision_low, coverage=found.coverage
            )
    classifier = Classifier(
        backbone=backbone, head=head, labels=dataset.labels, temperature=temperature, threshold=threshold
    )
    return Fitted(classifier=classifier, logits=logits, y=y, rows=rows, how=how)


def score_test(
    classifier: Classifier, dataset: Dataset, decisions: Decisions, progress: Progress
) -> tuple[Dataset, NDArray[np.float32], NDArray[np.intp]]:
    """Logits of the readable test rows, in fp32 from the raw inputs, past the store."""
    boundaries = tuple(sorted(classifier.head.boundaries))
    name = "openvino-fp32" if decisions.text("executor").startswith("openvino") else "torch-fp32"
    device = decisions.text("device")
    executor = build_executor(
        name, classifier.backbone, boundaries=boundaries, device="cpu" if device == "auto" else device
    )
    passed = compute_features(
        dataset,
        classifier.backbone,
        executor=executor,
        store=None,
        rows=dataset.rows("test"),
        boundaries=boundaries,
        batch_size=decisions.number("batch_size"),
        progress=lambda done, total: progress.count("Test rows", done, total),
    )
    if not len(passed.rows):
        raise DataError(f"No test row of {dataset.source} can be read: there is nothing to measure on.")
    joined = np.concatenate([passed.arrays[b] for b in classifier.head.boundaries], axis=1)
    return dataset, classifier.head.logits(joined), passed.rows


def _save_run(
    folder: Path,
    fitted: Fitted,
    dataset: Dataset,
    decisions: Decisions,
    names: tuple[str, ...],
    test_logits: NDArray[np.float32],
    test_rows: NDArray[np.intp],
) -> None:
    classifier = fitted.classifier
    write_atomically(folder / "config.yaml", write_config(decisions.resolved()))
    probabilities = softmax(test_logits, classifier.temperature)
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        write_rows(_prediction_rows(classifier, dataset, names, probabilities, test_rows), file)
    story = Story(
        strategy=decisions.text("strategy"),
        calibrated_on=fitted.how,
        calibration_rows=len(fitted.rows),
        data_source=dataset.source,
        data_fingerprint=fingerprint(dataset),
        data_rows={part: len(dataset.rows(part)) for part in ("train", "val", "test")},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    save(classifier, folder, story=story, golden=golden_batch(dataset, classifier.backbone, test_rows[:4]))


def _prediction_rows(
    classifier: Classifier,
    dataset: Dataset,
    names: tuple[str, ...],
    probabilities: NDArray[np.float64],
    rows: NDArray[np.intp],
) -> list[dict[str, object]]:
    threshold = 0.0 if classifier.threshold is None else classifier.threshold.probability
    table = []
    for name, row, chances in zip(names, rows, probabilities, strict=True):
        best = int(chances.argmax())
        label, top = classifier.labels.names[best], float(chances[best])
        answer = Prediction(name, label, top, top < threshold, None, ((label, top),)).to_row(1)
        table.append(answer | {"true_label": classifier.labels.names[int(dataset.label[row])]})
    return table


def _save_metrics(folder: Path, validation: Scores, test: Scores, how: str) -> None:
    values: Mapping[str, object] = {
        "validation": validation.to_dict() | {"how": how},
        "test": test.to_dict() | {"how": "the saved model in fp32 from the raw inputs"},
    }
    write_atomically(folder / "metrics.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def fingerprint(dataset: Dataset) -> str:
    """A hash over names, labels and parts of all rows: another one means other data or another split."""
    from hashlib import sha256

    digest = sha256()
    for name in dataset.labels:
        digest.update(f"{name}\0".encode())
    for row in range(len(dataset)):
        digest.update(f"{dataset.samples.name(row)}\0{dataset.label[row]}\0{dataset.part[row]}\n".encode())
    return digest.hexdigest()


def free_run_folder(name: str) -> Path:
    """``runs/NAME``, or the first of ``runs/NAME-2``, ``runs/NAME-3``, … that does not exist."""
    folder, number = RUNS / name, 1
    while folder.exists():
        number += 1
        folder = RUNS / f"{name}-{number}"
    return folder
