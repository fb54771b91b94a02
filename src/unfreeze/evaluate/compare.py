"""Whether one classifier is better than another on the same rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def paired_difference(
    p_a: NDArray[np.floating],
    p_b: NDArray[np.floating],
    y: NDArray[np.integer],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float, float]:
    """Accuracy of a minus accuracy of b on the same rows, and the ends of its 95 % bootstrap interval.

    ``p_a`` and ``p_b``: probabilities (rows, classes). Where 0 lies outside the interval one is better. A
    row counts +1, 0 or −1, so resampling rows is drawing three counts from a multinomial distribution.
    """
    truth = np.asarray(y)
    if not len(truth) or len(p_a) != len(truth) or len(p_b) != len(truth):
        raise ValueError("both classifiers must have probabilities for the same rows, at least one")
    gain = (p_a.argmax(axis=1) == truth).astype(np.int8) - (p_b.argmax(axis=1) == truth)
    n = len(gain)
    counts = np.array([(gain > 0).sum(), (gain < 0).sum(), (gain == 0).sum()])
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / n, [2.5, 97.5])
    return float(counts[0] - counts[1]) / n, float(low), float(high)
