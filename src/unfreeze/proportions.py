"""How sure a share of some rows is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# The share of draws that an interval leaves out.
OUTSIDE = 0.05
# The 97.5th percentile of the standard normal distribution.
NORMAL_95 = 1.959964
# What is no wider than this differs by the rounding of sums alone.
ROUNDING = 1e-12


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
    factor = rows * NORMAL_95 / student_reach(len(sums))
    return min(float(rows), max(1.0, factor**2 * spread / between)) if between else float(rows)


def student_reach(count: int) -> float:
    """Half of a 95 % interval of a sum over so many groups, in roots of the sum of squares of what each adds to it.

    Of many it is the normal distribution's 1.96, of few Student's; one group tells nothing.
    """
    if count < 2:
        return math.inf
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 1 - OUTSIDE / 2)) * math.sqrt(count / (count - 1))


def unseen_share(n: float) -> float:
    """The most that may be wrong in truth where all of n rows are right, by Wilson's 95 % interval."""
    return NORMAL_95**2 / (n + NORMAL_95**2)


def unseen_of_classes(
    right: NDArray[np.bool_], wrong: NDArray[np.bool_], counts: NDArray[np.number], *, classes: int
) -> tuple[float, float]:
    """How far a mean over the classes may lie below and above what was seen, for what resamples never show.

    A class of which all rows are ``right``, or all ``wrong``, is so in every resample, however few rows, or groups,
    it ``counts``. Of several such classes the one of fewest counts.
    """
    below, above = (
        unseen_share(float(counts[same].min())) / classes if same.any() else 0.0 for same in (right, wrong)
    )
    return below, above


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """The 95 % score interval of a share of n rows (Wilson 1927); two rows that are both right are not 100 % sure.

    ``n``: of rows in groups, the ``effective_rows``.
    """
    square = NORMAL_95**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = NORMAL_95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # Rounding must not put the share itself outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def with_unseen(
    value: float, reach: tuple[float, float], unseen: tuple[float, float], rows: float
) -> tuple[float, float]:
    """The ends of the 95 % interval of a mean of shares, in 0..1.

    ``reach``: how far down and up it goes for those shares that vary from draw to draw. ``unseen``: how far for those
    that are 0 or 1 in all draws. Where none varies, it is no narrower than Wilson's of so many ``rows``.
    """
    if max(reach) < ROUNDING:
        low, high = wilson_interval(value, rows)
        low, high = min(low, value - unseen[0]), max(high, value + unseen[1])
    else:
        low, high = value - math.hypot(reach[0], unseen[0]), value + math.hypot(reach[1], unseen[1])
    return max(0.0, low), min(1.0, high)
