"""Whether a probability means what it says: temperature, reliability, and when to abstain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.proportions import effective_rows

# On rows that the model separates without a mistake the best temperature is zero, which would make every
# answer certain. The bounds keep logits within a factor of four, or ten, of what was fitted.
LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 0.25, 10.0
BINS = 15
ONE_SIDED = 0.05
# Fewer validation rows than this set no threshold: a share of 95 % of 100 rows is known to ±4 points at best.
THRESHOLD_ROWS = 100
# Draws of the labels, and how many labels are drawn at once.
DRAWS, DRAWN_AT_ONCE = 200, 2**20


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram: its rows' mean confidence and accuracy.

    Rows with a confidence in (low, high] belong to it, and count for ``effective`` ones in an interval of the accuracy.
    An empty bin has count 0 and zeros.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    effective: float


@dataclass(frozen=True)
class Threshold:
    """Answer where the top probability is at least ``confidence``, abstain elsewhere.

    ``precision``: share of the answers that were right, and ``precision_low``, its one-sided 95 % lower
    bound. ``coverage``: share of the rows answered; ``answered``: their number.
    """

    confidence: float
    wished: float
    precision: float
    precision_low: float
    coverage: float
    answered: int


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (rows, classes) of logits divided by the temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(logits: NDArray[np.floating], y: NDArray[np.integer]) -> float:
    """The temperature with the lowest log-loss of logits (rows, classes), within bounds (Guo et al. 2017).

    The log-loss is convex in 1/T, so the sign of its slope brackets the minimum; Newton steps go there, and
    bisection where they would leave the bracket. One class among ``y`` and no mistake gives the least
    temperature.
    """
    given, truth = np.asarray(logits, dtype=np.float64), np.asarray(y, dtype=np.intp)
    own = given[np.arange(len(truth)), truth]

    def slope_and_curvature(inverse: float) -> tuple[float, float]:
        probabilities = softmax(given, 1.0 / inverse)
        mean = (probabilities * given).sum(axis=1)
        spread = (probabilities * (given - mean[:, None]) ** 2).sum(axis=1)
        return float((mean - own).mean()), float(spread.mean())

    low, high = 1.0 / GREATEST_TEMPERATURE, 1.0 / LEAST_TEMPERATURE
    at_low, at_high = slope_and_curvature(low)[0], slope_and_curvature(high)[0]
    if at_low == at_high == 0.0:
        return 1.0
    if at_low >= 0:
        return GREATEST_TEMPERATURE
    if at_high <= 0:
        return LEAST_TEMPERATURE
    inverse = 1.0
    for _ in range(60):
        slope, curvature = slope_and_curvature(inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        following = inverse - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low * high) ** 0.5
        if abs(following - inverse) < 1e-7 * inverse:
            break
        inverse = following
    return 1.0 / inverse


def reliability(
    probabilities: NDArray[np.floating],
    y: NDArray[np.integer],
    bins: int = BINS,
    *,
    groups: NDArray[np.integer] | None = None,
) -> tuple[Bin, ...]:
    """Confidence against accuracy in bins of equal width over the top probability.

    ``groups`` (rows,): codes of rows that may stand and fall together.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    confidence, right = given.max(axis=1), given.argmax(axis=1) == np.asarray(y)
    place = _bin_of(confidence, bins)
    count = np.bincount(place, minlength=bins)
    some = np.maximum(count, 1)
    mean = np.bincount(place, weights=confidence, minlength=bins) / some
    accuracy = np.bincount(place, weights=right, minlength=bins) / some
    effective = count.astype(np.float64)
    if groups is not None:
        for i in np.flatnonzero(count):
            effective[i] = effective_rows(right[place == i], groups[place == i])
    return tuple(
        Bin(i / bins, (i + 1) / bins, int(count[i]), float(mean[i]), float(accuracy[i]), float(effective[i]))
        for i in range(bins)
    )


def _bin_of(confidence: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    """Which of the bins of equal width each confidence (rows,) lies in."""
    return np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)


def expected_calibration_error(
    probabilities: NDArray[np.floating], y: NDArray[np.integer], bins: int = BINS
) -> float:
    """Mean distance between confidence and accuracy over the bins, weighted by rows (Naeini et al. 2015)."""
    found = reliability(probabilities, y, bins)
    rows = sum(part.count for part in found)
    return sum(part.count * abs(part.confidence - part.accuracy) for part in found) / max(rows, 1)


def chance_calibration_error(
    probabilities: NDArray[np.floating],
    y: NDArray[np.integer],
    bins: int = BINS,
    *,
    groups: NDArray[np.integer] | None = None,
) -> float:
    """The calibration error that a calibrated model of these confidences stays below in 95 of 100 draws of the labels.

    It is not 0, and of few rows large: in every bin some more or some fewer of them are right than the confidence says.
    With ``groups`` (rows,), codes of rows that may stand and fall together, rows count for as many as they tell of.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    place = _bin_of(given.max(axis=1), bins)
    order = np.argsort(place, kind="stable")
    confidence = given.max(axis=1)[order]
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    expected = np.add.reduceat(confidence, starts)
    rows, random = len(confidence), np.random.default_rng(0)
    errors: list[NDArray[np.float64]] = []
    at_once = max(1, DRAWN_AT_ONCE // rows)
    for first in range(0, DRAWS, at_once):
        drawn = random.random((min(at_once, DRAWS - first), rows), dtype=np.float32) < confidence
        hits = np.add.reduceat(drawn, starts, axis=1, dtype=np.int64)
        errors.append(np.abs(hits - expected).sum(axis=1) / rows)
    right = given.argmax(axis=1) == np.asarray(y)
    wider = math.sqrt(rows / effective_rows(right, groups))
    return min(1.0, wider * float(np.quantile(np.concatenate(errors), 0.95)))


def abstain_threshold(
    probabilities: NDArray[np.floating],
    y: NDArray[np.integer],
    *,
    precision: float,
    groups: NDArray[np.integer] | None = None,
) -> Threshold | None:
    """The lowest confidence from which on the answers reach the wished precision, or None when none does.

    Reached means that the one-sided 95 % lower bound of the share of right answers (Clopper and Pearson
    1934) is at least ``precision``. The bound is that of one threshold; as many are looked at, it is
    slightly hopeful. The threshold lies half-way to the next lower confidence seen; 0 when every row may be
    answered. With ``groups`` (rows,), codes of rows that may stand and fall together, rows count in the bound for as
    many as they tell of, all answers together.
    """
    if not 0.0 < precision < 1.0:
        raise ValueError(f"precision must lie between 0 and 1, not {precision}")
    from scipy.special import betaincinv

    given = np.asarray(probabilities, dtype=np.float64)
    confidence, right = given.max(axis=1), given.argmax(axis=1) == np.asarray(y)
    order = np.argsort(-confidence, kind="stable")
    ordered, hits = confidence[order], np.cumsum(right[order])
    # Rows of equal confidence are answered together.
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    answered, hits = ends + 1, hits[ends]
    worth = effective_rows(right, groups) / len(right)
    told = np.maximum(hits, 1) * worth
    bound = np.where(hits > 0, betaincinv(told, (answered - hits) * worth + 1, ONE_SIDED), 0.0)
    reached = np.flatnonzero(bound >= precision)
    if not len(reached):
        return None
    last = int(reached[-1])
    count = int(answered[last])
    everything = count == len(ordered)
    return Threshold(
        confidence=0.0 if everything else float(ordered[count - 1] + ordered[count]) / 2,
        wished=precision,
        precision=float(hits[last] / count),
        precision_low=float(bound[last]),
        coverage=count / len(ordered),
        answered=count,
    )
