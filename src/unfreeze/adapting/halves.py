"""The classifier once more from each half of the source: where the two disagree, at least one of them is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.depths import fit_joined
from unfreeze.adapting.moments import moments_of, rows_of
from unfreeze.adapting.scene import Known, Scene


def halves(scene: Scene) -> tuple[Scene, Scene] | None:
    """The scene with each half of the source's training rows, and a head of the classifier's depths fitted on it.

    None without a source.
    """
    if scene.train is None:
        return None
    varied = scene.strong_train
    boundaries = scene.classifier.head.boundaries
    known = {boundary: scene.train.features[boundary] for boundary in boundaries}
    moments = moments_of(known)
    read = moments.standardise(known)
    first = np.random.default_rng(scene.seed).random(len(scene.train.y)) < 0.5

    def learnt_from(half: NDArray[np.bool_], train: Known) -> Scene:
        rule = fit_joined([read], boundaries, train.y, half.astype(float), classes=scene.classes)
        return replace(
            scene,
            classifier=replace(scene.classifier, head=rule.head(moments)),
            train=train.select(np.flatnonzero(half)),
            strong_train=None if varied is None else lambda: rows_of(varied(), half),
        )

    return learnt_from(first, scene.train), learnt_from(~first, scene.train)
