"""Linear heads at every depth, averaged: where the deepest features have moved, earlier ones often have not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.adapting.moments import Features, Moments, joined
from unfreeze.heads.design import Design, make_design
from unfreeze.heads.head import Head
from unfreeze.heads.logistic import solve
from unfreeze.heads.problem import Folds

# Ten times weaker or thirty times stronger gave the same on solar cells, target and source weighed together
# (bench/adapt.py).
PENALTY = 0.01
# Heads are fitted many times over: an error of this size in nats is far below what labels add.
TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Rule:
    """The mean of linear heads, one a depth, that read standardised features.

    ``weight``: (classes, width) by boundary, ``bias`` (classes,), both divided by the number of depths.
    """

    weight: Mapping[int, NDArray[np.float64]]
    bias: NDArray[np.float64]

    def logits(self, standardised: Features) -> NDArray[np.float64]:
        """(rows, classes)."""
        found = sum(standardised[boundary] @ weight.T for boundary, weight in self.weight.items())
        return np.asarray(found + self.bias, dtype=np.float64)

    def head(self, moments: Moments) -> Head:
        """The same as a head that reads raw features of these moments."""
        weights = {boundary: weight * moments.inverse[boundary] for boundary, weight in self.weight.items()}
        bias = self.bias - sum(weight @ moments.mean[boundary] for boundary, weight in weights.items())
        return Head(
            kind="linear",
            boundaries=tuple(weights),
            tensors={
                "weight": np.concatenate(list(weights.values()), axis=1).astype(np.float32),
                "bias": np.asarray(bias, dtype=np.float32),
            },
        )


@dataclass(frozen=True, eq=False)
class Depths:
    """Rows at every depth, prepared once for fits with other labels and weights."""

    designs: Mapping[int, Design]
    classes: int

    def fit(self, y: NDArray[np.intp], weight: NDArray[np.float64]) -> Rule:
        """The heads of labels ``y`` (rows,) with row weights; a row of weight 0 takes no part.

        Classes have equal weight together, whatever their rows. One that is absent is answered as if it had been seen
        less than once.
        """
        totals = np.bincount(y, weights=weight, minlength=self.classes)
        share = np.divide(1.0, totals, out=np.zeros(self.classes), where=totals > 0)
        balanced = weight * share[y]
        balanced /= balanced.sum()
        column = torch.from_numpy(balanced.astype(np.float32))[:, None]
        present = torch.from_numpy(totals > 0)[None]
        count = torch.tensor([float(np.count_nonzero(weight))])
        weights, bias = {}, np.zeros(self.classes)
        for boundary, design in self.designs.items():
            width = design.width
            folds = Folds(
                weight=column,
                shift=torch.zeros(width, 1),
                scale=torch.ones(width, 1),
                present=present,
                count=count,
            )
            found = solve(
                design, y, folds, fold=np.zeros(1, np.intp), penalty=np.array([PENALTY]), tolerance=TOLERANCE
            )
            weights[boundary] = found.weight[:, 0].T / len(self.designs)
            bias += found.bias[0] / len(self.designs)
        return Rule(weights, bias)


def depths_of(parts: Sequence[Features], *, classes: int) -> Depths:
    """The rows of all ``parts``, each standardised already, one after the other."""
    return Depths(
        {
            boundary: make_design([np.concatenate([part[boundary] for part in parts])], name=str(boundary))
            for boundary in parts[0]
        },
        classes,
    )


def fit_joined(
    parts: Sequence[Features],
    boundaries: tuple[int, ...],
    y: NDArray[np.intp],
    weight: NDArray[np.float64],
    *,
    classes: int,
) -> Rule:
    """One head on all ``boundaries`` together, as a classifier has it; ``parts`` as in ``depths_of``."""
    rows = np.concatenate([joined(part, boundaries) for part in parts])
    fitted = depths_of([{0: rows}], classes=classes).fit(y, weight)
    ends = np.cumsum([parts[0][boundary].shape[1] for boundary in boundaries])[:-1]
    weights = np.split(fitted.weight[0], ends, axis=1)
    return Rule(dict(zip(boundaries, weights, strict=True)), fitted.bias)
