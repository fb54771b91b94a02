"""Results and verdicts on made-up cells: a winner, a tie, nothing above the floor."""

from dataclasses import replace

import numpy as np
import pytest

from unfreeze.comparing.results import estimate, summarise
from unfreeze.comparing.rows import key_groups
from unfreeze.comparing.verdict import judge, share_text


@pytest.fixture
def results(make_cell, share_right):
    """Results over three seeds from (strategy, right rows of 200, where they start, changes)."""

    def make(*strategies, seeds=3):
        cells = [
            make_cell(name, share_right(count, start), seed=seed, **changes)
            for seed in range(seeds)
            for name, count, start, changes in strategies
        ]
        return summarise(cells)

    return make


FLOOR = ("feature-extraction", 140, 0, {})


def test_a_clear_winner_is_named_with_its_distance_to_the_floor(results):
    found = results(FLOOR, ("full", 180, 0, {}), ("partial", 150, 0, {}))
    verdict = judge(found)
    assert verdict.best.strategy == "full"
    assert [result.strategy for result in verdict.tied] == ["full"]
    assert verdict.sentences[0] == "full is best at n=500 with 90.0 %."
    assert verdict.sentences[1].startswith("full is above the floor by 20.0 points (95 % interval 1")
    assert found[1].to_floor.value == pytest.approx(0.2)
    assert found[2].to_best.value == pytest.approx(-0.15)


def test_a_tie_names_the_one_that_trains_least_and_the_quickest(results):
    # 176 and 174 right, on other rows: the paired interval is wide.
    found = results(
        FLOOR,
        ("full", 176, 0, {"trained": 100_000, "seconds": 30.0}),
        ("lora", 174, 20, {"trained": 3_000, "seconds": 41.0}),
    )
    verdict = judge(found)
    assert [result.strategy for result in verdict.tied] == ["full", "lora"]
    assert verdict.sentences[0] == (
        "full and lora are tied at n=500; lora trains 3 % of the parameters and full takes least time (30.0 s)."
    )


def test_one_above_the_floor_is_named_though_the_highest_mean_is_within_chance_of_it(results):
    # The first is ahead by more, on and off the floor's rows; the second is right wherever the floor is.
    found = results(FLOOR, ("full", 148, 52, {}), ("lora", 147, 0, {}))
    verdict = judge(found)
    assert verdict.best.strategy == "full"
    assert found[1].to_floor.low < 0 < found[2].to_floor.low
    assert verdict.sentences[0].startswith("lora is above the floor at n=500 by 3.5 points (95 % interval ")
    assert verdict.sentences[1].startswith(
        "full has the highest mean, but is ahead of feature-extraction, by 4.0 points"
    )
    assert "within chance" in verdict.sentences[1]
    assert not any("Nothing beats" in sentence for sentence in verdict.sentences)


def test_one_that_is_cheapest_in_both_is_named_once(results):
    found = results(
        FLOOR,
        ("full", 176, 0, {"trained": 100_000, "seconds": 90.0}),
        ("lora", 176, 20, {"trained": 250, "seconds": 41.0}),
    )
    assert judge(found).sentences[0] == (
        "full and lora are tied at n=500; lora trains 0.2 % of the parameters and takes least time (41.0 s)."
    )


def test_nothing_beats_the_floor_when_what_is_ahead_is_ahead_by_chance(results):
    verdict = judge(results(FLOOR, ("full", 144, 30, {"seconds": 90.0}), ("lora", 100, 0, {})))
    assert verdict.best.strategy == "full"
    assert "feature-extraction" in [result.strategy for result in verdict.tied]
    said = verdict.sentences[0]
    assert said.startswith(
        "Nothing beats the floor at n=500: full is ahead of feature-extraction by 2.0 points"
    )
    assert "within chance; feature-extraction trains 1 % of the parameters" in said


