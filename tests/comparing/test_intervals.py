"""Means over seeds and paired differences, against numbers worked out by hand and against draws of equal strategies."""

import numpy as np
import pytest

from unfreeze.comparing.intervals import (
    Gain,
    Moves,
    over_seeds,
    paired_at_once,
    paired_over_seeds,
    paired_to_best,
)
from unfreeze.comparing.rows import are_keys, key_groups, key_rows, read_keys
from unfreeze.evaluate.compare import paired_difference
from unfreeze.proportions import wilson_interval


def gains_of(*lists, shared=True):
    """Gains of seeds on rows 0, 1, 2, ... of which all have the same ones, or each its own."""
    return [
        Gain(np.arange(len(gained), dtype=np.uint64) + (0 if shared else 1_000 * seed), np.asarray(gained))
        for seed, gained in enumerate(lists)
    ]


def test_students_interval_over_three_seeds():
    # Mean 0.9, standard deviation 0.02, t(2) at 97.5 % is 4.302653: half-width 4.302653 x 0.02 / sqrt(3) = 0.049683.
    found = over_seeds([0.88, 0.90, 0.92])
    assert found.value == pytest.approx(0.90)
    assert found.low == pytest.approx(0.90 - 0.049683, abs=1e-6)
    assert found.high == pytest.approx(0.90 + 0.049683, abs=1e-6)


def test_bounds_stay_within_zero_and_one_and_one_seed_has_none():
    assert over_seeds([0.99, 0.90]).high == 1.0
    assert over_seeds([0.7]).low is None


def test_a_mean_over_seeds_knows_the_draw_of_the_rows_that_they_share():
    # 80 of 100 rows are right in each of four seeds: the same ones, so that the seeds agree and tell nothing of the
    # rows' draw. t(99) at 97.5 % is 1.984217, times sqrt(0.8 x 0.2 / 100) = 0.04.
    right = np.arange(100) < 80
    moves = [Moves(np.arange(100, dtype=np.uint64), (right - 0.8) / 100)] * 4
    found = over_seeds([0.8] * 4, moves)
    assert (found.low, found.high) == pytest.approx((0.8 - 0.079369, 0.8 + 0.079369), abs=1e-6)


def test_rows_that_all_are_right_under_every_seed_are_no_certainty():
    keys = np.arange(10, dtype=np.uint64)
    # Ten rows of its own for each of three seeds are thirty, the same ten are ten; so are twenty rows in ten groups.
    own, same, groups = [keys, keys + 10, keys + 20], [keys] * 3, [np.repeat(keys, 2)] * 3
    for drawn, wanted in ((own, 30), (same, 10), (groups, 10)):
        found = over_seeds([1.0] * 3, [Moves.of_mean(one, np.ones(len(one))) for one in drawn])
        assert (found.value, found.low, found.high) == (1.0, *wilson_interval(1.0, wanted))
    assert found.low == pytest.approx(0.7225, abs=1e-4)


def test_a_paired_difference_is_the_mean_of_the_seeds_means():
    # Seed 0: 3 gained, 1 lost of 8; seed 1: 1 gained, 2 lost of 4. Mean of 2/8 and -1/4.
    found = paired_over_seeds(gains_of([1, 1, 1, -1, 0, 0, 0, 0], [1, -1, -1, 0]))
    assert found.value == pytest.approx(0.0)
    assert found.low < -0.2 < 0.2 < found.high


def test_one_seed_is_the_bootstrap_over_its_rows():
    rng = np.random.default_rng(0)
    y = np.zeros(400, dtype=int)
    p_a, p_b = (np.stack([share, 1 - share], axis=1) for share in rng.uniform(0.2, 1, (2, 400)))
    gain = (p_a.argmax(1) == y).astype(int) - (p_b.argmax(1) == y)
    value, low, high = paired_difference(p_a, p_b, y, resamples=4000)
    found = paired_over_seeds(gains_of(gain))
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_seeds_with_rows_of_their_own_have_students_interval():
    # Ten seeds whose mean gains are 0 or 0.2 in turn: standard deviation 0.105409, t(9) at 97.5 % is 2.262157, so that
    # the half-width is 2.262157 x 0.105409 / sqrt(10) = 0.075405.
    some = np.repeat([1, 0], [20, 80])
    seeds = [some if seed % 2 else np.zeros(100, dtype=int) for seed in range(10)]
    found = paired_over_seeds(gains_of(*seeds, shared=False))
    assert (found.value, found.high - found.value) == pytest.approx((0.1, 0.075405), abs=1e-6)
    # On the same rows their gains go together, which adds to the variance: a row moves the mean by 0.8 / 200 or
    # -0.2 / 200, (20 x 0.8^2 + 80 x 0.2^2) / 200^2 = 0.0004 in all, of which 0.00008 is there if every seed has rows of
    # its own. One more row that gains nothing adds (0.1 / 100)^2. t(99) is 1.984217, and 1.984217^2 x 0.000321 +
    # 0.075405^2 = 0.083365^2.
    found = paired_over_seeds(gains_of(*seeds))
    assert (found.value, found.high - found.value) == pytest.approx((0.1, 0.083365), abs=1e-6)


