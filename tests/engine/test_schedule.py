"""The rate of a step is a pure function of its number."""

import math

import pytest

from unfreeze.engine.schedule import rate_factor
from unfreeze.plan import Phase


def phase(**settings):
    return Phase(name="p", epochs=1, **settings)


def test_warm_up_rises_to_the_peak_and_the_cosine_falls_from_it():
    found = [rate_factor(phase(warmup=0.2), step, 10) for step in range(10)]
    cosine = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert found == pytest.approx([1 / 3, 2 / 3, *cosine])
    assert max(found) == 1.0
    assert 0 < found[-1] < 0.05


def test_a_linear_rate_falls_by_the_same_amount_each_step():
    found = [rate_factor(phase(warmup=0.2, schedule="linear"), step, 10) for step in range(10)]
    assert found == pytest.approx([1 / 3, 2 / 3, *(1 - step / 8 for step in range(8))])


def test_a_constant_rate_stays_at_the_peak_after_warm_up():
    found = [rate_factor(phase(warmup=0.5, schedule="constant"), step, 4) for step in range(4)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 1])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_no_step_has_a_rate_of_zero_however_short_the_phase(steps):
    for warmup in (0.0, 0.1, 1.0):
        assert all(rate_factor(phase(warmup=warmup), step, steps) > 0 for step in range(steps))
    assert rate_factor(phase(warmup=1.0), steps - 1, steps) == 1.0
