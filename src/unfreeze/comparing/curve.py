"""The learning curve: accuracy against rows, the law it follows, and whether more labels would help."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unfreeze.comparing.cells import CellResult, same_rows
from unfreeze.comparing.intervals import Gain, paired_at_once, paired_over_seeds
from unfreeze.comparing.results import differences, estimate
from unfreeze.comparing.verdict import in_points, points
from unfreeze.proportions import ROUNDING, wilson_interval
from unfreeze.report import words
from unfreeze.report.content import Estimate

# Theory gives error a fall as n^-c with c from 1/2 to 1, large data sets 0.07 to 0.35 (Hestness et al. 2017,
# arXiv 1712.00409): the grid goes beyond both.
EXPONENTS = np.linspace(0.02, 2.0, 397)
# Three numbers cannot be told from fewer points.
FEWEST_SIZES = 3
# To draw fewer test rows or groups of them again and again gives much the same each time, and says nothing of others.
FEWEST_DRAWN = 5
RESAMPLES = 300
# Half a point is the price that a gain must be worth; see the choice of a strategy.
WORTH = 0.005
MOST_CLASSES_NAMED = 3


@dataclass(frozen=True)
class PowerLaw:
    """Error = ``a`` + ``b`` n^-``c`` for n rows: what no rows take away, and how fast the rest goes."""

    a: float
    b: float
    c: float

    def __call__(self, rows: float) -> float:
        """The error at this number of rows."""
        return float(self.a + self.b * rows**-self.c)


@dataclass(frozen=True)
class ClassGain:
    """A class at the two largest sizes: its recalls, the gain with its interval, and its test rows over all seeds.

    The intervals hold for all classes at once. ``left``: the share in 0..1 of the errors at the largest size that are
    made on its rows; 0 where there are none.
    """

    name: str
    before: float
    after: float
    gain: Estimate
    support: int
    left: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A strategy's learning curve.

    ``points``: (rows, accuracy) ascending. ``rise``: from the last size but one to the last, on the same test rows.
    ``law``, ``doubled`` (the accuracy that it expects of twice the rows) and ``gain`` (from its value at the last size
    to that) are None below three sizes, and where accuracy fell, which no such law fits; of too few test rows, or
    groups of them, the last two have no bounds.
    """

    strategy: str
    backbone: str
    points: tuple[tuple[int, Estimate], ...]
    rise: Estimate
    classes: tuple[ClassGain, ...]
    law: PowerLaw | None = None
    doubled: Estimate | None = None
    gain: Estimate | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self)


def fit_power_law(sizes: Sequence[int], errors: Sequence[float]) -> PowerLaw:
    """The law closest to the errors in least squares, with a and b not negative; raises ValueError below three."""
    if len(sizes) < FEWEST_SIZES or len(sizes) != len(errors):
        raise ValueError(f"a power law needs errors at {FEWEST_SIZES} sizes or more")
    a, b, c = _fit(np.asarray(sizes, dtype=np.float64), np.asarray([errors], dtype=np.float64))
    return PowerLaw(float(a[0]), float(b[0]), float(c[0]))


def draw_curve(cells: Sequence[CellResult], *, seed: int = 0) -> Curve | None:
    """The curve of one strategy's finished cells, or None with fewer than two sizes that share a seed."""
    sizes = sorted({cell.size for cell in cells if cell.size is not None})
    by_size = {size: [cell for cell in cells if cell.size == size and cell.finished] for size in sizes}
    kept = [size for size in sizes if by_size[size]]
    if len(kept) < 2:
        return None
    before, after = by_size[kept[-2]], by_size[kept[-1]]
    gains = differences(after, before)
    if not gains:
        return None
    drawn = tuple((size, estimate(by_size[size], "accuracy")) for size in kept)
    curve = Curve(
        strategy=cells[0].strategy,
        backbone=cells[0].backbone,
        points=drawn,
        rise=paired_over_seeds(gains),
        classes=_class_gains(before, after),
    )
    if len(kept) < FEWEST_SIZES or _fell(drawn):
        return curve
    law = fit_power_law(kept, [1 - reached.value for _, reached in drawn])
    last = float(kept[-1])
    doubled, gain = 1 - law(2 * last), law(last) - law(2 * last)
    keys = np.unique(np.concatenate([cell.drawn_keys for size in kept for cell in by_size[size]]))
    if len(keys) < FEWEST_DRAWN:
        return replace(curve, law=law, doubled=Estimate(doubled), gain=Estimate(gain))
    resampled = _resampled_errors([by_size[size] for size in kept], np.random.default_rng(seed))
    a, b, c = _fit(np.asarray(kept, dtype=np.float64), resampled)
    there, twice = a + b * last**-c, a + b * (2 * last) ** -c
    low, high = wilson_interval(doubled, len(keys))
    below, above = doubled - low, high - doubled
    return replace(
        curve,
        law=law,
        doubled=_bounded(doubled, 1 - twice, (below, above)),
        # The lower accuracy may be, the more there may be to gain.
        gain=_bounded(gain, there - twice, (above, below)),
    )


