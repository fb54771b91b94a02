"""Means over seeds and differences on the same rows, with 95 % intervals that know which rows the seeds share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.proportions import OUTSIDE, with_unseen
from unfreeze.report.content import Estimate

# The correlation of two differences to the same third, where all three wander alike from seed to seed.
SHARED = 0.5


@dataclass(frozen=True, eq=False)
class Moves:
    """By how much each test row moves the value of one seed.

    ``rows``: keys, uint64 (rows,), the same for rows that were drawn together. ``by``: a row's part of the value less
    what is expected of it (rows,); they sum to 0.
    """

    rows: NDArray[np.uint64]
    by: NDArray[np.float64]

    @classmethod
    def of_mean(cls, rows: NDArray[np.uint64], values: NDArray[Any]) -> Moves:
        """By how much each row moves the mean of these values (rows,)."""
        return cls(rows, (values - values.mean()) / len(values))

    @property
    def together(self) -> Moves:
        """The same with each key once, and what its rows do together."""
        keys, places = np.unique(self.rows, return_inverse=True)
        return Moves(keys, np.bincount(places, weights=self.by).astype(np.float64))


@dataclass(frozen=True, eq=False)
class Gain:
    """What one answer gains over another on the test rows of a seed.

    ``rows``: keys, uint64 (rows,), the same for rows that were drawn together. ``gained``: +1, 0 or -1 a row, as one is
    right and the other is not (rows,).
    """

    rows: NDArray[np.uint64]
    gained: NDArray[np.integer]

    @property
    def mean(self) -> float:
        """The difference of the two accuracies, in -1..1."""
        return float(self.gained.mean())

    @property
    def moves(self) -> Moves:
        """By how much each row moves it."""
        return Moves.of_mean(self.rows, self.gained)


def over_seeds(
    values: Sequence[float], moves: Sequence[Moves] = (), *, unseen: tuple[float, float] = (0.0, 0.0)
) -> Estimate:
    """The mean of shares in 0..1 with a 95 % interval over the seeds; for one value without ``moves`` no bounds.

    It covers the draw of the training rows and of the order, and with ``moves``, one a seed, also the draw of the test
    rows. Without them it is too narrow where the seeds share test rows. Where every row of every seed is right, it is
    Wilson's of as many rows as were drawn. ``unseen``: how far the mean may lie below and above for what did not vary
    (``with_unseen``).
    """
    mean = float(np.mean(values))
    parts = _Parts.of(values, moves)
    if parts.seeds < 2 and not parts.rows:
        return Estimate(mean)
    half = parts.half_width()
    if not parts.rows:
        return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half))
    return Estimate(mean, *with_unseen(mean, (half, half), unseen, parts.rows))


def paired_over_seeds(gains: Sequence[Gain]) -> Estimate:
    """The mean over seeds of the mean gain, a share in -1..1, with its 95 % interval; see ``paired_at_once``."""
    return paired_at_once([gains])[0]


def paired_to_best(differences: Sequence[Sequence[Gain]]) -> tuple[Estimate, ...]:
    """``paired_at_once``, of differences to the one whose mean was the highest on the same rows.

    Any of them might have been that one, so that the intervals hold for all pairs.
    """
    compared = len(differences) + 1
    return paired_at_once(differences, among=math.comb(compared, 2))


def paired_at_once(
    differences: Sequence[Sequence[Gain]], *, among: int | None = None
) -> tuple[Estimate, ...]:
    """For each difference the mean over its seeds of the mean gain, a share in -1..1, with an interval.

    A difference has a gain a seed. Where 0 lies outside its interval one is better: in 95 % of draws that is so for
    none of those that are equal in truth (Bonferroni), of as many as there are, or of ``among`` from which they were
    picked. How much further apart the seeds lie than their rows explain is taken from all differences together, since
    a few seeds tell little of it. With a single seed, an interval knows nothing of how results wander between seeds.
    Raises ValueError without a seed, or for a seed without rows.
    """
    if not all(gains and all(len(gain.rows) for gain in gains) for gains in differences):
        raise ValueError("a difference needs a seed, and rows in each")
    parts = [_Parts.of_gains(gains) for gains in differences]
    told = [(part.among / part.apart, part.seeds - 1) for part in parts if part.seeds > 1 and part.apart]
    free = sum(free for _, free in told)
    further = sum(ratio * free for ratio, free in told) / free if told else 0.0
    # They tell it less well than as many that do not share a side (Satterthwaite 1946).
    freedom = free / (1 + (len(told) - 1) * SHARED**2)
    outside = OUTSIDE / max(1, len(parts) if among is None else among)
    found = []
    for gains, part in zip(differences, parts, strict=True):
        value = float(np.mean([gain.mean for gain in gains]))
        half = max(part.half_width(), part.half_width(outside, among=further * part.apart, freedom=freedom))
        found.append(Estimate(value, max(-1.0, value - half), min(1.0, value + half)))
    return tuple(found)


@dataclass(frozen=True)
class _Parts:
    """What the variance of a mean over seeds consists of.

    ``among``: from the deviation between the seeds' values. ``together`` and ``apart``: from the draw of ``rows`` rows,
    with each drawn once for all seeds that have it, and as if every seed drew rows of its own.
    """

    seeds: int
    among: float
    rows: int
    together: float
    apart: float

    @classmethod
    def of(cls, values: Sequence[float], moves: Sequence[Moves]) -> _Parts:
        seeds = len(values)
        among = float(np.var(values, ddof=1)) / seeds if seeds > 1 else 0.0
        if not moves:
            return cls(seeds, among, 0, 0.0, 0.0)
        drawn = [one.together for one in moves]
        by = np.concatenate([one.by for one in drawn])
        keys, places = np.unique(np.concatenate([one.rows for one in drawn]), return_inverse=True)
        sums = np.bincount(places, weights=by)
        return cls(seeds, among, len(keys), float(sums @ sums) / seeds**2, float(by @ by) / seeds**2)

    @classmethod
    def of_gains(cls, gains: Sequence[Gain]) -> _Parts:
        """Those of a mean gain, as if one more row had gained nothing: a few that all gain alike are no certainty.

        Nor are rows that all are answered alike: the next one may not be.
        """
        means = [gain.mean for gain in gains]
        parts = cls.of(means, [gain.moves for gain in gains])
        together = parts.together + (float(np.mean(means)) / parts.rows) ** 2
        return replace(parts, together=max(together, 1 / parts.rows**2))

    def half_width(
        self, outside: float = OUTSIDE, *, among: float | None = None, freedom: float | None = None
    ) -> float:
        """Half of the interval that leaves out the share ``outside``.

        What differs from seed to seed shows between their values, with Student's factor for so few. What rows that they
        share do to all of them alike does not show there, and is added. The rows alone are a lower bound, since a few
        seeds may agree by chance.
        """
        among = self.among if among is None else among
        between = _student(self.seeds - 1 if freedom is None else freedom, outside) * math.sqrt(among)
        factor = _student(self.rows - 1, outside)
        shared = factor * math.sqrt(max(0.0, self.together - self.apart))
        return max(math.hypot(between, shared), factor * math.sqrt(self.together))


def _student(freedom: float, outside: float) -> float:
    """How many standard errors hold all but the share ``outside``, with so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(max(freedom, 1), 1 - outside / 2))
