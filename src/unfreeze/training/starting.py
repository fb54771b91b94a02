"""The head that a thawing starts from, and the one that a training on pairs leaves to be fitted.

Both read the pooled feature alone, which is where a training has its head, even where the probe reads several depths
joined; the result is compared with that probe all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.contracts import Executor
from unfreeze.errors import RequestError
from unfreeze.heads.design import make_design
from unfreeze.heads.folds import can_be_held_out
from unfreeze.heads.head import Head
from unfreeze.heads.probe import fit_probe
from unfreeze.heads.search import fit_head
from unfreeze.plan import Plan
from unfreeze.training.material import Material

if TYPE_CHECKING:
    from torch import nn

# Rows of one batch when nothing is trained.
BATCH_ROWS = 32
# The penalty of all rows together where none can be chosen: scikit-learn's default, C = 1.
PENALTY_OF_ROWS = 1.0


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
    return _fit(material, features.arrays[last][material.places(rows)], rows).module(dropout=plan.dropout)


def fitted_anew(material: Material, exact: Executor, rows: NDArray[np.intp]) -> Head:
    """A head fitted on what a trained network's executor makes of these rows, those that it was trained on."""
    return _fit(material, pooled_features(material, exact, rows), rows)


def pooled_features(material: Material, exact: Executor, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """The pooled features (rows, dim) that an executor gives, in its last summary."""
    inputs = material.inputs().select(material.places(rows))
    order = np.arange(len(rows))
    features = [
        exact(inputs.batch(order[first : first + BATCH_ROWS], None)).summaries[-1].numpy()
        for first in range(0, len(rows), BATCH_ROWS)
    ]
    return np.concatenate(features)


def _fit(material: Material, features: NDArray[np.float32], rows: NDArray[np.intp]) -> Head:
    dataset, decisions, last = material.dataset, material.decisions, len(material.backbone.stages)
    y = dataset.label[rows].astype(np.intp)
    name, balanced = material.backbone.stages[-1].name, decisions.text("class_weight") == "balanced"
    if not can_be_held_out(y):
        if decisions.text("head") == "mlp":
            raise RequestError(
                "--head mlp needs a class with two rows to train on, by which its epochs are chosen: add some, or "
                "leave the head linear."
            )
        # One row a class: nothing can be held out that a penalty could be chosen by.
        return fit_head(
            make_design([features], name=name),
            y,
            boundaries=(last,),
            penalty=PENALTY_OF_ROWS / len(y),
            classes=len(dataset.labels),
            balanced=balanced,
        )
    found = fit_probe(
        {last: features},
        y,
        classes=len(dataset.labels),
        boundaries_names={last: name},
        seed=decisions.number("seed"),
        groups=material.together(rows),
        class_weight="balanced" if balanced else None,
        kind="mlp" if decisions.text("head") == "mlp" else "linear",
    )
    return found.probe.head
