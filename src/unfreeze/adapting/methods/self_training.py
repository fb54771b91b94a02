"""``self-training``: labels from the classifier's own answers, taken with care, and corrected round by round.

Heads at every depth read each domain in its own units. Answers are aligned to class shares between those of the source
and those that are predicted (as in AdaMatch, Berthelot et al. 2022); each class keeps its own most confident answers
as hard labels, a growing share of them up to nine in ten (Kumar et al. 2020 for both rules; class thresholds that adapt
as in FlexMatch, Zhang et al. 2021); what a row is called in its plain view is learnt on a strongly varied view of it as
well (FixMatch, Sohn et al. 2020); the source's own rows stay in every fit where they are at hand. Of a target in steps
it learns from the newest alone: rows of another step, read in the newest one's units, would be taught wrong labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.depths import Rule, depths_of
from unfreeze.adapting.methods import norm
from unfreeze.adapting.methods.common import Source, propose_rule
from unfreeze.adapting.moments import moments_of, rows_of
from unfreeze.adapting.scene import NotPossibleError, Proposal, Scene
from unfreeze.evaluate.calibration import softmax

# A choice each, tried as they are on all cases of bench/adapt.py.
ROUNDS = 8
# The share of each class's answers that is taken as labels, in the first and in the last round.
FIRST_KEPT, LAST_KEPT = 0.5, 0.9
# Passes over the classes until the shares are as wanted.
ALIGN_ROUNDS = 30
# A label that a person gave counts as this many.
ASKED_WEIGHT = 10.0


def propose(scene: Scene) -> Proposal:
    """Heads at every depth, fitted on source and target."""
    newest, new = scene.newest, moments_of(scene.newest_target)
    target = new.standardise(scene.newest_target)
    views = [target]
    if scene.strong is not None:
        views.append(new.standardise(rows_of(scene.strong(), newest)))
    source = None if scene.train is None else Source.of(scene.train.features, scene.train.y)
    count = 0 if source is None else len(source.y)
    y = np.zeros(0, dtype=np.intp) if source is None else source.y
    depths = depths_of([*([] if source is None else [source.features]), *views], classes=scene.classes)

    def fit(labels: NDArray[np.intp], weight: NDArray[np.float64]) -> Rule:
        # The views of a row share its weight.
        return depths.fit(
            np.concatenate([y, *[labels] * len(views)]),
            np.concatenate([np.ones(count), *[weight / len(views)] * len(views)]),
        )

    if source is None:
        answers = first_answers(scene)[newest]
    else:
        nothing = np.zeros(len(newest))
        answers = softmax(fit(nothing.astype(np.intp), nothing).logits(target))
    asked = np.searchsorted(newest, scene.asked)
    prior = answers.mean(axis=0) if source is None else source.shares(scene.classes)
    for kept in np.linspace(FIRST_KEPT, LAST_KEPT, ROUNDS):
        labels, chosen = choose_labels(align(answers, prior), share=float(kept))
        weight = chosen.astype(float)
        labels[asked], weight[asked] = scene.answers, ASKED_WEIGHT
        rule = fit(labels, weight)
        answers = softmax(rule.logits(target))
    notes = (
        () if source is not None else ("the source's data is not at hand: labels are the model's own alone",)
    )
    return propose_rule("self-training", scene, rule, new, source, notes=notes)


def first_answers(scene: Scene) -> NDArray[np.float64]:
    """What the classifier says of the target before anything is fitted, (rows, classes)."""
    try:
        return softmax(norm.propose(scene).logits, scene.classifier.temperature)
    except NotPossibleError:
        return scene.probabilities(scene.target)


def align(answers: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """The answers (rows, classes) with mean shares half-way between their own and ``prior``."""
    wanted = (answers.mean(axis=0) + prior) / 2
    found = answers
    for _ in range(ALIGN_ROUNDS):
        found = found * (wanted / np.maximum(found.mean(axis=0), 1e-12))
        found = found / found.sum(axis=1, keepdims=True)
    return found


def choose_labels(
    answers: NDArray[np.float64], *, share: float
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Hard labels (rows,), and which of them to learn from: the most confident ``share`` of each class's."""
    labels = answers.argmax(axis=1)
    confidence = answers.max(axis=1)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        best = rows[np.argsort(-confidence[rows], kind="stable")]
        chosen[best[: max(1, round(share * len(rows)))]] = True
    return labels, chosen
