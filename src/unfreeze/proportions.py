"""How sure a share of some rows is."""

from __future__ import annotations

import math

# The 97.5th percentile of the standard normal distribution.
NORMAL_95 = 1.959964


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share of n rows (Wilson 1927); two rows that are both right are not 100 % sure."""
    square = NORMAL_95**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = NORMAL_95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # Rounding must not put the share itself outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
