"""``pseudo-label``: the classic recipe (Lee 2013), the baseline: answers above a fixed confidence are labels, once."""

from __future__ import annotations

import numpy as np

from unfreeze.adapting.depths import fit_joined
from unfreeze.adapting.methods.common import Source, propose_rule
from unfreeze.adapting.moments import Features, moments_of
from unfreeze.adapting.scene import NotPossibleError, Proposal, Scene


def propose(scene: Scene) -> Proposal:
    """The head, fitted again on the source's rows and the target's confident ones, all in the source's units."""
    answers = scene.probabilities(scene.target)
    labels, sure = answers.argmax(axis=1), answers.max(axis=1) >= scene.threshold
    labels[scene.asked], sure[scene.asked] = scene.answers, True
    if not sure.any():
        raise NotPossibleError(f"no answer on the target is as confident as {scene.threshold:g}")
    boundaries = scene.classifier.head.boundaries
    source = None if scene.train is None else Source.of(_at(scene.train.features, boundaries), scene.train.y)
    units = moments_of(_at(scene.newest_target, boundaries)) if source is None else source.moments
    target = units.standardise(_at(scene.target, boundaries))
    parts = [target] if source is None else [source.features, target]
    y = np.zeros(0, dtype=np.intp) if source is None else source.y
    rule = fit_joined(
        parts,
        boundaries,
        np.concatenate([y, labels]),
        np.concatenate([np.ones(len(y)), sure.astype(float)]),
        classes=scene.classes,
    )
    note = f"{int(sure.sum()):,} of {scene.rows:,} answers are as confident as {scene.threshold:g}"
    return propose_rule("pseudo-label", scene, rule, units, source, notes=(note,))


def _at(features: Features, boundaries: tuple[int, ...]) -> Features:
    return {boundary: features[boundary] for boundary in boundaries}