def test_nothing_beats_the_floor_when_it_is_the_best(results):
    verdict = judge(results(FLOOR, ("full", 100, 0, {}), ("lora", 138, 20, {})))
    assert verdict.best.strategy == "feature-extraction"
    assert "feature-extraction" in [result.strategy for result in verdict.tied]
    assert verdict.sentences[0] == (
        "Nothing beats the floor at n=500: feature-extraction is best (70.0 %), and lora is tied with it."
    )


def test_one_seed_is_said_to_know_less(results):
    found = results(FLOOR, ("full", 180, 0, {}), seeds=1)
    assert (found[1].accuracy.low, found[1].accuracy.high) == pytest.approx((0.87, 0.93))
    assert "With one seed" in judge(found).sentences[-1]
    assert "With one seed" not in " ".join(judge(results(FLOOR, ("full", 180, 0, {}))).sentences)


def test_differences_count_the_seeds_that_both_finished_on_the_same_rows(make_cell, share_right):
    cells = [make_cell("feature-extraction", share_right(140), seed=seed) for seed in range(3)]
    cells += [
        make_cell("full", share_right(160), seed=0),
        make_cell("full", share_right(200), seed=1, rows_hash="x"),
    ]
    cells += [make_cell("full", state="failed", sentence="It broke.", right=share_right(1), seed=2)]
    full = summarise(cells)[1]
    assert full.seeds == (0, 1)
    assert full.failures == ((2, "It broke."),)
    assert full.to_floor.value == pytest.approx(0.1)


def test_seeds_that_share_their_test_rows_are_not_taken_for_as_many_draws(make_cell):
    right = {"feature-extraction": np.arange(75) >= 15, "full": np.arange(75) >= 8}
    cells = [
        make_cell(name, np.roll(hits, seed), seed=seed, rows_hash="own test part")
        for seed in range(5)
        for name, hits in right.items()
    ]
    apart = [replace(cell, rows_hash=f"split {cell.seed}") for cell in cells]
    (floor, shared), (_, split) = summarise(cells), summarise(apart)
    for name in ("accuracy", "balanced_accuracy", "to_floor"):
        one, other = getattr(shared, name), getattr(split, name)
        assert one.value == other.value
        assert one.high - one.low > 1.5 * (other.high - other.low)
    assert (floor.to_best.low, floor.to_best.high) == (-shared.to_floor.high, -shared.to_floor.low)


def test_differences_hold_for_all_strategies_at_once(make_cell, share_right):
    def above(*names):
        cells = [make_cell("feature-extraction", share_right(140))]
        cells += [make_cell(name, share_right(150, 3)) for name in names]
        return summarise(cells)[1].to_floor

    one, many = above("full"), above("full", "partial", "lora", "gradual", "adapters")
    assert one.value == many.value
    assert one.low > 0 > many.low


def test_differences_to_the_floor_hold_for_all_backbones_at_once(make_cell, share_right):
    def above(*backbones):
        cells = [
            make_cell(name, right, backbone=backbone)
            for backbone in backbones
            for name, right in (
                ("feature-extraction", share_right(140)),
                ("full", share_right(151 if backbone == "toy" else 149, 3)),
            )
        ]
        found = summarise(cells)
        return found[0], found[1]

    (_, one), (floor, many) = above("toy"), above("toy", *"abcdef")
    assert one.to_floor.value == many.to_floor.value
    assert one.to_floor.low > 0 > many.to_floor.low
    assert many.is_best
    assert (floor.to_best.low, floor.to_best.high) == (-many.to_floor.high, -many.to_floor.low)


