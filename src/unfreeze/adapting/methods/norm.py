"""``norm``: normalisation statistics of the target, in the network and in what its head reads (Li et al. 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.moments import carried, joined, moments_of, rows_of
from unfreeze.adapting.scene import NotPossibleError, Proposal, Scene


def propose(scene: Scene) -> Proposal:
    """The classifier's own head, and the network's weights, with the target's statistics.

    Running statistics of the network are estimated anew where it has them and they are the source's; the head's inputs
    are brought to the mean and spread that they had on the source, where that is at hand. Of a target in steps all of
    them are those of the newest.
    """
    head, unseen, features, backbone = scene.classifier.head, scene.unseen, scene.target, None
    notes = []
    fresh = None if scene.restated is None else scene.restated()
    if fresh is not None:
        backbone, features = fresh
        notes.append("running statistics of its normalisation layers are those of the target")
    if scene.train is not None:
        boundaries = set(head.boundaries)
        known = moments_of({b: block for b, block in scene.train.features.items() if b in boundaries})
        newest = rows_of({b: block for b, block in features.items() if b in boundaries}, scene.newest)
        new = moments_of(newest)
        head = carried(head, known=known, new=new)
        unseen = None if unseen is None else carried(unseen, known=known, new=new)
        notes.append("the head reads features in the target's own mean and spread")
    if not notes:
        raise NotPossibleError(
            "the network keeps no normalisation statistics, and the source's features are not at hand"
        )
    return Proposal(
        method="norm",
        head=head,
        logits=head.logits(joined(features, head.boundaries)).astype(float),
        val_logits=_on_source(scene),
        unseen=unseen,
        backbone=backbone,
        notes=tuple(notes),
    )


def _on_source(scene: Scene) -> NDArray[np.float64] | None:
    """In its own statistics the source is answered as before."""
    if scene.val_answers is None:
        return None
    return np.asarray(np.log(np.maximum(scene.val_answers, 1e-12)) * scene.classifier.temperature)
