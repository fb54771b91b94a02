"""The head that a thawing starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unfreeze.choose.settings import Decisions
from unfreeze.contracts import Backbone
from unfreeze.data.dataset import Dataset
from unfreeze.engine.frozen_pass import Features
from unfreeze.heads.probe import fit_probe
from unfreeze.plan import Plan

if TYPE_CHECKING:
    from torch import nn


def starting_head(
    dataset: Dataset, features: Features, backbone: Backbone, plan: Plan, decisions: Decisions
) -> nn.Module:
    """The head on the pooled feature that the plan asks for: fitted on the training rows, or new.

    The probe that stands beside as the floor has seen the validation rows too; started from it, no epoch could be
    judged by them.
    """
    last, seed = len(backbone.stages), decisions.number("seed")
    if plan.head != "fitted":
        from unfreeze.heads.module import new_head

        return new_head(plan.head, backbone.dim, len(dataset.labels), dropout=plan.dropout, seed=seed)
    chosen = np.isin(features.rows, dataset.rows("train"))
    rows = features.rows[chosen]
    found = fit_probe(
        {last: features.arrays[last][chosen]},
        dataset.label[rows],
        classes=len(dataset.labels),
        boundaries_names={last: backbone.stages[-1].name},
        seed=seed,
        groups=None if dataset.group is None else dataset.group[rows],
        class_weight="balanced" if decisions.text("class_weight") == "balanced" else None,
        kind="mlp" if decisions.text("head") == "mlp" else "linear",
    )
    return found.probe.head.module(dropout=plan.dropout)