def answer(curve: Curve) -> tuple[str, ...]:
    """Whether more labels would help, and in which class, in sentences."""
    (before, _), (rows, _) = curve.points[-2:]
    said = [_promise(curve)]
    verb = "rose" if curve.rise.value >= 0 else "fell"
    said.append(
        f"From {before:,} to {rows:,} rows accuracy {verb} by {points(curve.rise)}, on the same test rows."
    )
    said += [_which_class(curve.classes), _what_is_left(curve.classes, rows)]
    return tuple(said)


def _fell(points: Sequence[tuple[int, Estimate]]) -> bool:
    """Whether accuracy is lower at the last size than at the first by something that counts."""
    return points[0][1].value - points[-1][1].value >= WORTH


def _promise(curve: Curve) -> str:
    (first, start), (rows, there) = curve.points[0], curve.points[-1]
    if curve.doubled is None or curve.gain is None:
        if len(curve.points) >= FEWEST_SIZES:
            return (
                f"Would more labels help? It cannot be told: accuracy fell from {words.percent(start.value)} at "
                f"{first:,} rows to {words.percent(there.value)} at {rows:,}, which the law of a learning curve does "
                "not fit."
            )
        few = "two sizes cannot say how the curve goes on; give three or more."
        rising = curve.rise.low is not None and curve.rise.low > 0
        return f"Would more labels help? {'Probably' if rising else 'It cannot be told'}: {few}"
    low, high = curve.gain.low, curve.gain.high
    if low is None or high is None:
        return (
            f"Would more labels help? It cannot be told: fewer than {FEWEST_DRAWN} test rows, or groups of them, do "
            "not say how sure the curve is."
        )
    if low >= WORTH:
        verdict = "Yes"
    elif high < WORTH:
        verdict = "Hardly"
    else:
        verdict = "Perhaps" if curve.gain.value >= WORTH else "Probably not much"
    return (
        f"Would more labels help? {verdict}: twice as many rows ({2 * rows:,}) are expected to raise {curve.strategy} "
        f"by {in_points(curve.gain.value)} points, to {words.with_interval(curve.doubled)}."
    )


def _which_class(classes: Sequence[ClassGain]) -> str:
    clear = [one for one in classes if one.gain.low is not None and one.gain.low > 0]
    if not clear:
        return "In no class did recall rise by more than chance explains."
    named = ", ".join(
        f"{one.name!r} (recall {words.percent(one.before)} to {words.percent(one.after)}, +{points(one.gain)}; "
        f"{one.support:,} test rows)"
        for one in clear[:MOST_CLASSES_NAMED]
    )
    return f"Labels helped most in {named}."


def _what_is_left(classes: Sequence[ClassGain], rows: int) -> str:
    """In which classes the errors are that more labels could still take away."""
    wrong = sorted((one for one in classes if one.left > 0), key=lambda one: -one.left)
    if not wrong:
        return f"At {rows:,} rows no test row is wrong any more."
    named = ", ".join(
        f"{words.percent(one.left, decimals=0)} in {one.name!r} (recall {words.percent(one.after)})"
        for one in wrong[:MOST_CLASSES_NAMED]
    )
    return f"Of the errors at {rows:,} rows most are left here: {named}."


def _class_gains(before: Sequence[CellResult], after: Sequence[CellResult]) -> tuple[ClassGain, ...]:
    """Every class with test rows, the one whose recall rose most first."""
    pairs = [
        (earlier, later)
        for earlier in before
        for later in after
        if earlier.seed == later.seed and same_rows(earlier, later)
    ]
    names = sorted({str(name) for earlier, _ in pairs for name in earlier.true_class})
    gains: list[list[Gain]] = []
    recalls: list[tuple[float, float, int]] = []
    errors: list[int] = []
    for name in names:
        masks = [earlier.true_class == name for earlier, _ in pairs]
        there = [(pair, mask) for pair, mask in zip(pairs, masks, strict=True) if mask.any()]
        gains.append(
            [
                Gain(earlier.drawn_keys[mask], later.right[mask].astype(np.int8) - earlier.right[mask])
                for (earlier, later), mask in there
            ]
        )
        recall_before, recall_after = (
            statistics.mean(float(pair[side].right[mask].mean()) for pair, mask in there) for side in (0, 1)
        )
        errors.append(sum(int((~later.right[mask]).sum()) for (_, later), mask in there))
        recalls.append((recall_before, recall_after, sum(int(mask.sum()) for _, mask in there)))
    found = (
        ClassGain(name, recall_before, recall_after, gain, support, wrong / max(1, sum(errors)))
        for name, (recall_before, recall_after, support), wrong, gain in zip(
            names, recalls, errors, paired_at_once(gains), strict=True
        )
    )
    return tuple(sorted(found, key=lambda one: -one.gain.value))


