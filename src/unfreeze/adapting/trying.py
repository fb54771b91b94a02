"""Every method on one scene, with what speaks for and against each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.depths import Rule, depths_of
from unfreeze.adapting.gate import FEWEST_ANSWERS, Candidate, paired, refuse, source_change
from unfreeze.adapting.methods import METHODS
from unfreeze.adapting.moments import joined, moments_of
from unfreeze.adapting.scene import NotPossibleError, Proposal, Scene
from unfreeze.adapting.signs import Reader, Signs, agreement
from unfreeze.heads.head import Head
from unfreeze.progress import Progress

ANSWER_FOLDS = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """A proposal and what was found of it."""

    proposal: Proposal
    candidate: Candidate


def try_methods(
    scene: Scene, names: Sequence[str], before: Signs, reader: Reader, progress: Progress
) -> tuple[list[Trial], dict[str, str]]:
    """The trials, and why the other methods had nothing to propose."""
    trials, missing = [], {}
    for name in names:
        try:
            trials.append(_try(scene, name, before, reader))
        except NotPossibleError as reason:
            missing[name] = str(reason)
            progress.say(f"{name}: not possible here, {reason}.")
            continue
        found = trials[-1].candidate
        against = f"refused: {'; '.join(found.refused)}" if found.refused else "nothing speaks against it"
        progress.say(f"{name}: {against}.")
    return trials, missing


def _try(scene: Scene, name: str, before: Signs, reader: Reader) -> Trial:
    proposal = METHODS[name](scene)
    signs, change = reader.after(proposal), source_change(scene, proposal)
    # Two more fits: only for what nothing else speaks against.
    problems = refuse(before, signs, scene=scene, change=change, agreement=None)
    halves = None
    if not problems and scene.train is not None:
        halves = _halves_agree(scene, name)
        problems = refuse(before, signs, scene=scene, change=change, agreement=halves)
    return Trial(
        proposal,
        Candidate(
            method=name,
            signs=signs,
            source_change=None if change is None else change[0],
            source_error=None if change is None else change[1],
            agreement=None if halves is None else halves[1],
            answered=_answered(scene, name),
            refused=problems,
        ),
    )


def _halves_agree(scene: Scene, name: str) -> tuple[float, float]:
    """How often classifiers from two halves of the source agree on the target, as they are and with the method."""
    halves = list(_halves(scene))
    before = agreement(*(half.probabilities(scene.target) for half in halves))
    return before, agreement(*(METHODS[name](half).logits for half in halves))


def _halves(scene: Scene) -> Iterator[Scene]:
    """The scene with each half of the source's training rows, and a head of the classifier's depths fitted on it."""
    assert scene.train is not None
    boundaries = scene.classifier.head.boundaries
    moments = moments_of({boundary: scene.train.features[boundary] for boundary in boundaries})
    read = moments.standardise({boundary: scene.train.features[boundary] for boundary in boundaries})
    depths = depths_of([{0: joined(read, boundaries)}], classes=scene.classes)
    first = np.random.default_rng(scene.seed).random(len(scene.train.y)) < 0.5
    for half in (first, ~first):
        rule = depths.fit(scene.train.y, half.astype(float))
        ends = np.cumsum([read[boundary].shape[1] for boundary in boundaries])[:-1]
        weights = np.split(rule.weight[0], ends, axis=1)
        head: Head = Rule(dict(zip(boundaries, weights, strict=True)), rule.bias).head(moments)
        yield replace(
            scene,
            classifier=replace(scene.classifier, head=head),
            train=scene.train.select(np.flatnonzero(half)),
        )


def _answered(scene: Scene, name: str) -> tuple[float, float] | None:
    """The gain in accuracy on the rows a person labelled, each labelled by a fit that did not know its label."""
    count = len(scene.asked)
    if count < FEWEST_ANSWERS:
        return None
    fold = np.random.default_rng(scene.seed).permutation(np.arange(count) % ANSWER_FOLDS)
    after = np.zeros(count, dtype=bool)
    for held in range(ANSWER_FOLDS):
        kept = fold != held
        part = replace(scene, asked=scene.asked[kept], answers=scene.answers[kept])
        after[~kept] = _right(METHODS[name](part).logits, scene, ~kept)
    before = scene.probabilities(scene.target)[scene.asked].argmax(axis=1) == scene.answers
    return paired(before, after)


def _right(logits: NDArray[np.float64], scene: Scene, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(logits[scene.asked[chosen]].argmax(axis=1) == scene.answers[chosen])
