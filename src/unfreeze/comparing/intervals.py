"""Means over seeds and differences on the same rows, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unfreeze.report.content import Estimate

RESAMPLES = 4000


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of shares in 0..1 and Student's interval over the seeds; without bounds for one value.

    It covers the draw of the training rows, of the test rows and of the order. The seeds share rows, so that it is a
    little narrow.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Estimate(mean)
    from scipy.special import stdtrit

    half = float(stdtrit(len(array) - 1, 0.975) * array.std(ddof=1) / math.sqrt(len(array)))
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half))


def paired_over_seeds(
    gains: Sequence[NDArray[np.integer]], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """The mean over seeds of the mean gain, with a bootstrap interval that draws seeds, and rows within them, again.

    ``gains``: for each seed +1, 0 or -1 a test row (rows,), as one answer is right and the other is not. Where 0 lies
    outside the interval one is better. To draw rows is to draw three counts from a multinomial distribution. With a
    single seed, rows alone are drawn, and the interval knows nothing of how results wander between seeds.
    """
    if not gains or not all(map(len, gains)):
        raise ValueError("a difference needs a seed, and rows in each")
    counts = np.array([[(gain > 0).sum(), (gain == 0).sum(), (gain < 0).sum()] for gain in gains])
    sizes = counts.sum(axis=1)
    random = np.random.default_rng(seed)
    seeds = random.integers(len(gains), size=(resamples, len(gains)))
    drawn = np.empty(seeds.shape)
    for number, (size, row) in enumerate(zip(sizes, counts, strict=True)):
        there = seeds == number
        rows = random.multinomial(size, row / size, size=int(there.sum()))
        drawn[there] = (rows[:, 0] - rows[:, 2]) / size
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    value = float(np.mean((counts[:, 0] - counts[:, 2]) / sizes))
    return Estimate(value, float(low), float(high))
