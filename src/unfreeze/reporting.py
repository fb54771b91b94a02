"""What a finished run tells its pages: plain records, filled from the parts of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from unfreeze.backbones import list_backbones, published_as
from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.folder import package_versions
from unfreeze.choicepages import choice_section
from unfreeze.config import Resolved
from unfreeze.contracts import Backbone
from unfreeze.data.audit import audit
from unfreeze.data.dataset import PARTS, Dataset
from unfreeze.data.reading import read_texts
from unfreeze.engine.batches import encoder_of
from unfreeze.engine.choice import ExecutorChoice
from unfreeze.engine.frozen_pass import Features
from unfreeze.evaluate.baselines import chance_baseline, majority_baseline, tfidf_baseline
from unfreeze.evaluate.calibration import (
    THRESHOLD_ROWS,
    chance_calibration_error,
    expected_calibration_error,
    reliability,
    softmax,
)
from unfreeze.evaluate.compare import paired_difference
from unfreeze.evaluate.metrics import score
from unfreeze.evaluate.mistakes import Suspect, confident_mistakes, likely_wrong_labels
from unfreeze.evaluate.scores import Scores
from unfreeze.fitpages import cost_section, fit_sections
from unfreeze.heads.folds import stratified_sample
from unfreeze.progress import Clock, Progress
from unfreeze.report import content
from unfreeze.report.card import NAME, model_card
from unfreeze.report.page import write_report
from unfreeze.report.projection import project
from unfreeze.runtime.decode import inspect_image, open_picture
from unfreeze.runtime.files import write_atomically

if TYPE_CHECKING:
    from unfreeze.choose.cost import Cost
    from unfreeze.engine.fit import Fit
    from unfreeze.heads.probe import ProbeResult
    from unfreeze.training.copies import NearCopies

MOST_EXAMPLES = 12
MOST_LISTED = 20
THUMBNAIL_PIXELS = 160
TEXT_CHARACTERS = 300
MOST_NAME = 40
# Words are counted in so many training texts at most, and in as many test texts at a time: more tell a linear model of
# words little, and all of them might fill the memory.
WORD_ROWS = 100_000


@dataclass(frozen=True, eq=False)
class Evidence:
    """The parts of a finished run.

    ``oof``: rows and calibrated probabilities that no fit saw; ``test_logits`` belong to ``test_rows``, as do
    ``floor``, the probe's probabilities beside a thawed result. ``fit``: the history and ledger of thawing.
    ``copies``: test rows that look nearly the same as one that was learnt from. ``choice``: what ``choice.json``
    holds. ``cost``: what was predicted of the training ``trained``, shipped or not, which took ``training_seconds``;
    None where it was resumed.
    ``examples``: how many training rows the run carries.
    """

    folder: Path
    dataset: Dataset
    backbone: Backbone
    executor: ExecutorChoice
    features: Features
    probe: ProbeResult
    classifier: Classifier
    validation: Scores
    validation_how: str
    grouped: tuple[str, ...]
    calibration_rows: int
    oof: tuple[NDArray[np.intp], NDArray[np.float64]]
    test: Scores
    test_rows: NDArray[np.intp]
    test_logits: NDArray[np.float32]
    copies: NearCopies
    settings: tuple[Resolved, ...]
    fingerprint: str
    command: str
    floor: NDArray[np.float64] | None
    fit: Fit | None
    choice: Mapping[str, Any] | None
    cost: Cost | None
    trained: Fit | None
    training_seconds: float | None
    examples: int


def write_pages(evidence: Evidence, clock: Clock, progress: Progress) -> content.ReportData:
    """Write ``report.html`` and ``README.md`` into the run folder; the data they show."""
    with clock.part("baselines"):
        baselines = _baselines(evidence)
    with clock.part("report"):
        data = _collect(evidence, baselines, clock)
        write_report(data, evidence.folder / "report.html")
        write_atomically(evidence.folder / NAME, model_card(data))
    return data


def _collect(evidence: Evidence, baselines: tuple[content.Baseline, ...], clock: Clock) -> content.ReportData:
    classifier, backbone = evidence.classifier, evidence.backbone
    truth = evidence.dataset.label[evidence.test_rows]
    groups = evidence.dataset.groups_of(evidence.test_rows)
    probabilities = softmax(evidence.test_logits, classifier.temperature)
    mistakes = confident_mistakes(probabilities, truth, most=MOST_EXAMPLES)
    oof_rows, oof = evidence.oof
    suspects = likely_wrong_labels(oof, evidence.dataset.label[oof_rows], most=MOST_EXAMPLES)
    threshold = classifier.threshold
    strategy = next(str(entry.value) for entry in evidence.settings if entry.name == "strategy")
    licence = _licence(backbone.name)
    return content.ReportData(
        modality=backbone.modality,
        strategy=strategy,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        data=_data_summary(evidence),
        backbone=content.BackboneSummary(
            name=backbone.name,
            family=backbone.family,
            parameters=sum(parameter.numel() for parameter in backbone.module.parameters()),
            dim=backbone.dim,
            licence=licence,
            # A network trained from random weights has no published one below it.
            published_as=None if strategy == "scratch" else published_as(backbone),
            notes=backbone.notes,
        ),
        executor=content.ExecutorSummary(
            name=evidence.executor.name, reason=evidence.executor.reason, error=_error(evidence.executor)
        ),
        settings=_settings(evidence),
        test=content.Metrics.from_dict(evidence.test.to_dict()),
        validation=content.Metrics.from_dict(evidence.validation.to_dict()),
        validation_how=evidence.validation_how,
        grouped=evidence.grouped,
        calibration=content.Calibration(
            temperature=classifier.temperature,
            fitted_on=evidence.validation_how,
            rows=evidence.calibration_rows,
            ece_before=expected_calibration_error(softmax(evidence.test_logits), truth),
            ece_after=evidence.test.ece,
            ece_chance=chance_calibration_error(probabilities, truth, groups=groups),
        ),
        reliability=tuple(
            content.ReliabilityBin(**vars(part)) for part in reliability(probabilities, truth, groups=groups)
        ),
        baselines=baselines,
        command=evidence.command,
        versions=package_versions(),
        fingerprint=evidence.fingerprint,
        folder=str(evidence.folder),
        threshold=None if threshold is None else content.AbstainThreshold(**vars(threshold)),
        threshold_note=_threshold_note(evidence),
        thaw=tuple(
            content.ThawPoint(point.name, content.Estimate(point.accuracy, point.low, point.high))
            for point in evidence.probe.curve
        ),
        joined=_joined(evidence.probe),
        mistakes=_examples(mistakes, evidence.test_rows, evidence.dataset),
        suspects=_examples(suspects, oof_rows, evidence.dataset),
        feature_space=_feature_space(evidence),
        timing=tuple(content.Timing(part, seconds) for part, seconds in clock.seconds.items()),
        sections=_sections(evidence),
        examples=evidence.examples,
        licences=(content.Licence(backbone.name, licence),) if licence else (),
    )


def _data_summary(evidence: Evidence) -> content.DataSummary:
    dataset = evidence.dataset
    encoder = encoder_of(dataset, evidence.backbone) if dataset.modality == "text" else None
    # The frozen pass has decoded every file already; headers are enough for sizes.
    found = audit(dataset, encoder=encoder, inspect=inspect_image)
    unreadable = [(bad.name, bad.reason) for bad in evidence.features.quarantined]
    lost = np.setdiff1d(dataset.rows("test"), evidence.test_rows)
    unreadable += [(dataset.samples.name(int(row)), "a test row that cannot be read") for row in lost]
    pairs = [_pair(evidence, place) for place in range(min(len(evidence.copies), MOST_LISTED))]
    lists = (
        ("Test rows like one that was learnt from", len(evidence.copies), tuple(pairs)),
        (
            "Unreadable, left out",
            len(unreadable),
            tuple(unreadable[:MOST_LISTED]),
        ),
        (
            "Ignored",
            sum(entry.count for entry in dataset.ignored),
            tuple((entry.name, entry.reason) for entry in dataset.ignored[:MOST_LISTED]),
        ),
        *((finding.title, finding.total, finding.items) for finding in found.findings),
    )
    return content.DataSummary(
        name=Path(dataset.source).name or dataset.source,
        source=dataset.source,
        labels=dataset.labels.names,
        counts={
            part: tuple(
                int(n) for n in np.bincount(dataset.label[dataset.rows(part)], minlength=len(dataset.labels))
            )
            for part in PARTS
        },
        inferred=tuple((entry.what, entry.value, entry.reason) for entry in dataset.inferred),
        facts=found.facts,
        warnings=(*found.warnings, *_copies_told(evidence)),
        findings=tuple(content.Finding(*entry) for entry in lists if entry[1]),
    )


def _pair(evidence: Evidence, place: int) -> tuple[str, str]:
    """A test row that looks nearly the same as one that was learnt from, and what it looks like."""
    names, copies = evidence.dataset.samples.name, evidence.copies
    tested, known = (_short(names(int(rows[place]))) for rows in (copies.tested, copies.known))
    return tested, f"like {known}, similarity {copies.similarity[place]:.3f}"


def nearest_copy(evidence: Evidence) -> str:
    """The test row that looks most like a learnt one, and which; empty where none looks nearly the same."""
    return "{} ({})".format(*_pair(evidence, 0)) if len(evidence.copies) else ""


def _copies_told(evidence: Evidence) -> Iterator[str]:
    """What near-copies of learnt rows in the test part mean for the result, where there are any."""
    copies = evidence.copies
    if not len(copies):
        return
    right = evidence.test_logits.argmax(axis=1) == evidence.dataset.label[evidence.test_rows]
    others = right[np.isin(evidence.test_rows, copies.others)]
    without = f" Of the others {others.mean():.1%} are right." if len(others) else ""
    remedy = (
        "Take them out of one of the parts."
        if "test" in evidence.dataset.given
        else "What belongs together stays together with --group-column, or in folders train and test of your own."
    )
    yield (
        f"{len(copies):,} of {copies.compared:,} test rows look nearly the same to the network as one that was learnt "
        f"from, such as {nearest_copy(evidence)}: a result on them says little of new ones.{without} {remedy}"
    )


def _baselines(evidence: Evidence) -> tuple[content.Baseline, ...]:
    dataset, labels = evidence.dataset, evidence.dataset.labels.names
    fitted = dataset.rows("train", "val")
    fitted = fitted[np.isin(fitted, evidence.features.rows)]
    train_y, test_y = dataset.label[fitted], dataset.label[evidence.test_rows]
    groups = dataset.groups_of(evidence.test_rows)
    majority = majority_baseline(train_y, test_y, labels)
    winner = labels[int(np.bincount(train_y, minlength=len(labels)).argmax())]
    found = [
        content.Baseline("chance", content.Estimate(chance_baseline(len(labels)).accuracy)),
        content.Baseline("majority", content.Estimate(majority.accuracy), name=winner),
    ]
    if evidence.floor is not None:
        scores = score(evidence.floor, test_y, labels, groups=groups)
        difference = paired_difference(softmax(evidence.test_logits), evidence.floor, test_y, groups=groups)
        found.append(
            content.Baseline(
                "probe",
                content.Estimate(scores.accuracy, scores.accuracy_low, scores.accuracy_high),
                difference=content.Estimate(*difference),
            )
        )
    if dataset.modality == "text":
        some = stratified_sample(train_y.astype(np.intp), size=WORD_ROWS, seed=0)
        tests = evidence.test_rows
        probabilities = tfidf_baseline(
            read_texts(dataset.samples, fitted[some]),
            train_y[some],
            (
                read_texts(dataset.samples, tests[first : first + WORD_ROWS])
                for first in range(0, len(tests), WORD_ROWS)
            ),
            classes=len(labels),
            seed=0,
        )
        scores = score(probabilities, test_y, labels, groups=groups)
        found.append(
            content.Baseline(
                "tfidf",
                content.Estimate(scores.accuracy, scores.accuracy_low, scores.accuracy_high),
                difference=content.Estimate(
                    *paired_difference(softmax(evidence.test_logits), probabilities, test_y, groups=groups)
                ),
                name=f"on {len(some):,} of the texts" if len(some) < len(fitted) else "",
            )
        )
    return tuple(found)


def _examples(
    suspects: tuple[Suspect, ...], rows: NDArray[np.intp], dataset: Dataset
) -> tuple[content.Example, ...]:
    """The rows with their picture or text."""
    shown = []
    for entry in suspects[:MOST_EXAMPLES]:
        true, predicted = (dataset.labels.names[index] for index in (entry.given, entry.suggested))
        row = int(rows[entry.row])
        shown.append(show_row(dataset, row, true=true, predicted=predicted, probability=entry.probability))
    return tuple(shown)


def show_row(dataset: Dataset, row: int, *, true: str, predicted: str, probability: float) -> content.Example:
    """A row with its picture or text; raises OSError when it cannot be read any more."""
    raw = dataset.samples.read(row)
    return content.Example(
        name=_short(dataset.samples.name(row)),
        true=true,
        predicted=predicted,
        probability=probability,
        image=_thumbnail(raw) if dataset.modality == "image" else None,
        text=str(raw)[:TEXT_CHARACTERS] if dataset.modality == "text" else None,
    )


def _short(name: str) -> str:
    """The end of a long path: what tells rows apart stands there."""
    return name if len(name) <= MOST_NAME else f"…{name[-MOST_NAME + 1 :]}"


def _thumbnail(data: bytes | str) -> bytes:
    """A JPEG at most 160 pixels wide and high."""
    picture = open_picture(cast("bytes", data), most=THUMBNAIL_PIXELS)
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def _joined(probe: ProbeResult) -> content.ThawPoint | None:
    chosen = probe.probe
    if len(chosen.boundaries) == 1:
        return None
    return content.ThawPoint(
        f"{len(chosen.boundaries)} depths joined", content.Estimate(chosen.accuracy, *chosen.interval)
    )


def _feature_space(evidence: Evidence) -> content.FeatureSpace:
    """The pooled features of the rows that are not test, with the classes as colours."""
    features = evidence.features
    last = max(features.arrays)
    picture = project(features.arrays[last], 0)
    rows = features.rows[picture.rows]
    oof_rows, oof = evidence.oof
    predicted = dict(zip(oof_rows.tolist(), oof.argmax(axis=1).tolist(), strict=True))
    label = evidence.dataset.label[rows]
    return content.FeatureSpace(
        xy=tuple((float(x), float(y)) for x, y in picture.xy),
        label=tuple(int(value) for value in label),
        method=picture.method,
        wrong=tuple(
            predicted.get(int(row), int(true)) != int(true) for row, true in zip(rows, label, strict=True)
        ),
    )


def _sections(evidence: Evidence) -> tuple[content.Section, ...]:
    choice = () if evidence.choice is None else (choice_section(evidence.choice),)
    thawed = () if evidence.fit is None else fit_sections(evidence.fit)
    if evidence.cost is None or evidence.trained is None:
        return (*choice, *thawed)
    return (*choice, *thawed, cost_section(evidence.cost, evidence.trained, evidence.training_seconds))


def _settings(evidence: Evidence) -> tuple[Resolved, ...]:
    """The decisions without those that the section on the data shows already."""
    inferred = {entry.what for entry in evidence.dataset.inferred}
    return tuple(entry for entry in evidence.settings if entry.name not in inferred)


def _error(choice: ExecutorChoice) -> str:
    if choice.error is None:
        return "It is PyTorch in fp32 itself."
    return (
        f"Measured on {choice.error.rows} real rows against PyTorch in fp32: "
        f"largest relative error {choice.error.relative_max:.1e}."
    )


def _threshold_note(evidence: Evidence) -> str:
    if evidence.classifier.threshold is not None:
        return ""
    rows = evidence.calibration_rows
    if rows < THRESHOLD_ROWS:
        return f"No abstain threshold: {rows} validation rows are too few to set one."
    target = next(entry.value for entry in evidence.settings if entry.name == "precision_target")
    return f"No abstain threshold: no confidence reaches {target:.0%} right answers with certainty."


def _licence(name: str) -> str | None:
    return next((entry.licence for entry in list_backbones(None) if entry.name == name), None)
