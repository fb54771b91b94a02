"""What a training does with the signals that ask it to end."""

import signal

import pytest

from unfreeze.training.stopping import stop_on_signal


def test_a_second_interruption_leaves_at_once_and_the_handlers_come_back(t):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    telling = t.Telling()
    with stop_on_signal(telling) as should_stop:
        assert not should_stop()
        signal.raise_signal(signal.SIGINT)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert telling.told == ["Stopping after this step; the state will be saved."]
    assert {number: signal.getsignal(number) for number in before} == before


def test_being_asked_to_end_twice_is_still_a_wish(t):
    with stop_on_signal(t.Telling()) as should_stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert should_stop()
