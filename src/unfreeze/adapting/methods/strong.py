"""``strong``: strongly augmented views of the source's rows, and nothing of the target: the baseline to beat."""

from __future__ import annotations

import numpy as np

from unfreeze.adapting.depths import depths_of
from unfreeze.adapting.methods.common import Source, propose_rule
from unfreeze.adapting.scene import NotPossibleError, Proposal, Scene


def propose(scene: Scene) -> Proposal:
    """Heads at every depth, fitted on plain and varied views of the source, which read the target in its units."""
    if scene.train is None or scene.strong_train is None:
        raise NotPossibleError("the source's data is not at hand to be varied")
    source = Source.of(scene.train.features, scene.train.y)
    views = [source.features, source.moments.standardise(scene.strong_train())]
    y = np.concatenate([source.y] * len(views))
    rule = depths_of(views, classes=scene.classes).fit(y, np.ones(len(y)))
    return propose_rule("strong", scene, rule, source.moments, source)
