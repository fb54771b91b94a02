"""The probe, its calibration, and the test rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier, Threshold
from unfreeze.choose.settings import Decisions
from unfreeze.contracts import Backbone, Executor
from unfreeze.data.dataset import Dataset
from unfreeze.engine.choice import ExecutorChoice
from unfreeze.engine.frozen_pass import Features, FeatureStore, compute_features, open_store
from unfreeze.errors import DataError
from unfreeze.evaluate.calibration import THRESHOLD_ROWS, abstain_threshold, fit_temperature, softmax
from unfreeze.heads.folds import can_be_held_out, held_together
from unfreeze.heads.head import Head
from unfreeze.heads.probe import Probe, ProbeResult, fit_probe
from unfreeze.heads.weights import needs_class_weights
from unfreeze.progress import Progress
from unfreeze.training.prepare import boundaries_of, name_left_out


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier, and the predictions it was calibrated with.

    ``logits`` and ``y`` belong to ``rows`` of the data set, none of which the logits' head was fitted on; ``how`` says
    why that is so. ``exact``: what measures a trained network in fp32. ``spare``: the same of weights that a training
    did not take, with their name.
    """

    classifier: Classifier
    logits: NDArray[np.float32]
    y: NDArray[np.int32]
    rows: NDArray[np.intp]
    how: str
    exact: ExecutorChoice | None = None
    spare: tuple[str, Fitted] | None = None

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Calibrated probabilities (rows, classes)."""
        return softmax(self.logits, self.classifier.temperature)


@dataclass(frozen=True, eq=False)
class Tested:
    """What a classifier says of the readable test rows, and the executor that ran it."""

    rows: NDArray[np.intp]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    executor: Executor


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
    if not can_be_held_out(y):
        raise DataError(
            f"{dataset.source} has one row of each class to learn from: a class needs a second one, so that something "
            "can be held out."
        )
    balanced, reason = needs_class_weights([int(n) for n in np.bincount(y, minlength=len(dataset.labels))])
    if decisions.text("recipe") == "classic":
        beside = f"the classic guide weighs no classes; for the probe that stands beside it: {reason}"
        decisions.record("class_weight", "none", "default", beside)
    else:
        decisions.record("class_weight", "balanced" if balanced else "none", "data", reason)
    kind = decisions.text("head")
    probe = fit_probe(
        {boundary: array[chosen] for boundary, array in features.arrays.items()},
        y,
        classes=len(dataset.labels),
        boundaries_names={index + 1: stage.name for index, stage in enumerate(backbone.stages)},
        seed=decisions.number("seed"),
        groups=held_together(features.keys[chosen], dataset.groups_of(features.rows[chosen])),
        class_weight="balanced" if balanced else None,
        kind="mlp" if kind == "mlp" else "linear",
    )
    decisions.record("regularisation", probe.probe.regularisation, "probe", " ".join(probe.reasons))
    depths = ", ".join(backbone.stages[boundary - 1].name for boundary in probe.probe.boundaries)
    decisions.record("head_reads", depths, "probe", "the choice with the lower log-loss out of fold")
    progress.say(f"Probe: {probe.probe.accuracy:.1%} right out of fold, reading {depths}.")
    return probe


def calibrate_probe(
    dataset: Dataset, features: Features, probe: Probe, backbone: Backbone, decisions: Decisions
) -> Fitted:
    """The probe as a classifier, with temperature and threshold from rows that its head did not see."""
    head = probe.head
    chosen = fit_rows(dataset, features)
    held = ~chosen
    if int(held.sum()) >= THRESHOLD_ROWS:
        rows = features.rows[held]
        joined = np.concatenate([features.arrays[b][held] for b in head.boundaries], axis=1)
        logits, how = head.logits(joined), f"{len(rows):,} validation rows that were given"
    else:
        scored = probe.held_out
        rows = features.rows[chosen][scored]
        logits, how = probe.oof_logits[scored], f"out of fold over {len(rows):,} rows that are not test"
    return calibrate(backbone, head, dataset, rows, logits, how=how, decisions=decisions)


def calibrate(
    backbone: Backbone,
    head: Head,
    dataset: Dataset,
    rows: NDArray[np.intp],
    logits: NDArray[np.float32],
    *,
    how: str,
    decisions: Decisions,
) -> Fitted:
    """A classifier with the temperature and the threshold that these rows give; they must be unseen by its fit."""
    y = dataset.label[rows]
    temperature = fit_temperature(logits, y)
    wished = float(str(decisions.value("precision_target")))
    threshold = fit_threshold(
        softmax(logits, temperature), y, precision=wished, groups=dataset.groups_of(rows)
    )
    classifier = Classifier(
        backbone=backbone, head=head, labels=dataset.labels, temperature=temperature, threshold=threshold
    )
    return Fitted(classifier=classifier, logits=logits, y=y, rows=rows, how=how)


def fit_threshold(
    probabilities: NDArray[np.float64],
    y: NDArray[np.integer],
    *,
    precision: float,
    groups: NDArray[np.integer] | None,
) -> Threshold | None:
    """What a classifier abstains below; None of too few rows, and where no confidence reaches the precision."""
    if len(y) < THRESHOLD_ROWS:
        return None
    found = abstain_threshold(probabilities, y, precision=precision, groups=groups)
    if found is None:
        return None
    return Threshold(probability=found.confidence, precision=found.precision_low, coverage=found.coverage)


def score_rows(
    classifier: Classifier,
    dataset: Dataset,
    rows: NDArray[np.intp],
    *,
    executor: Executor,
    decisions: Decisions,
    progress: Progress,
    what: str,
    store: FeatureStore | None = None,
) -> tuple[NDArray[np.float32], Features]:
    """Logits of the readable ones of ``rows``, in fp32 from the raw inputs; and what the pass gave.

    ``what``: they are counted as. ``store``: where features are looked up and kept; None for numbers that are final.
    Raises DataError when none can be read.
    """
    if store is None:
        what += ", from the raw inputs"
    passed = compute_features(
        dataset,
        classifier.backbone,
        executor=executor,
        store=store,
        rows=rows,
        boundaries=tuple(sorted(classifier.head.boundaries)),
        batch_size=decisions.number("batch_size"),
        progress=lambda done, total: progress.count(what, done, total),
    )
    name_left_out(passed, progress)
    if not len(passed.rows):
        raise DataError(f"None of the {len(rows):,} rows of {dataset.source} to measure on can be read.")
    return classifier.head.logits(passed.joined(classifier.head.boundaries)), passed


def test_classifier(
    classifier: Classifier,
    dataset: Dataset,
    exact: Executor,
    decisions: Decisions,
    progress: Progress,
    *,
    what: str,
    store: FeatureStore | None,
) -> tuple[Tested, Features]:
    """What the classifier says of the test rows, and what the pass gave; ``exact``: an fp32 executor of its weights.

    ``what`` and ``store``: see ``score_rows``.
    """
    logits, passed = score_rows(
        classifier,
        dataset,
        dataset.rows("test"),
        executor=exact,
        decisions=decisions,
        progress=progress,
        what=what,
        store=store,
    )
    return Tested(passed.rows, logits, softmax(logits, classifier.temperature), exact), passed


def test_floor(
    classifier: Classifier, dataset: Dataset, exact: Executor, decisions: Decisions, progress: Progress
) -> tuple[Tested, Features]:
    """What the probe says of the test rows, to stand beside a trained network, and what the pass gave.

    It comes from stored features, as its head does: those that one training computes all others read.
    """
    backbone = classifier.backbone
    # The request's word: what is decided says by now what came of it.
    store = open_store(backbone, exact, boundaries_of(backbone), use=decisions.request.store or "auto")
    what = "Test rows through the probe"
    return test_classifier(classifier, dataset, exact, decisions, progress, what=what, store=store)
