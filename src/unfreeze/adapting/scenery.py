"""From a run and a target to a scene: both domains through the network, and the rows that a person named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.gate import SOURCE_MARGIN, paired
from unfreeze.adapting.moments import Features, joined
from unfreeze.adapting.opening import Target
from unfreeze.adapting.passes import Passes, has_statistics
from unfreeze.adapting.request import THRESHOLD, AdaptRequest
from unfreeze.adapting.scene import Known, Proposal, Scene
from unfreeze.bundle.classifier import Classifier
from unfreeze.contracts import Backbone
from unfreeze.data.dataset import Dataset, Part
from unfreeze.engine.frozen_pass import Features as Passed
from unfreeze.errors import DataError
from unfreeze.evaluate.calibration import softmax
from unfreeze.grafts import can_be_merged
from unfreeze.heads.design import make_design
from unfreeze.heads.folds import assign_folds, stratified_sample
from unfreeze.heads.head import Head
from unfreeze.heads.search import fit_head, search_penalty
from unfreeze.heads.weights import needs_class_weights
from unfreeze.progress import Progress
from unfreeze.runtime.remote import scrubbed
from unfreeze.training.material import Material
from unfreeze.training.prepare import name_left_out

# Rows of each domain that an adaptation learns from; more make it slower, and hardly surer.
MOST_ROWS = 5_000
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Scenery:
    """A scene, and where its target rows stand.

    ``rows``: positions in the target's data set of the scene's first rows; after them come those of the named labels.
    ``val_in``: features of the source's validation rows in a changed network.
    """

    scene: Scene
    rows: NDArray[np.intp]
    val_in: Callable[[Backbone], Features]

    def accuracy_on_source(self, chosen: Proposal | None) -> tuple[float, float] | None:
        """Accuracy on the source's validation rows as they come, of the source's classifier and of what is chosen.

        None without a source. Both by heads that have not learnt from these rows. A method may read either domain in
        units of its own; what is saved knows the target's alone.
        """
        scene = self.scene
        if scene.val is None or scene.val_answers is None:
            return None
        before = float((scene.val_answers.argmax(axis=1) == scene.val.y).mean())
        if chosen is None:
            return before, before
        head = chosen.head if chosen.unseen is None else chosen.unseen
        features = scene.val.features if chosen.backbone is None else self.val_in(chosen.backbone)
        logits = head.logits(joined(features, head.boundaries))
        return before, float((logits.argmax(axis=1) == scene.val.y).mean())


def build_scenery(
    classifier: Classifier,
    source: Dataset | None,
    target: Target,
    named: Dataset | None,
    request: AdaptRequest,
    progress: Progress,
    *,
    seen: bool,
) -> Scenery:
    """Compute all features; ``seen``: whether the head was fitted on the source's validation rows too.

    Raises DataError when no row of the target can be read.
    """
    wanted = _sample(len(target.dataset), request.seed)
    passes = Passes.of(
        classifier.backbone,
        target.dataset,
        wanted,
        device=request.device,
        seed=request.seed,
        progress=progress,
    )
    passed = passes.features(target.dataset, wanted, "target")
    name_left_out(passed, progress)
    if not len(passed.rows):
        raise DataError(
            f"None of the {len(wanted):,} rows of {', '.join(map(scrubbed, request.target))} can be read."
        )
    if len(wanted) < len(target.dataset):
        progress.say(
            f"It learns from {len(wanted):,} of the target's {len(target.dataset):,} rows, drawn at random."
        )
    features, asked, labelled = _with_named(passes, passed, named)
    answers = np.zeros(0, dtype=np.intp) if named is None else named.label[labelled].astype(np.intp)
    known = None if source is None else _known(passes, source, classifier, progress, seen=seen)
    steps = None if target.order is None else target.order[passed.rows]
    newest = np.arange(len(passed.rows)) if steps is None else np.flatnonzero(steps == steps.max())
    boundaries = tuple(sorted(classifier.head.boundaries))
    material = passes.material(target.dataset, passed)

    @cache
    def strong() -> Features:
        views = passes.strong(material, "target")
        return {b: np.concatenate([block, features[b][len(block) :]]) for b, block in views.items()}

    @cache
    def restated() -> tuple[Backbone, Features] | None:
        if known is not None and not _keeps_own_statistics(passes, known):
            progress.say("Its running statistics are not the source's but pretraining's: they stay.")
            return None
        changed = passes.restated(material, newest)
        fresh = passes.features_in(changed, boundaries, target.dataset, passed.rows, "new statistics")
        if named is None:
            return changed, fresh
        more = passes.features_in(changed, boundaries, named, labelled, "labelled rows")
        return changed, {b: np.concatenate([block, more[b]]) for b, block in fresh.items()}

    # An adapter between the layers cannot be saved with other statistics below it.
    fixed = classifier.adapter is not None and not can_be_merged(classifier.adapter.files)
    scene = Scene(
        classifier=classifier,
        train=None if known is None else known.train,
        val=None if known is None else known.val,
        unseen=None if known is None else known.head,
        val_answers=None if known is None else _answers(known, classifier.temperature),
        target=features,
        seed=request.seed,
        threshold=THRESHOLD if request.threshold is None else request.threshold,
        order=None if steps is None else _with_last(steps, len(asked)),
        asked=asked,
        answers=answers,
        strong=strong,
        strong_train=None if known is None else cache(lambda: passes.strong(known.material, "source")),
        restated=restated if has_statistics(classifier.backbone) and not fixed else None,
    )

    def val_in(changed: Backbone) -> Features:
        assert known is not None
        return passes.features_in(
            changed, boundaries, known.material.dataset, known.val_rows, "source's validation rows"
        )

    return Scenery(scene, passed.rows, val_in)


@dataclass(frozen=True, eq=False)
class _Source:
    """The source's training and validation rows; ``material``: the former, and ``val_rows``: where the latter stand.

    ``head``: the classifier's, or one fitted like it on the training rows alone where it has learnt from all.
    """

    train: Known
    val: Known
    head: Head
    material: Material
    val_rows: NDArray[np.intp]


def _keeps_own_statistics(passes: Passes, source: _Source) -> bool:
    """Whether the classifier still knows the source when running statistics are estimated on the source itself.

    A network that was trained with pretraining's statistics frozen, as most are, takes more harm from any others than a
    new domain does: Lite0's probe on solar cells falls from 0.82 to 0.65 on its own domain.
    """
    head, val = source.head, source.val
    boundaries = tuple(sorted(head.boundaries))
    changed = passes.restated(source.material, np.arange(len(source.train.y)))
    fresh = passes.features_in(
        changed, boundaries, source.material.dataset, source.val_rows, "own statistics"
    )
    before, after = (
        head.logits(joined(features, head.boundaries)).argmax(axis=1) == val.y
        for features in (val.features, fresh)
    )
    change, error = paired(before, after)
    return change + 1.96 * error >= -SOURCE_MARGIN


def _fitted_like(head: Head, train: Known) -> Head:
    """A head of the same depths and classes, fitted on these rows alone as a probe is."""
    design = make_design([joined(train.features, head.boundaries)], name="the source")
    counts = np.bincount(train.y, minlength=head.classes)
    balanced, _ = needs_class_weights([int(count) for count in counts])
    folds = assign_folds(train.y, folds=FOLDS, seed=0)
    found = search_penalty(design, train.y, folds, classes=head.classes, balanced=balanced)
    return fit_head(
        design,
        train.y,
        boundaries=head.boundaries,
        penalty=found.regularisation,
        classes=head.classes,
        balanced=balanced,
    )


def _answers(source: _Source, temperature: float) -> NDArray[np.float64]:
    """What the classifier says of the source's validation rows, which its head has not learnt from."""
    logits = source.head.logits(joined(source.val.features, source.head.boundaries))
    return softmax(logits, temperature)


