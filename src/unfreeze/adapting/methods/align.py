"""``align``: the source's features with the target's means and correlations, and heads fitted on them (CORAL).

Sun, Feng and Saenko 2016: whiten the source's features, colour them as the target's are. The cheap candidate: one
eigendecomposition a depth, one fit.
"""

from __future__ import annotations

import numpy as np

from unfreeze.adapting.depths import depths_of
from unfreeze.adapting.methods.common import Source, propose_rule
from unfreeze.adapting.moments import moments_of, recolouring
from unfreeze.adapting.scene import NotPossibleError, Proposal, Scene


def propose(scene: Scene) -> Proposal:
    """Heads at every depth, fitted on the source's rows alone, which look like the target's."""
    if scene.train is None:
        raise NotPossibleError("the source's features are not at hand")
    source, new = Source.of(scene.train.features, scene.train.y), moments_of(scene.newest_target)
    target = new.standardise(scene.newest_target)
    coloured = {
        boundary: (block @ recolouring(block, target[boundary])).astype(np.float32)
        for boundary, block in source.features.items()
    }
    rule = depths_of([coloured], classes=scene.classes).fit(source.y, np.ones(len(source.y)))
    return propose_rule("align", scene, rule, new, source)
