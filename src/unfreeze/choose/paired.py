"""Two answers to the same rows: the difference of their accuracies, and how well it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from unfreeze.proportions import OUTSIDE, by_group


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


def paired_error(
    right: NDArray[np.bool_], floor_right: NDArray[np.bool_], groups: NDArray[np.integer] | None = None
) -> float:
    """Standard error of the difference of two accuracies on the same rows; never 0, however alike they are.

    ``groups`` (rows,): codes of rows that may rise and fall together.
    """
    return _deviation(right, floor_right, groups) / len(right)


def paired_score(
    right: NDArray[np.bool_], floor_right: NDArray[np.bool_], groups: NDArray[np.integer] | None = None
) -> float:
    """The difference of two accuracies on the same rows, in its standard errors."""
    return int(right.sum() - floor_right.sum()) / _deviation(right, floor_right, groups)


def _deviation(
    right: NDArray[np.bool_], floor_right: NDArray[np.bool_], groups: NDArray[np.integer] | None
) -> float:
    """The standard deviation of how many more rows are right, as if one more row, or group, differed."""
    sums = by_group(right.astype(np.int8) - floor_right, groups)
    return math.sqrt(float(sums @ sums) + (len(right) / len(sums)) ** 2)


def discordant(right: NDArray[np.bool_], floor_right: NDArray[np.bool_]) -> tuple[int, int]:
    """On how many rows the first alone is right, and the second alone."""
    return int((right & ~floor_right).sum()), int((~right & floor_right).sum())
