from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unfreeze.choose.candidates import Candidate
from unfreeze.choose.trials import Expectation
from unfreeze.choose.verdict import CollapseWatch, judge

CANDIDATE = Candidate(strategy="full", hope=0.2, reason="")


def expected(
    found: float | None, error: float | None, *, gain: float = 0.05, price: float = 0.005
) -> Expectation:
    return Expectation(
        candidate=CANDIDATE,
        gain=gain,
        error=0.01,
        seconds=1.0,
        price=price,
        full_length=True,
        found=found,
        found_error=error,
    )


def rows(right: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < right


def test_what_is_right_more_often_than_the_probe_is_shipped():
    verdict = judge(expected(0.05, 0.02), rows(90), rows(80))
    assert verdict.ship
    assert verdict.reason.endswith("which is more than its price of 0.5 points. It is shipped.")


def test_what_falls_below_the_probe_is_not_shipped():
    verdict = judge(expected(0.02, 0.02), rows(70), rows(80))
    assert not verdict.ship
    assert verdict.reason.endswith("which is not more than its price of 0.5 points. The probe is shipped.")


def test_weights_that_fell_below_the_probe_are_not_shipped_however_well_the_trials_did():
    verdict = judge(expected(0.06, 0.01), rows(35, of=39), rows(39, of=39))
    assert verdict.gain > 0.005
    assert not verdict.ship
    assert (
        "but the weights that were trained are −10.3 points on rows of their own. The probe is"
        in verdict.reason
    )


def test_a_gain_within_chance_is_shipped_and_told_so():
    told = judge(expected(0.02, 0.03), rows(82), rows(80)).reason
    assert told.endswith("which is more than its price of 0.5 points, though within chance. It is shipped.")


def test_the_best_of_several_is_told_so_and_known_less_well():
    alone, best = (judge(expected(0.035, 0.02), rows(83), rows(80), among=among) for among in (1, 3))
    assert "flatters" not in alone.reason
    assert "which flatters" in best.reason
    assert alone.gain == best.gain
    assert best.ship
    assert "though within chance" not in alone.reason
    assert "though within chance" in best.reason
    # Without trials there is nothing that was the best of any.
    assert judge(expected(None, None), rows(84), rows(80), among=3) == judge(
        expected(None, None), rows(84), rows(80)
    )


def test_few_validation_rows_do_not_undo_certain_trials():
    assert judge(expected(0.05, 0.005), rows(18, of=20), rows(19, of=20)).ship


def test_without_trials_validation_alone_decides():
    assert judge(expected(None, None), rows(81), rows(80)).ship
    assert not judge(expected(None, None), rows(80), rows(80)).ship


@pytest.mark.parametrize("error", [0.005, 0.05], ids=["certain", "uncertain"])
def test_a_tie_ships_the_probe_whatever_the_gain_that_was_expected(error):
    verdict = judge(expected(0.0, error, gain=0.2), rows(80), rows(80))
    assert not verdict.ship
    assert "which is not more than its price" in verdict.reason


def test_what_was_hoped_counts_as_much_as_it_is_known():
    level = expected(0.0, 0.05)
    hoped = replace(level, hoped=0.03, hoped_error=0.05)
    verdict = judge(hoped, rows(16, of=20), rows(16, of=20))
    assert not judge(level, rows(16, of=20), rows(16, of=20)).ship
    assert verdict.ship
    # Twenty rows of its own have a standard error of a row, as much as the trials and the hope.
    assert verdict.gain == pytest.approx(0.03 / 3)
    assert (
        "found +0.0 points, where +3.0 points ± 9.8 were hoped for: +1.0 points ± 5.7 together"
        in verdict.reason
    )
    # Trials on fewer rows are corrected as where nothing was hoped.
    behind = judge(replace(hoped, behind=0.02), rows(16, of=20), rows(16, of=20))
    assert verdict.gain < behind.gain < verdict.gain + 0.02 / 3
    # However much was hoped for: what fell on its own rows stays behind.
    fallen = judge(replace(hoped, hoped=0.3), rows(13, of=20), rows(16, of=20))
    assert fallen.gain > 0.005
    assert not fallen.ship


def test_trials_that_learnt_from_fewer_rows_count_for_more_and_it_is_said():
    level = expected(0.0, 0.01)
    verdict = judge(replace(level, behind=0.02), rows(16, of=20), rows(16, of=20))
    assert verdict.ship
    # They are known the less well the more is added: 20 rows of its own have a standard error of a row.
    own, trials = 0.05**-2, 1 / (0.01**2 + 0.02**2)
    assert verdict.gain == pytest.approx(0.02 * trials / (own + trials))
    assert (
        "trials on the other rows found +0.0 points with fewer rows to learn from, for which +2.0 points count:"
        in verdict.reason
    )
    assert "fewer rows" not in judge(level, rows(16, of=20), rows(16, of=20)).reason
    # Without trials nothing is behind.
    assert not judge(replace(expected(None, None), behind=0.01), rows(80), rows(80)).ship


def test_a_gain_below_the_price_is_not_shipped():
    assert judge(expected(0.02, 0.01, price=0.005), rows(81), rows(80)).ship
    assert not judge(expected(0.02, 0.01, price=0.05), rows(81), rows(80)).ship


@pytest.mark.parametrize(("epochs", "many"), [(1, 2), (3, 2), (8, 2), (12, 3), (40, 10)])
def test_a_collapse_is_called_after_a_quarter_of_the_epochs_in_a_row_that_are_clearly_below(epochs, many):
    watch = CollapseWatch(0.8, rows=100, epochs=epochs)
    assert [watch.fallen(0.5) for _ in range(many)] == [False] * (many - 1) + [True]


def test_a_collapse_is_called_before_patience_ends_the_training():
    watch = CollapseWatch(0.8, rows=100, epochs=40, patience=3)
    assert [watch.fallen(0.5) for _ in range(3)] == [False, False, True]


def test_a_training_that_dips_while_its_rate_rises_has_not_collapsed():
    # 200 digits, full fine-tuning: validation accuracy of 30 rows by epoch, of which the probe has 28 right.
    seen = (0.77, 0.83, 0.80, 0.80, 0.80, 0.90, 0.87, 0.93, 0.90, 0.83, 0.93, *[0.97] * 29)
    watch = CollapseWatch(28 / 30, rows=30, epochs=len(seen))
    assert not any(watch.fallen(accuracy) for accuracy in seen)


@pytest.mark.parametrize("accuracies", [(0.5, 0.8, 0.5, 0.8), (0.75, 0.75, 0.75), (None, None, None)])
def test_a_plateau_at_the_floor_is_no_collapse(accuracies):
    watch = CollapseWatch(0.8, rows=100, epochs=10)
    assert not any(watch.fallen(accuracy) for accuracy in accuracies)