def test_rows_of_a_group_are_drawn_together(make_cell, share_right):
    def told(groups):
        cells = [
            make_cell(name, share_right(count), seed=seed, rows_hash="own test part", groups=groups)
            for seed in range(3)
            for name, count in (("feature-extraction", 140), ("full", 160))
        ]
        return summarise(cells)[1]

    alone, grouped = told(""), told(key_groups([row // 20 for row in range(200)]))
    for name in ("accuracy", "balanced_accuracy", "to_floor"):
        one, other = getattr(alone, name), getattr(grouped, name)
        assert one.value == other.value
        assert other.high - other.low > 2 * (one.high - one.low)


def test_one_pair_has_one_interval_where_the_floor_is_the_best(results):
    found = results(
        ("feature-extraction", 155, 0, {}),
        ("full", 148, 0, {}),
        ("lora", 120, 0, {}),
        ("partial", 154, 4, {}),
    )
    floor, *others = found
    assert floor.is_best
    assert all(other.to_best == other.to_floor for other in others)


def test_what_beats_the_floor_of_a_worse_backbone_is_not_above_the_floor(make_cell, share_right):
    rights = {
        ("feature-extraction", "good"): (168, 0),
        ("full", "good"): (170, 5),
        ("feature-extraction", "bad"): (120, 0),
        ("full", "bad"): (145, 0),
    }
    cells = [
        make_cell(strategy, share_right(*right), backbone=backbone)
        for (strategy, backbone), right in rights.items()
    ]
    found = summarise(cells)
    assert found[3].to_floor.low > 0
    verdict = judge(found)
    assert verdict.best.backbone == "good"
    assert verdict.sentences[0].startswith("Nothing beats the floor")
    assert not any("full on bad is above" in sentence for sentence in verdict.sentences)


def test_a_higher_mean_of_fewer_seeds_is_told_beside_the_best(make_cell, share_right):
    cells = [make_cell("lora", share_right(165), seed=seed) for seed in range(3)]
    cells += [make_cell("full", share_right(185), seed=0)]
    cells += [
        make_cell("full", share_right(185), seed=seed, state="failed", sentence="No.") for seed in (1, 2)
    ]
    verdict = judge(summarise(cells))
    assert verdict.best.strategy == "lora"
    assert (
        "full has 92.5 %, but finished under 1 of 3 seeds alone, and is not called best for it."
        in verdict.sentences
    )


def test_a_mean_of_fewer_seeds_is_not_the_best(make_cell, share_right):
    cells = [make_cell("feature-extraction", share_right(140), seed=seed) for seed in range(3)]
    cells += [make_cell("full", share_right(200), seed=0)]
    assert [result.is_best for result in summarise(cells)] == [True, False]


def test_nothing_finished_gives_no_verdict(make_cell):
    cells = [make_cell("full", [True], state="failed", sentence="It broke.")]
    (result,) = summarise(cells)
    assert result.accuracy is None
    assert judge([result]) is None


def test_time_lost_to_an_interruption_is_not_invented(make_cell, share_right):
    cells = [make_cell("full", share_right(160), seed=seed, seconds=None) for seed in range(2)]
    assert summarise(cells)[0].seconds is None
    cells += [make_cell("full", share_right(160), seed=2, seconds=7.0)]
    assert summarise(cells)[0].seconds == 7.0


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.026, "3 %"), (0.0021, "0.2 %"), (0.00004, "0.004 %")]
)
def test_shares_keep_the_digits_they_need(share, text):
    assert share_text(share) == text


def test_a_class_of_few_rows_that_every_seed_answers_rightly_widens_the_mean_of_the_recalls(make_cell):
    # Nine of ten cats are right under each seed, and all of three dogs, which are the same ones or each seed's own.
    truth, right = np.repeat([0, 1], [200, 3]), np.arange(203) % 10 != 0
    right[200:] = True

    def balanced(rows_hash):
        cells = [
            make_cell(
                *("full", right),
                seed=seed,
                truth=truth,
                balanced_accuracy=0.95,
                rows_hash=rows_hash.format(seed),
            )
            for seed in range(3)
        ]
        return estimate(cells, "balanced_accuracy")

    same, own = balanced("own test part"), balanced("split {}")
    # Of three rows that are right 56 % may be wrong, of nine 30 %: half of that in the mean of two classes.
    assert same.value - same.low > 0.28
    assert 0.15 < own.value - own.low < 0.17
    assert same.high < 1.0
