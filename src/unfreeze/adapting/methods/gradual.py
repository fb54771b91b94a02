"""``gradual``: self-training in small steps along an order of the target (Kumar, Ma and Liang 2020).

A change that is too large at once is small between neighbours. Each step labels its rows with the rule of the step
before, drops the least confident tenth, and fits the rule anew on hard labels, as published.
"""

from __future__ import annotations

import numpy as np

from unfreeze.adapting.depths import depths_of
from unfreeze.adapting.methods.common import Source, propose_rule
from unfreeze.adapting.methods.self_training import ASKED_WEIGHT, choose_labels
from unfreeze.adapting.moments import moments_of, rows_of
from unfreeze.adapting.scene import NotPossibleError, Proposal, Scene
from unfreeze.evaluate.calibration import softmax

KEPT = 0.9


def propose(scene: Scene) -> Proposal:
    """Heads at every depth after the last step, which is what they are meant for."""
    if scene.order is None:
        raise NotPossibleError("nothing orders the target's rows: name a column with --order-column")
    steps = np.unique(scene.order)
    if len(steps) < 2:
        raise NotPossibleError("all rows of the target belong to one step")
    source = None if scene.train is None else Source.of(scene.train.features, scene.train.y)
    rule = None
    if source is not None:
        rule = depths_of([source.features], classes=scene.classes).fit(source.y, np.ones(len(source.y)))
    for step in steps:
        rows = np.flatnonzero(scene.order == step)
        here = rows_of(scene.target, rows)
        new = moments_of(here)
        read = new.standardise(here)
        # The first step is the nearest to what the classifier knows.
        answers = scene.probabilities(here) if rule is None else softmax(rule.logits(read))
        labels, chosen = choose_labels(answers, share=KEPT)
        weight = chosen.astype(float)
        known, places = np.isin(rows, scene.asked), np.searchsorted(rows, scene.asked)
        mine = places[np.isin(scene.asked, rows)]
        labels[mine], weight[known] = scene.answers[np.isin(scene.asked, rows)], ASKED_WEIGHT
        rule = depths_of([read], classes=scene.classes).fit(labels, weight)
    assert rule is not None
    note = f"{len(steps)} steps; the rule is that of the last one, {len(rows):,} rows"
    return propose_rule("gradual", scene, rule, new, source, notes=(note,))