def test_seeds_that_agree_by_chance_do_not_make_the_rows_certain():
    gained = np.repeat([1, -1, 0], [12, 2, 86])
    one = paired_over_seeds(gains_of(gained))
    assert one.low > 0
    three = paired_over_seeds(gains_of(gained, gained, gained))
    assert (three.low, three.high) == pytest.approx((one.low, one.high))


def test_a_few_rows_that_all_gain_are_no_certainty():
    assert paired_over_seeds(gains_of([1, 1, 1])).low < 0
    assert paired_over_seeds(gains_of([1] * 20)).low > 0.8


def test_several_at_once_are_wider_and_lend_each_other_the_seeds_deviation():
    rng = np.random.default_rng(0)
    several = [gains_of(*(rng.integers(-1, 2, (3, 200)))) for _ in range(4)]
    alone = [paired_over_seeds(gains) for gains in several]
    together = paired_at_once(several)
    for one, other in zip(alone, together, strict=True):
        assert other.value == one.value
        assert other.low <= one.low
        assert other.high >= one.high
    # A single seed beside others with three: their deviation counts for it as well.
    wide = gains_of(np.repeat([1, 0], [60, 140]), np.zeros(200, dtype=int), np.repeat([1, 0], [60, 140]))
    single = gains_of(np.repeat([1, -1, 0], [40, 5, 155]))
    assert paired_over_seeds(single).low > 0
    assert paired_at_once([single, wide])[0].low < 0
    assert paired_at_once([]) == ()


def test_equal_answers_differ_by_what_one_more_row_could_and_rows_are_needed():
    found = paired_over_seeds(gains_of(*np.zeros((3, 50), dtype=int)))
    assert (found.value, found.low) == (0.0, -found.high)
    one = paired_over_seeds(gains_of(np.repeat([1, 0], [1, 49]), *np.zeros((2, 50), dtype=int)))
    assert 0 < found.high <= one.high
    for gains in ([], gains_of([])):
        with pytest.raises(ValueError, match="needs a seed"):
            paired_over_seeds(gains)


def draw(rng, strategies, seeds, rows, *, pool=None, seed_deviation=0.0):
    """Keys (rows,) and right answers (strategies, rows) for each seed, of strategies that are equally good in truth.

    What a strategy finds hard about a row is the same in every seed. ``pool``: each seed has other rows of so many.
    """
    every = pool or rows
    ease = rng.normal(size=every) + rng.normal(size=(strategies, every))
    found = []
    for _ in range(seeds):
        keys = rng.permutation(every)[:rows]
        luck = rng.normal(size=(strategies, 1)) * seed_deviation
        chance = rng.normal(size=(strategies, rows)) * 0.5
        found.append((keys.astype(np.uint64), (ease[:, keys] + luck + chance > -1.5).astype(int)))
    return found


@pytest.mark.parametrize(
    ("seeds", "rows", "more"),
    [
        (3, 75, {}),
        (10, 75, {}),
        (5, 600, {}),
        (2, 300, {"seed_deviation": 0.1}),
        (5, 600, {"seed_deviation": 0.1}),
        (5, 100, {"pool": 250}),
        (10, 100, {"pool": 500}),
    ],
)
def test_equal_strategies_are_seldom_called_different(seeds, rows, more):
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(300):
        drawn = draw(rng, 2, seeds, rows, **more)
        found = paired_over_seeds([Gain(keys, right[0] - right[1]) for keys, right in drawn])
        called += found.low > 0 or found.high < 0
    # 5 % are 15; of so many draws 22 or more come up in one of 25 cases, and the draws are always these.
    assert called <= 21


def test_rows_that_are_taken_for_others_in_every_seed_make_false_differences():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(100):
        drawn = draw(rng, 2, 10, 75)
        apart = [
            Gain(keys + np.uint64(1_000 * seed), right[0] - right[1])
            for seed, (keys, right) in enumerate(drawn)
        ]
        found = paired_over_seeds(apart)
        called += found.low > 0 or found.high < 0
    assert called > 20


