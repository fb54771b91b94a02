"""What a domain's features look like one by one: each domain is read in units of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.heads.design import floored_inverse
from unfreeze.heads.head import Head

# Added to the covariance of standardised features, as CORAL does: with fewer rows than features most of its eigenvalues
# are nothing but noise.
RIDGE = 1.0

# Features (rows, width) by boundary.
Features = Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean, and one over the floored standard deviation (0 for a constant feature), float64 (width,), by boundary."""

    mean: Mapping[int, NDArray[np.float64]]
    inverse: Mapping[int, NDArray[np.float64]]

    def standardise(self, features: Features) -> dict[int, NDArray[np.float32]]:
        """The features in these units."""
        return {
            boundary: ((block - self.mean[boundary]) * self.inverse[boundary]).astype(np.float32)
            for boundary, block in features.items()
        }

    def restore(self, standardised: Features) -> dict[int, NDArray[np.float32]]:
        """The reverse: features in these units as they are outside; a constant feature is its mean."""
        return {
            boundary: (block * _reciprocal(self.inverse[boundary]) + self.mean[boundary]).astype(np.float32)
            for boundary, block in standardised.items()
        }


def moments_of(features: Features) -> Moments:
    """The moments of all rows; spreads are floored as in the probe's design."""
    mean, inverse = {}, {}
    for boundary, block in features.items():
        wide = block.astype(np.float64)
        mean[boundary] = wide.mean(axis=0)
        deviation = torch.from_numpy(wide.std(axis=0))[:, None]
        inverse[boundary] = floored_inverse(deviation).numpy()[:, 0]
    return Moments(mean, inverse)


def rows_of(features: Features, rows: NDArray[np.intp] | NDArray[np.bool_]) -> dict[int, NDArray[np.float32]]:
    """These rows at every boundary: by their positions, or by a mask over all of them."""
    return {boundary: block[rows] for boundary, block in features.items()}


def joined(features: Features, boundaries: tuple[int, ...]) -> NDArray[np.float32]:
    """What a head that reads these boundaries is given, (rows, width)."""
    return np.concatenate([features[boundary] for boundary in boundaries], axis=1)


def carried(head: Head, *, known: Moments, new: Moments) -> Head:
    """The head for features of the ``new`` moments, which it reads as it read those of the ``known`` ones."""
    mean = {"known": _join(known.mean, head), "new": _join(new.mean, head)}
    old, now = _join(known.inverse, head), _join(new.inverse, head)
    # A feature that never varied where the head was fitted stays what it was there.
    ratio = now * _reciprocal(old)
    name = "hidden" if head.kind == "mlp" else ""
    weight_name, bias_name = (f"{name}.weight", f"{name}.bias") if name else ("weight", "bias")
    weight = head.tensors[weight_name].astype(np.float64)
    bias = head.tensors[bias_name] + weight @ (mean["known"] - ratio * mean["new"])
    tensors = {weight_name: (weight * ratio).astype(np.float32), bias_name: bias.astype(np.float32)}
    return replace(head, tensors=dict(head.tensors) | tensors)


def transport(rows: Features, *, known: Features, new: Features) -> dict[int, NDArray[np.float32]]:
    """The rows of the known domain as the new one would show them, were it another mean, spread and correlation alone.

    ``known`` and ``new`` are what these are taken from. A labelled row keeps its label on the way: what a classifier
    makes of such rows is what it would make of the new domain.
    """
    before, after = moments_of(known), moments_of(new)
    here, source, target = before.standardise(rows), before.standardise(known), after.standardise(new)
    return after.restore(
        {b: (block @ recolouring(source[b], target[b])).astype(np.float32) for b, block in here.items()}
    )


def recolouring(known: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float64]:
    """What standardised rows of the known domain are multiplied by for the new one's correlations (width, width)."""
    return _power(known, -0.5) @ _power(new, 0.5)


def _power(rows: NDArray[np.float32], exponent: float) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    covariance = wide.T @ wide / len(wide) + RIDGE * np.eye(wide.shape[1])
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * values**exponent) @ vectors.T)


def _reciprocal(inverse: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)


def _join(values: Mapping[int, NDArray[np.float64]], head: Head) -> NDArray[np.float64]:
    return np.concatenate([values[boundary] for boundary in head.boundaries])
