"""The head that a thawing starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.heads.probe import fit_probe
from unfreeze.plan import Plan
from unfreeze.training.material import Material

if TYPE_CHECKING:
    from torch import nn


def starting_head(material: Material, plan: Plan, rows: NDArray[np.intp]) -> nn.Module:
    """The head on the pooled feature that the plan asks for: fitted on these rows, or new.

    They must be the rows that are trained on. The probe that stands beside as the floor has seen the validation rows
    too; started from it, no epoch could be judged by them.
    """
    dataset, features, decisions = material.dataset, material.features, material.decisions
    last, seed = len(material.backbone.stages), decisions.number("seed")
    if plan.head != "fitted":
        from unfreeze.heads.module import new_head

        width, classes = material.backbone.dim, len(dataset.labels)
        return new_head(plan.head, width, classes, dropout=plan.dropout, seed=seed)
    found = fit_probe(
        {last: features.arrays[last][material.places(rows)]},
        dataset.label[rows],
        classes=len(dataset.labels),
        boundaries_names={last: material.backbone.stages[-1].name},
        seed=seed,
        groups=None if dataset.group is None else dataset.group[rows],
        class_weight="balanced" if decisions.text("class_weight") == "balanced" else None,
        kind="mlp" if decisions.text("head") == "mlp" else "linear",
    )
    return found.probe.head.module(dropout=plan.dropout)
