"""Two answers to the same rows: the difference of their accuracies, and how well it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

# The share of draws that an interval leaves out.
OUTSIDE = 0.05


def reach(error: float, *, among: int = 1) -> float:
    """Half of a 95 % interval of so many standard errors, for the best of ``among`` measured alike (Bonferroni)."""
    return NormalDist().inv_cdf(1 - OUTSIDE / 2 / among) * error


def pooled(measured: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Gain and standard error of several that were found independently, each weighted by its certainty."""
    total = sum(1 / error**2 for _, error in measured)
    return sum(gain / error**2 for gain, error in measured) / total, total**-0.5


def paired_gain(right: NDArray[np.bool_], floor_right: NDArray[np.bool_]) -> float:
    """The difference of two accuracies on the same rows."""
    return float(right.mean() - floor_right.mean())


def paired_error(right: NDArray[np.bool_], floor_right: NDArray[np.bool_]) -> float:
    """Standard error of the difference of two accuracies on the same rows; never 0, however alike they are."""
    risen, fallen = discordant(right, floor_right)
    return math.sqrt(risen + fallen + 1) / len(right)


def discordant(right: NDArray[np.bool_], floor_right: NDArray[np.bool_]) -> tuple[int, int]:
    """On how many rows the first alone is right, and the second alone."""
    return int((right & ~floor_right).sum()), int((~right & floor_right).sum())
