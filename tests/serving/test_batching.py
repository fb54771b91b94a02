"""Rows become few batches in turns; what is too much, too late or given up on is not computed."""

import threading
from concurrent.futures import CancelledError

import pytest

from unfreeze.serving.batching import Batcher, ClosedError, OverloadedError


class Slow:
    """Computes when it is let, and keeps what it was given."""

    def __init__(self):
        self.gate, self.entered, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, rows):
        self.entered.set()
        assert self.gate.wait(30)
        self.batches.append([row.value for row in rows])
        if any(row.value == "bad" for row in rows):
            raise ValueError("bad row")
        return [(row.value, row.tasks) for row in rows]


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def batcher(slow):
    made = Batcher(slow, size=4, wait=0.0, queue=10, name="toy")
    yield made
    slow.gate.set()
    made.close()


def held(batcher, slow):
    """Something is being computed: what comes now waits."""
    first = batcher.submit(["first"], ("a",), seconds=30)
    assert slow.entered.wait(30)
    return first


def test_every_row_is_answered_in_its_place_and_batches_are_bounded(batcher, slow):
    slow.gate.set()
    futures = batcher.submit(list(range(9)), ("a", "b"), seconds=30)
    assert [future.result(30) for future in futures] == [(value, ("a", "b")) for value in range(9)]
    assert all(len(batch) <= 4 for batch in slow.batches)
    assert batcher.waiting == 0


def test_tasks_take_turns(batcher, slow):
    held(batcher, slow)
    batcher.submit([f"a{place}" for place in range(6)], ("a",), seconds=30)
    (other,) = batcher.submit(["b0"], ("b",), seconds=30)
    slow.gate.set()
    other.result(30)
    assert slow.batches[1] == ["a0", "b0", "a1", "a2"]


def test_what_does_not_fit_is_refused_as_a_whole_and_the_rest_goes_on(batcher, slow):
    held(batcher, slow)
    kept = batcher.submit(list(range(8)), ("a",), seconds=30)
    with pytest.raises(OverloadedError, match="8 inputs wait"):
        batcher.submit(["x", "y", "z"], ("a",), seconds=30)
    kept += batcher.submit(["x", "y"], ("a",), seconds=30)
    slow.gate.set()
    assert [future.result(30)[0] for future in kept] == [*range(8), "x", "y"]


def test_a_row_that_waited_too_long_or_was_given_up_on_is_not_computed(batcher, slow):
    held(batcher, slow)
    (late,) = batcher.submit(["late"], ("a",), seconds=-1)
    (gone,) = batcher.submit(["gone"], ("a",), seconds=30)
    gone.cancel()
    slow.gate.set()
    with pytest.raises(TimeoutError):
        late.result(30)
    with pytest.raises(CancelledError):
        gone.result(30)
    (good,) = batcher.submit(["good"], ("a",), seconds=30)
    assert good.result(30)[0] == "good"
    assert slow.batches == [["first"], ["good"]]


def test_an_error_reaches_its_batch_alone(batcher, slow):
    slow.gate.set()
    (bad,) = batcher.submit(["bad"], ("a",), seconds=30)
    with pytest.raises(ValueError, match="bad row"):
        bad.result(30)
    (good,) = batcher.submit(["good"], ("a",), seconds=30)
    assert good.result(30)[0] == "good"


def test_closing_answers_what_waits_and_takes_no_more(slow):
    batcher = Batcher(slow, size=4, wait=5.0, queue=10, name="toy")
    futures = batcher.submit(list(range(6)), ("a",), seconds=30)
    slow.gate.set()
    batcher.close()
    assert [future.result(0)[0] for future in futures] == list(range(6))
    with pytest.raises(ClosedError):
        batcher.submit(["x"], ("a",), seconds=30)


def test_the_first_row_waits_for_others(slow):
    slow.gate.set()
    batcher = Batcher(slow, size=3, wait=30.0, queue=10, name="toy")
    futures = [batcher.submit([value], ("a",), seconds=60)[0] for value in range(3)]
    for future in futures:
        future.result(30)
    assert slow.batches == [[0, 1, 2]]
    batcher.close()
