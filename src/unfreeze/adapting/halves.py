"""The classifier once more from each half of the source: where the two disagree, at least one of them is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from unfreeze.adapting.depths import fit_joined
from unfreeze.adapting.moments import moments_of
from unfreeze.adapting.scene import Scene


def halves(scene: Scene) -> Iterator[Scene]:
    """The scene with each half of the source's training rows, and a head of the classifier's depths fitted on it."""
    assert scene.train is not None
    boundaries = scene.classifier.head.boundaries
    known = {boundary: scene.train.features[boundary] for boundary in boundaries}
    moments = moments_of(known)
    read = moments.standardise(known)
    first = np.random.default_rng(scene.seed).random(len(scene.train.y)) < 0.5
    for half in (first, ~first):
        rule = fit_joined([read], boundaries, scene.train.y, half.astype(float), classes=scene.classes)
        yield replace(
            scene,
            classifier=replace(scene.classifier, head=rule.head(moments)),
            train=scene.train.select(np.flatnonzero(half)),
        )
