"""How sure a share of some rows is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# The share of draws that an interval leaves out.
OUTSIDE = 0.05
# The 97.5th percentile of the standard normal distribution.
NORMAL_95 = 1.959964


def by_group(values: NDArray[np.number], groups: NDArray[np.integer] | None) -> NDArray[np.float64]:
    """The sums of values (rows,) over each group, (groups,); without groups every row is one."""
    if groups is None:
        return values.astype(np.float64)
    code = np.unique(groups, return_inverse=True)[1]
    return np.bincount(code, weights=values).astype(np.float64)


def effective_rows(right: NDArray[np.bool_], groups: NDArray[np.integer] | None) -> float:
    """How many rows that know nothing of each other tell as much of the share that is right as these rows do.

    Rows of a group may stand and fall together: the share's variance is taken between the groups, with Student's factor
    for so few of them (Korn and Graubard 1998). Where all are right, or none, a group counts as a row.
    """
    rows = len(right)
    sums = by_group(right - right.mean(), groups)
    if len(sums) == rows:
        return float(rows)
    spread, between = float(right.var()), float(sums @ sums)
    if len(sums) < 2 or not spread:
        return float(len(sums))
    from scipy.special import stdtrit

    variance = len(sums) / (len(sums) - 1) * between / rows**2
    factor = NORMAL_95 / float(stdtrit(len(sums) - 1, 0.975))
    return min(float(rows), max(1.0, factor**2 * spread / variance)) if variance else float(rows)


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """The 95 % score interval of a share of n rows (Wilson 1927); two rows that are both right are not 100 % sure.

    ``n``: of rows in groups, the ``effective_rows``.
    """
    square = NORMAL_95**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = NORMAL_95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # Rounding must not put the share itself outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