def _sample(rows: int, seed: int) -> NDArray[np.intp]:
    if rows <= MOST_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))


def _with_last(order: NDArray[np.intp], more: int) -> NDArray[np.intp]:
    """Labels that a person gives are of the newest step."""
    return np.concatenate([order, np.full(more, order.max(), dtype=np.intp)])


def _with_named(
    passes: Passes, passed: Passed, named: Dataset | None
) -> tuple[Features, NDArray[np.intp], NDArray[np.intp]]:
    """The target's features with those of the readable named rows behind them, where these stand, and these rows."""
    if named is None:
        return passed.arrays, np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    found = passes.features(named, np.arange(len(named)), "labelled rows")
    features = {b: np.concatenate([block, found.arrays[b]]) for b, block in passed.arrays.items()}
    places = len(passed.rows) + np.arange(len(found.rows))
    return features, places, found.rows


def _known(
    passes: Passes, source: Dataset, classifier: Classifier, progress: Progress, *, seen: bool
) -> _Source | None:
    """Both parts of the source through the network; None where it has no validation rows.

    ``seen``: whether the classifier's head was fitted on the validation rows too.
    """
    found: list[tuple[Known, Passed]] = []
    parts: tuple[Part, ...] = ("train", "val")
    for part in parts:
        rows = source.rows(part)
        if not len(rows):
            continue
        rows = rows[stratified_sample(source.label[rows].astype(np.intp), size=MOST_ROWS, seed=passes.seed)]
        passed = passes.features(source, rows, f"source, {part}")
        known = Known(passed.arrays, source.label[passed.rows].astype(np.intp), source.groups_of(passed.rows))
        found.append((known, passed))
    if len(found) < 2:
        progress.say("The source has no validation rows: it is left out.")
        return None
    (train, passed), (val, held) = found
    head = _fitted_like(classifier.head, train) if seen else classifier.head
    return _Source(train, val, head, passes.material(source, passed), held.rows)
