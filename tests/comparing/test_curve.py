"""Learning curves: a known law is recovered, and the answer in words follows the numbers."""

import numpy as np
import pytest

from unfreeze.comparing.curve import answer, draw_curve, fit_power_law
from unfreeze.comparing.rows import key_groups
from unfreeze.proportions import wilson_interval

SIZES = (50, 100, 200, 400, 800)


@pytest.mark.parametrize(("a", "b", "c"), [(0.05, 2.0, 0.7), (0.0, 1.5, 0.35), (0.2, 5.0, 1.0)])
def test_a_known_law_is_recovered(a, b, c):
    law = fit_power_law(SIZES, [a + b * n**-c for n in SIZES])
    assert law.a == pytest.approx(a, abs=0.002)
    assert law.c == pytest.approx(c, abs=0.006)
    assert law(1600) == pytest.approx(a + b * 1600**-c, abs=5e-4)


def test_a_flat_curve_promises_nothing_and_errors_never_fall_below_zero():
    flat = fit_power_law(SIZES, [0.1] * 5)
    assert flat(1600) == pytest.approx(0.1)
    steep = fit_power_law(SIZES, [0.5, 0.2, 0.05, 0.0, 0.0])
    assert steep.a >= 0
    assert steep.b >= 0
    rising = fit_power_law(SIZES, [0.1, 0.12, 0.13, 0.14, 0.15])
    assert rising.b == 0
    assert rising(1600) == pytest.approx(0.128)
    with pytest.raises(ValueError, match="3 sizes"):
        fit_power_law((50, 100), (0.2, 0.1))


def cells_of(make_cell, errors, *, rows=2000, seeds=3):
    """Cells whose wrong rows are the first ones, so that a larger size is right wherever a smaller one is."""
    return [
        make_cell("full", np.arange(rows) >= round(error * rows), seed=seed, size=size)
        for size, error in errors.items()
        for seed in range(seeds)
    ]


def test_a_falling_error_says_yes_with_what_is_expected_of_twice_the_rows(make_cell):
    curve = draw_curve(cells_of(make_cell, {n: 0.02 + 2 * n**-0.6 for n in (50, 100, 200, 400)}))
    assert [rows for rows, _ in curve.points] == [50, 100, 200, 400]
    wanted = 1 - (0.02 + 2 * 800**-0.6)
    assert curve.doubled.value == pytest.approx(wanted, abs=0.003)
    assert curve.doubled.low <= curve.doubled.value <= curve.doubled.high
    assert 0 < curve.doubled.high - curve.doubled.low < 0.05
    rise = 2 * (200**-0.6 - 400**-0.6)
    assert curve.rise.value == pytest.approx(rise, abs=1e-3)
    said = answer(curve)
    assert said[0].startswith(
        "Would more labels help? Yes: twice as many rows (800) are expected to raise full by 1.9 points, to 94.3 % ("
    )
    assert said[1].startswith(
        f"From 200 to 400 rows accuracy rose by {curve.rise.value * 100:.1f} points (95 % interval "
    )


def test_what_is_expected_knows_that_seeds_share_their_test_rows(make_cell):
    def width(rows_hash):
        cells = [
            make_cell("full", np.arange(300) >= count, seed=seed, size=size, rows_hash=rows_hash.format(seed))
            for size, count in ((50, 120), (100, 75), (200, 48))
            for seed in range(5)
        ]
        expected = draw_curve(cells).doubled
        return expected.high - expected.low

    assert width("own test part") > 1.4 * width("split {}")


def test_rows_that_all_are_right_do_not_say_that_nothing_is_left_to_gain(make_cell):
    def drawn(rows):
        sizes = (50, 100, 200)
        return draw_curve(
            [make_cell("full", np.ones(rows), seed=seed, size=n) for n in sizes for seed in range(3)]
        )

    few = drawn(12)
    assert (few.doubled.value, few.doubled.high) == (1.0, 1.0)
    # 12 rows of each seed's own.
    assert few.doubled.low == few.points[-1][1].low == wilson_interval(1.0, 36)[0]
    assert (few.gain.value, few.gain.low) == (0.0, 0.0)
    assert few.gain.high == pytest.approx(1 - few.doubled.low)
    assert answer(few)[0].startswith("Would more labels help? Probably not much: ")
    assert answer(drawn(1000))[0].startswith("Would more labels help? Hardly: ")


def test_a_few_groups_of_test_rows_do_not_say_how_sure_a_curve_is(make_cell):
    def drawn(groups):
        codes = key_groups((np.arange(60) % groups).tolist())
        sizes = ((50, 15), (100, 11), (200, 8))
        return draw_curve(
            [make_cell("full", np.arange(60) >= wrong, size=n, groups=codes) for n, wrong in sizes]
        )

    for groups in (1, 4):
        curve = drawn(groups)
        assert curve.doubled.value == pytest.approx(0.902, abs=1e-3)
        assert (curve.doubled.low, curve.gain.high) == (None, None)
        assert answer(curve)[0] == (
            "Would more labels help? It cannot be told: fewer than 5 test rows, or groups of them, do not say how sure "
            "the curve is."
        )
    assert drawn(5).doubled.low < drawn(5).doubled.value < drawn(5).doubled.high