@pytest.mark.parametrize("pool", [None, 4000])
@pytest.mark.parametrize("seeds", [2, 3])
def test_a_floor_that_wanders_more_than_what_is_compared_with_it_makes_no_false_differences(seeds, pool):
    rng = np.random.default_rng(1)
    wandering = np.array([[0.3], *[[0.05]] * 8])
    called = 0
    for _ in range(200):
        drawn = draw(rng, 9, seeds, 400, pool=pool, seed_deviation=wandering)
        gains = [[Gain(keys, right[place] - right[0]) for keys, right in drawn] for place in range(1, 9)]
        called += any(found.low > 0 or found.high < 0 for found in paired_at_once(gains))
    assert called <= 10


@pytest.mark.parametrize(("seeds", "seed_deviation"), [(1, 0.0), (3, 0.0), (3, 0.1), (5, 0.1)])
def test_the_best_of_eight_that_are_as_good_as_the_floor_is_seldom_above_it(seeds, seed_deviation):
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(200):
        drawn = draw(rng, 9, seeds, 400, seed_deviation=seed_deviation)
        gains = [[Gain(keys, right[place] - right[0]) for keys, right in drawn] for place in range(1, 9)]
        called += max(paired_at_once(gains), key=lambda found: found.value).low > 0
    assert called <= 10


@pytest.mark.parametrize(("seeds", "strategies"), [(1, 4), (1, 9), (3, 6), (5, 9)])
def test_none_of_several_equal_ones_is_often_called_worse_than_the_one_that_was_luckiest(seeds, strategies):
    def called(estimates):
        rng = np.random.default_rng(0)
        false = 0
        for _ in range(200):
            drawn = draw(rng, strategies, seeds, 400)
            best = int(
                np.argmax([np.mean([right[place] for _, right in drawn]) for place in range(strategies)])
            )
            others = [place for place in range(strategies) if place != best]
            gains = [[Gain(keys, right[place] - right[best]) for keys, right in drawn] for place in others]
            false += any(found.high < 0 for found in estimates(gains))
        return false

    # As differences that nobody had picked, they would be called more often.
    assert called(paired_to_best) <= 10
    assert called(paired_to_best) < called(paired_at_once)


@pytest.mark.parametrize(("seeds", "shared"), [(1, True), (3, True), (3, False)])
def test_rows_of_a_group_that_rise_together_do_not_make_false_differences(seeds, shared):
    def called(*, known):
        rng = np.random.default_rng(0)
        false = 0
        for _ in range(200):
            # 20 groups of 20 rows, each of which one of two equal strategies finds easier.
            group = np.repeat(np.arange(20), 20)
            ease = rng.normal(size=(2, 20))
            gains = []
            for seed in range(seeds):
                if not shared:
                    ease = rng.normal(size=(2, 20))
                right = (ease[:, group] + rng.normal(size=(2, 400)) > -0.5).astype(int)
                keys = (group if known else np.arange(400)) + (0 if shared else 1_000 * seed)
                gains.append(Gain(keys.astype(np.uint64), right[0] - right[1]))
            found = paired_over_seeds(gains)
            false += found.low > 0 or found.high < 0
        return false

    assert called(known=True) <= 14
    if shared:
        assert called(known=False) > 50


def test_keys_of_groups_are_the_same_for_all_their_rows():
    keys = read_keys(key_groups([3, 0, 3]), rows_hash="", count=3)
    assert list(keys) == [3, 0, 3]
    assert len(set(read_keys(key_groups([-1, -2, 5]), rows_hash="", count=3))) == 3
    assert are_keys(key_groups([3, 0, 3]), 3, distinct=False)
    assert not are_keys(key_groups([3, 0, 3]), 3)


def test_keys_tell_rows_apart_and_find_them_again():
    first, again = (read_keys(key_rows(names), rows_hash="", count=3) for names in ("abc", "cad"))
    assert len(set(first)) == 3
    assert set(first) & set(again) == {first[0], first[2]}
    assert len(set(read_keys(key_rows("aaa"), rows_hash="", count=3))) == 3


def test_without_keys_only_lists_with_the_same_hash_share_rows():
    one, same, other = (read_keys("", rows_hash=text, count=4) for text in ("x", "x", "y"))
    assert list(one) == list(same)
    assert not set(one) & set(other)