def _resampled_errors(
    groups: Sequence[Sequence[CellResult]], random: np.random.Generator
) -> NDArray[np.float64]:
    """Errors (resamples, sizes) with seeds and test rows drawn again, the same for every size.

    A row is drawn once for all seeds that have it. Only seeds that finished every size on the same rows count; without
    one, sizes are drawn one by one as if their rows were others.
    """
    seeds = sorted(set.intersection(*({cell.seed for cell in group} for group in groups)))
    rows, wrong = [], []
    for seed in seeds:
        cells = [next(cell for cell in group if cell.seed == seed) for group in groups]
        if all(same_rows(cells[0], cell) for cell in cells):
            rows.append(cells[0].drawn_keys)
            wrong.append(np.stack([~cell.right for cell in cells], axis=1))
    if not rows:
        columns = [
            random.binomial(len(group[0].truth), 1 - group[0].accuracy, RESAMPLES) / len(group[0].truth)
            for group in groups
        ]
        return np.stack(columns, axis=1)
    errors, weights = _drawn_rows(rows, wrong, random)
    chosen = random.multinomial(len(rows), [1 / len(rows)] * len(rows), size=RESAMPLES)
    # Where none of the chosen seeds had a row drawn, which takes very few rows, all count.
    weights = np.where((chosen * weights).any(axis=1, keepdims=True), chosen * weights, weights)
    return np.asarray((weights[:, :, None] * errors).sum(axis=1) / weights.sum(axis=1)[:, None])


def _drawn_rows(
    rows: Sequence[NDArray[np.uint64]], wrong: Sequence[NDArray[np.bool_]], random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Errors (resamples, seeds, sizes) with all rows drawn again, and which seeds have any (resamples, seeds).

    Rows are drawn as counts of the patterns in which seeds have them, and are right and wrong at each size; those of
    the same key, a group's, are drawn together.
    """
    keys, places = np.unique(np.concatenate(rows), return_inverse=True)
    sizes = wrong[0].shape[1]
    # For each key and seed how many rows the seed has of it, and how many of them each size is wrong about.
    table = np.zeros((len(keys), len(rows), 1 + sizes), dtype=np.int64)
    ends = np.cumsum([len(one) for one in rows])
    for seed, (here, missed) in enumerate(zip(np.split(places, ends[:-1]), wrong, strict=True)):
        np.add.at(table[:, seed], here, np.column_stack([np.ones(len(here), dtype=np.int64), missed]))
    patterns, counts = np.unique(table.reshape(len(keys), -1), axis=0, return_counts=True)
    drawn = random.multinomial(len(keys), counts / len(keys), size=RESAMPLES) @ patterns
    drawn = drawn.reshape(RESAMPLES, len(rows), 1 + sizes)
    there = drawn[:, :, 0]
    return drawn[:, :, 1:] / np.maximum(there, 1)[:, :, None], there > 0


def _fit(
    sizes: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """a, b and c for each row of errors (curves, sizes): for every c of the grid a and b are solved for."""
    x = (sizes[None, :] / sizes[-1]) ** -EXPONENTS[:, None]
    centred = x - x.mean(axis=1, keepdims=True)
    mean = errors.mean(axis=1)[:, None]
    b = (errors @ centred.T) / (centred**2).sum(axis=1)
    a = mean - b * x.mean(axis=1)
    alone = (errors @ x.T) / (x**2).sum(axis=1)
    b = np.where(a < 0, alone, b)
    a = np.where(a < 0, 0.0, a)
    a, b = np.where(b < 0, mean, a), np.maximum(b, 0.0)
    misses = ((a[:, :, None] + b[:, :, None] * x[None] - errors[:, None, :]) ** 2).sum(axis=2)
    best = misses.argmin(axis=1)
    rows = np.arange(len(errors))
    c = EXPONENTS[best]
    return a[rows, best], b[rows, best] * sizes[-1] ** c, c


def _bounded(value: float, drawn: NDArray[np.float64], reach: tuple[float, float]) -> Estimate:
    """A share with the 95 % percentile interval of its resamples, which is made to contain it.

    ``reach``: how far it goes down and up where all resamples agree, as where every row is right.
    """
    low, high = (float(end) for end in np.percentile(drawn, [2.5, 97.5]))
    if math.isclose(low, high, abs_tol=ROUNDING):
        low, high = max(0.0, value - reach[0]), min(1.0, value + reach[1])
    return Estimate(value, min(low, value), max(high, value))