def test_a_curve_that_has_settled_says_hardly(make_cell):
    said = answer(draw_curve(cells_of(make_cell, {50: 0.101, 100: 0.1, 200: 0.1, 400: 0.1})))
    assert said[0].startswith("Would more labels help? Hardly")
    assert said[2] == "In no class did recall rise by more than chance explains."
    assert said[3].startswith("Of the errors at 400 rows most are left here: 50 % in ")


def test_where_accuracy_fell_no_law_is_fitted_and_nothing_is_promised(make_cell):
    curve = draw_curve(cells_of(make_cell, {50: 0.10, 100: 0.12, 200: 0.13, 400: 0.15}))
    assert (curve.law, curve.doubled, curve.gain) == (None, None, None)
    assert answer(curve)[0] == (
        "Would more labels help? It cannot be told: accuracy fell from 90.0 % at 50 rows to 85.0 % at 400, which the "
        "law of a learning curve does not fit."
    )
    # A little up and down is no fall.
    assert draw_curve(cells_of(make_cell, {50: 0.100, 100: 0.102, 200: 0.102, 400: 0.102})).law is not None


def test_what_is_said_to_be_gained_goes_from_law_to_law(make_cell):
    curve = draw_curve(cells_of(make_cell, {50: 0.3, 100: 0.2, 200: 0.19, 400: 0.1}))
    last, twice = 1 - curve.law(400), 1 - curve.law(800)
    assert curve.gain.value == pytest.approx(twice - last)
    assert abs(last - curve.points[-1][1].value) > 0.005
    assert f"by {(twice - last) * 100:.1f} points, to {twice * 100:.1f} % (" in answer(curve)[0].replace(
        "\u202f", " "
    )


def test_two_sizes_promise_nothing(make_cell):
    curve = draw_curve(cells_of(make_cell, {50: 0.2, 100: 0.1}))
    assert curve.law is None
    assert curve.doubled is None
    assert answer(curve)[0] == (
        "Would more labels help? Probably: two sizes cannot say how the curve goes on; give three or more."
    )
    assert draw_curve(cells_of(make_cell, {50: 0.2})) is None


def test_the_class_that_gained_is_named_with_its_support(make_cell):
    truth = np.repeat([0, 1], [300, 100])
    before = np.where(truth == 1, np.arange(400) % 2 == 0, True)
    after = np.where(truth == 1, np.arange(400) % 10 != 0, True)
    cells = [
        make_cell("full", right, seed=seed, size=size, truth=truth)
        for seed in range(2)
        for size, right in ((100, before), (200, after))
    ]
    curve = draw_curve(cells)
    dog, cat = curve.classes
    assert (dog.name, dog.support) == ("dog", 200)
    assert (dog.before, dog.after) == pytest.approx((0.5, 0.9))
    assert dog.gain.value == pytest.approx(0.4)
    assert cat.gain.value == 0
    assert -0.005 < cat.gain.low < 0 < cat.gain.high < 0.005
    assert answer(curve)[2].startswith("Labels helped most in 'dog' (recall 50.0 % to 90.0 %, +40.0 points")
    assert "200 test rows" in answer(curve)[2]
    # 20 of the 200 rows are wrong, all of them dogs.
    assert (dog.left, cat.left) == (1.0, 0.0)
    assert answer(curve)[3] == "Of the errors at 200 rows most are left here: 100 % in 'dog' (recall 90.0 %)."


def test_a_class_that_has_no_errors_left_does_not_hide_where_they_are(make_cell):
    truth = np.repeat([0, 1], [100, 100])
    before = np.arange(200) % 100 >= 30
    after = np.where(truth == 0, True, before)
    cells = [
        make_cell("full", right, size=size, truth=truth) for size, right in ((100, before), (200, after))
    ]
    said = answer(draw_curve(cells))
    assert said[2].startswith("Labels helped most in 'cat' (recall 70.0 % to 100.0 %")
    assert said[3] == "Of the errors at 200 rows most are left here: 100 % in 'dog' (recall 70.0 %)."
    right = [make_cell("full", np.ones(200), size=size, truth=truth) for size in (100, 200)]
    assert answer(draw_curve(right))[3] == "At 200 rows no test row is wrong any more."


def test_gains_of_many_classes_are_held_to_more_than_those_of_two(make_cell):
    def named(classes):
        labels = tuple(f"class {number}" for number in range(classes))
        truth = np.repeat(np.arange(classes), 40)
        # In the first class eight rows rise and one falls; nothing happens in the others.
        before, after = np.ones(len(truth), dtype=bool), np.ones(len(truth), dtype=bool)
        before[:8], after[8] = False, False
        cells = [
            make_cell(
                "full",
                right,
                size=size,
                truth=truth,
                answers=tuple(np.where(right, truth, (truth + 1) % classes).tolist()),
                labels=labels,
            )
            for size, right in ((100, before), (200, after))
        ]
        return answer(draw_curve(cells))[2]

    assert named(2).startswith("Labels helped most in 'class 0'")
    assert named(40) == "In no class did recall rise by more than chance explains."
