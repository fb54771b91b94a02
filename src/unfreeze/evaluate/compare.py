"""Whether one classifier is better than another on the same rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unfreeze.proportions import by_group


def paired_difference(
    p_a: NDArray[np.floating],
    p_b: NDArray[np.floating],
    y: NDArray[np.integer],
    *,
    groups: NDArray[np.integer] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float, float]:
    """Accuracy of a minus accuracy of b on the same rows, and the ends of its 95 % bootstrap interval.

    ``p_a`` and ``p_b``: probabilities (rows, classes). Where 0 lies outside the interval one is better. A
    row counts +1, 0 or −1, so resampling rows is drawing three counts from a multinomial distribution. With ``groups``
    (rows,), codes of rows that may stand and fall together, groups are drawn whole.
    """
    truth = np.asarray(y)
    if not len(truth) or len(p_a) != len(truth) or len(p_b) != len(truth):
        raise ValueError("both classifiers must have probabilities for the same rows, at least one")
    gain = (p_a.argmax(axis=1) == truth).astype(np.int8) - (p_b.argmax(axis=1) == truth)
    n = len(gain)
    # What is equal in all that counts is drawn together.
    sums, sizes = by_group(gain, groups), by_group(np.ones(n), groups)
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sums), counts / len(sums), size=resamples)
    gained, rows = kinds @ drawn.T
    low, high = np.percentile(gained / rows, [2.5, 97.5])
    return float(gain.mean()), float(low), float(high)
