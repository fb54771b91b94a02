"""What a domain's features look like one by one: each domain is read in units of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.heads.design import floored_inverse
from unfreeze.heads.head import Head

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


def moments_of(features: Features) -> Moments:
    """The moments of all rows; spreads are floored as in the probe's design."""
    mean, inverse = {}, {}
    for boundary, block in features.items():
        wide = block.astype(np.float64)
        mean[boundary] = wide.mean(axis=0)
        deviation = torch.from_numpy(wide.std(axis=0))[:, None]
        inverse[boundary] = floored_inverse(deviation).numpy()[:, 0]
    return Moments(mean, inverse)


def joined(features: Features, boundaries: tuple[int, ...]) -> NDArray[np.float32]:
    """What a head that reads these boundaries is given, (rows, width)."""
    return np.concatenate([features[boundary] for boundary in boundaries], axis=1)


def carried(head: Head, *, known: Moments, new: Moments) -> Head:
    """The head for features of the ``new`` moments, which it reads as it read those of the ``known`` ones."""
    mean = {"known": _join(known.mean, head), "new": _join(new.mean, head)}
    old, now = _join(known.inverse, head), _join(new.inverse, head)
    # A feature that never varied where the head was fitted stays what it was there.
    ratio = np.where(old > 0, now / np.where(old > 0, old, 1.0), 0.0)
    name = "hidden" if head.kind == "mlp" else ""
    weight_name, bias_name = (f"{name}.weight", f"{name}.bias") if name else ("weight", "bias")
    weight = head.tensors[weight_name].astype(np.float64)
    bias = head.tensors[bias_name] + weight @ (mean["known"] - ratio * mean["new"])
    tensors = {weight_name: (weight * ratio).astype(np.float32), bias_name: bias.astype(np.float32)}
    return replace(head, tensors=dict(head.tensors) | tensors)


def _join(values: Mapping[int, NDArray[np.float64]], head: Head) -> NDArray[np.float64]:
    return np.concatenate([values[boundary] for boundary in head.boundaries])
