"""Means over seeds and paired differences, against numbers worked out by hand."""

import numpy as np
import pytest

from unfreeze.comparing.intervals import over_seeds, paired_over_seeds
from unfreeze.evaluate.compare import paired_difference


def test_students_interval_over_three_seeds():
    # Mean 0.9, standard deviation 0.02, t(2) at 97.5 % is 4.302653: half-width 4.302653 x 0.02 / sqrt(3) = 0.049683.
    found = over_seeds([0.88, 0.90, 0.92])
    assert found.value == pytest.approx(0.90)
    assert found.low == pytest.approx(0.90 - 0.049683, abs=1e-6)
    assert found.high == pytest.approx(0.90 + 0.049683, abs=1e-6)


def test_bounds_stay_within_zero_and_one_and_one_seed_has_none():
    assert over_seeds([0.99, 0.90]).high == 1.0
    assert over_seeds([0.7]).low is None


def test_a_paired_difference_is_the_mean_of_the_seeds_means():
    # Seed 0: 3 gained, 1 lost of 8; seed 1: 1 gained, 2 lost of 4. Mean of 2/8 and -1/4.
    gains = [np.array([1, 1, 1, -1, 0, 0, 0, 0]), np.array([1, -1, -1, 0])]
    found = paired_over_seeds(gains)
    assert found.value == pytest.approx(0.0)
    assert found.low < -0.2 < 0.2 < found.high


def test_one_seed_is_the_bootstrap_over_its_rows():
    rng = np.random.default_rng(0)
    y = np.zeros(400, dtype=int)
    p_a, p_b = (np.stack([share, 1 - share], axis=1) for share in rng.uniform(0.2, 1, (2, 400)))
    gain = (p_a.argmax(1) == y).astype(int) - (p_b.argmax(1) == y)
    value, low, high = paired_difference(p_a, p_b, y, resamples=4000)
    found = paired_over_seeds([gain])
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_the_interval_has_the_width_of_two_stage_sampling():
    # Ten seeds whose mean gains are 0 or 0.2 in turn, 100 rows each. The bootstrap's variance of the mean: that between
    # seeds, 0.01, and within them, (0 and 0.2 - 0.04 = 0.16, mean 0.08) / 100, over ten.
    some = np.repeat([1, 0], [20, 80])
    gains = [np.zeros(100, dtype=int) if seed % 2 else some for seed in range(10)]
    found = paired_over_seeds(gains, resamples=20_000)
    deviation = np.sqrt((0.01 + 0.08 / 100) / 10)
    assert found.value == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.06)


def test_equal_answers_differ_by_nothing_and_rows_are_needed():
    found = paired_over_seeds([np.zeros(50, dtype=int)] * 3)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    for gains in ([], [np.array([], dtype=int)]):
        with pytest.raises(ValueError, match="needs a seed"):
            paired_over_seeds(gains)
