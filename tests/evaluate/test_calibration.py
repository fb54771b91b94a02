from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import beta

from unfreeze.evaluate.calibration import (
    GREATEST_TEMPERATURE,
    LEAST_TEMPERATURE,
    abstain_threshold,
    chance_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability,
    softmax,
)


def drawn_from(logits, *, seed=0):
    """Labels that follow the probabilities of these logits."""
    total = softmax(logits).cumsum(axis=1)
    return (np.random.default_rng(seed).random(len(logits))[:, None] > total).sum(axis=1)


def log_loss(logits, y, temperature):
    return -np.log(softmax(logits, temperature)[np.arange(len(y)), y]).mean()


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_has_the_lowest_log_loss_and_is_the_true_one(true):
    logits = np.random.default_rng(1).normal(size=(4000, 4)) * 2
    y = drawn_from(logits)
    found = fit_temperature(logits * true, y)
    assert found == pytest.approx(true, rel=0.06)
    best = minimize_scalar(
        lambda t: log_loss(logits * true, y, t), bounds=(0.25, 10), method="bounded", options={"xatol": 1e-7}
    )
    assert found == pytest.approx(best.x, rel=1e-4)


def test_separable_rows_and_hopeless_ones_stay_within_bounds():
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, np.array([0, 1])) == LEAST_TEMPERATURE
    assert fit_temperature(logits, np.array([1, 0])) == GREATEST_TEMPERATURE
    # So far apart that no temperature changes a bit: it stays as it is.
    assert fit_temperature(logits * 10_000, np.array([0, 1])) == 1.0


def test_large_logits_still_find_the_minimum():
    logits = np.random.default_rng(2).normal(size=(500, 3)) * 30
    y = drawn_from(logits / 5)
    found = fit_temperature(logits, y)
    assert log_loss(logits, y, found) <= min(log_loss(logits, y, found * s) for s in (0.98, 1.02))


def test_reliability_of_known_rows():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    bins = reliability(p, np.array([0, 1, 1, 0]), bins=10)
    assert [part.count for part in bins] == [0, 0, 0, 0, 1, 1, 0, 0, 2, 0]
    assert (bins[8].low, bins[8].high) == pytest.approx((0.8, 0.9))
    assert (bins[8].confidence, bins[8].accuracy) == pytest.approx((0.9, 0.5))
    expected = (2 * 0.4 + 0.4 + 0.5) / 4
    assert expected_calibration_error(p, np.array([0, 1, 1, 0]), bins=10) == pytest.approx(expected)


def test_rows_of_a_group_that_rise_together_count_for_less_in_a_bin():
    p = np.tile([0.85, 0.15], (40, 1))
    y, groups = np.repeat([0, 0, 0, 1], 10), np.repeat([3, 5, 7, 9], 10)
    (alone,) = (part for part in reliability(p, y, bins=10) if part.count)
    (together,) = (part for part in reliability(p, y, bins=10, groups=groups) if part.count)
    assert (alone.count, alone.accuracy, alone.effective) == (40, 0.75, 40.0)
    assert (together.count, together.accuracy) == (40, 0.75)
    assert 1 <= together.effective < 4


def test_calibrated_probabilities_have_a_small_error_and_sharpened_ones_a_large_one():
    logits = np.random.default_rng(1).normal(size=(5000, 3)) * 1.5
    y = drawn_from(logits)
    assert expected_calibration_error(softmax(logits), y) < 0.02
    assert expected_calibration_error(softmax(logits, 0.3), y) > 0.1


@pytest.mark.parametrize("rows", [40, 150, 600])
def test_a_calibrated_model_seldom_has_more_than_chance_explains(rows):
    above = {"chance": 0, "a fixed limit": 0}
    for seed in range(100):
        logits = np.random.default_rng(seed).normal(size=(rows, 2)) * 2
        p, y = softmax(logits), drawn_from(logits, seed=1000 + seed)
        error = expected_calibration_error(p, y)
        above["chance"] += error > chance_calibration_error(p, y)
        above["a fixed limit"] += error > 0.05
    assert above["chance"] <= 10
    if rows <= 150:
        assert above["a fixed limit"] > 60
    sharpened = softmax(logits, 0.2)
    assert expected_calibration_error(sharpened, y) > chance_calibration_error(sharpened, y)


def test_what_chance_explains_is_more_of_groups_and_the_same_each_time():
    p, y = softmax(np.random.default_rng(0).normal(size=(300, 3))), np.repeat([0, 1, 2], 100)
    alone = chance_calibration_error(p, y)
    assert alone == chance_calibration_error(p, y)
    assert chance_calibration_error(p, y, groups=np.arange(300) // 50) > 1.5 * alone
    assert chance_calibration_error(p, y, groups=np.zeros(300, dtype=int)) > 5 * alone


def test_the_threshold_keeps_its_promise_and_is_the_lowest_that_does():
    logits = np.random.default_rng(3).normal(size=(2000, 2)) * 2
    p, y = softmax(logits), drawn_from(logits)
    found = abstain_threshold(p, y, precision=0.9)
    assert found is not None
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    answered = confidence >= found.confidence
    assert found.answered == answered.sum()
    assert found.coverage == pytest.approx(answered.mean())
    assert found.precision == pytest.approx(right[answered].mean())
    hits, count = right[answered].sum(), answered.sum()
    assert found.precision_low == pytest.approx(beta.ppf(0.05, hits, count - hits + 1))
    assert found.precision_low >= 0.9
    for lower in np.sort(confidence[~answered])[::-1]:
        more = confidence >= lower
        hits, count = right[more].sum(), more.sum()
        assert beta.ppf(0.05, hits, count - hits + 1) < 0.9


def test_groups_of_rows_that_are_all_right_promise_less():
    # Of 300 rows all are right: 30 groups of ten tell less than that.
    p, y = np.tile([0.9, 0.1], (300, 1)), np.zeros(300, dtype=int)
    alone, grouped = (
        abstain_threshold(p, y, precision=0.9, groups=groups) for groups in (None, np.arange(300) // 10)
    )
    assert alone.precision_low == pytest.approx(0.05 ** (1 / 300))
    assert grouped.precision_low == pytest.approx(0.05 ** (1 / 30))


def test_no_threshold_where_the_rows_are_too_few_or_too_wrong():
    p = np.tile([0.9, 0.1], (20, 1))
    assert abstain_threshold(p, np.zeros(20, dtype=int), precision=0.9) is None
    assert abstain_threshold(np.tile([0.9, 0.1], (500, 1)), np.arange(500) % 2, precision=0.6) is None


def test_everything_is_answered_where_everything_is_right():
    p = np.random.default_rng(0).uniform(0.6, 0.9, (200, 1)) * [1, 0]
    found = abstain_threshold(p, np.zeros(200, dtype=int), precision=0.95)
    assert found is not None
    assert (found.confidence, found.coverage, found.precision) == (0.0, 1.0, 1.0)


def test_a_wished_precision_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"1\.5"):
        abstain_threshold(np.array([[0.9, 0.1]]), np.array([0]), precision=1.5)
