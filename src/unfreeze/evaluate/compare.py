"""Whether one classifier is better than another on the same rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unfreeze.proportions import by_group, student_reach


def paired_difference(
    p_a: NDArray[np.floating],
    p_b: NDArray[np.floating],
    y: NDArray[np.integer],
    *,
    groups: NDArray[np.integer] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float, float]:
    """Accuracy of a minus accuracy of b on the same rows, and the ends of its 95 % interval.

    ``p_a`` and ``p_b``: probabilities (rows, classes). Where 0 lies outside the interval one is better. It is a
    bootstrap's: a row counts +1, 0 or −1, so resampling rows is drawing three counts from a multinomial distribution.
    With ``groups`` (rows,), codes of rows that may stand and fall together, it is Student's over the groups, of which a
    bootstrap would need many; of one group nothing can be told.
    """
    truth = np.asarray(y)
    if not len(truth) or len(p_a) != len(truth) or len(p_b) != len(truth):
        raise ValueError("both classifiers must have probabilities for the same rows, at least one")
    gain = (p_a.argmax(axis=1) == truth).astype(np.int8) - (p_b.argmax(axis=1) == truth)
    n = len(gain)
    mean = float(gain.mean())
    if groups is not None:
        half = _half_width(gain, groups)
        return mean, max(-1.0, mean - half), min(1.0, mean + half)
    kinds, counts = np.unique(gain, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    low, high = np.percentile(drawn @ kinds / n, [2.5, 97.5])
    return mean, float(low), float(high)


def _half_width(gain: NDArray[np.integer], groups: NDArray[np.integer]) -> float:
    """Half of the 95 % interval of the mean gain, from its variance between the groups.

    As if one more row differed: a few groups may gain as much as each other by chance.
    """
    sums = by_group(gain - gain.mean(), groups)
    return student_reach(len(sums)) * math.sqrt(float(sums @ sums) + 1) / len(gain)
