"""Every method on one scene, with what speaks for and against each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.gate import FEWEST_ANSWERS, Candidate, paired, refuse, source_change
from unfreeze.adapting.methods import METHODS
from unfreeze.adapting.scene import NotPossibleError, Proposal, Scene
from unfreeze.adapting.signs import Reader, Signs, agreement
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
        against = "; ".join(found.refused) or "no sign speaks against it"
        progress.say(f"{name}: {against}.")
    return trials, missing


def _try(scene: Scene, name: str, before: Signs, reader: Reader) -> Trial:
    proposal = METHODS[name](scene)
    signs, change = reader.after(proposal), source_change(scene, proposal)
    # Two more fits: only for what nothing else speaks against.
    problems = refuse(before, signs, scene=scene, change=change, agreement=None)
    agreed = None
    if not problems and reader.halves is not None:
        agreed = _halves_agree(scene, reader.halves, name)
        problems = refuse(before, signs, scene=scene, change=change, agreement=agreed)
    return Trial(
        proposal,
        Candidate(
            method=name,
            signs=signs,
            source_change=None if change is None else change[0],
            source_error=None if change is None else change[1],
            agreement=None if agreed is None else agreed[1],
            answered=_answered(scene, name),
            refused=problems,
        ),
    )


def _halves_agree(scene: Scene, parts: tuple[Scene, Scene], name: str) -> tuple[float, float]:
    """How often classifiers from two halves of the source agree on the target, as they are and with the method.

    Of a target in steps, on the newest.
    """
    newest, target = scene.newest, scene.newest_target
    before = agreement(*(part.probabilities(target) for part in parts))
    return before, agreement(*(METHODS[name](part).logits[newest] for part in parts))


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
