"""``labels``: heads at every depth, fitted on the source's rows and the target rows that a person labelled."""

from __future__ import annotations

import numpy as np

from unfreeze.adapting.depths import depths_of
from unfreeze.adapting.methods.common import Source, propose_rule
from unfreeze.adapting.methods.self_training import ASKED_WEIGHT
from unfreeze.adapting.moments import moments_of, rows_of
from unfreeze.adapting.scene import NotPossibleError, Proposal, Scene


def propose(scene: Scene) -> Proposal:
    """Each domain is read in its own units; rows without a label tell nothing but the target's units."""
    if not len(scene.asked):
        raise NotPossibleError("no row of the target is labelled: give some with --target-labels")
    if scene.train is None:
        raise NotPossibleError("the source's features are not at hand")
    source, new = Source.of(scene.train.features, scene.train.y), moments_of(scene.newest_target)
    labelled = new.standardise(rows_of(scene.target, scene.asked))
    weight = label_weight(len(scene.asked), beside=len(source.y))
    rule = depths_of([source.features, labelled], classes=scene.classes).fit(
        np.concatenate([source.y, scene.answers]),
        np.concatenate([np.ones(len(source.y)), np.full(len(scene.asked), weight)]),
    )
    note = f"{len(scene.asked):,} labelled rows of the target, each of which counts as {weight:.1f} of the source's"
    return propose_rule("labels", scene, rule, new, source, notes=(note,))


def label_weight(labels: int, *, beside: int) -> float:
    """What a label of the target counts, in rows of the source.

    A few labels must show beside thousands of rows, but together they weigh no more than those, as long as they are
    fewer: the source knows what the few do not show.
    """
    return float(np.clip(beside / labels, 1.0, ASKED_WEIGHT))
