"""Batches of a training on pairs: every row once, and something to compare it with."""

import numpy as np
import pytest

from unfreeze.data.chance import order
from unfreeze.engine.pairing import paired_batches


def classes(*counts):
    y = np.repeat(np.arange(len(counts)), counts)
    return y[order(5, 0, len(y))]


@pytest.mark.parametrize(
    "counts", [(1,), (1, 1), (7, 6), (8,) * 77, (1,) * 40, (100, 3), (64, 64), (33, 31), (90,), (17, 1, 40)]
)
@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_every_row_comes_once_an_epoch_and_no_batch_is_much_too_large(counts, size):
    y = classes(*counts)
    for epoch in (0, 1):
        batches = paired_batches(y, seed=3, epoch=epoch, batch_size=size)
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(y)))
        # Batches too small for two rows of a class are no use.
        assert max(map(len, batches)) <= max(1.3 * size, 2 * min(len(counts), len(y)) if size < 8 else 0) + 2
        again = paired_batches(y, seed=3, epoch=epoch, batch_size=size)
        assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        *[
            ((32, 32), 32),
            ((64, 64), 32),
            ((40, 60), 16),
            ((8,) * 20, 32),
            ((9,) * 16, 32),
            ((12, 30, 50), 32),
        ],
        # One row more than a batch holds, or than its share of each class.
        *[
            ((17, 17), 32),
            ((33, 33), 32),
            ((49, 49), 32),
            ((11, 11, 11), 32),
            ((9, 9, 9, 9), 32),
            ((9, 9), 16),
        ],
    ],
)
def test_each_row_meets_one_of_its_class_and_some_of_another(counts, size):
    y = classes(*counts)
    for epoch in range(5):
        for batch in paired_batches(y, seed=0, epoch=epoch, batch_size=size):
            _, found = np.unique(y[batch], return_counts=True)
            assert len(found) > 1
            assert found.min() > 1


def test_of_many_classes_every_row_meets_one_of_its_own():
    y = classes(*(8,) * 77)
    for batch in paired_batches(y, seed=0, epoch=0, batch_size=32):
        assert np.unique(y[batch], return_counts=True)[1].min() > 1


def test_a_rare_class_is_spread_over_the_epoch():
    y = classes(600, 40)
    batches = paired_batches(y, seed=0, epoch=0, batch_size=32)
    rare = [int((y[batch] == 1).sum()) for batch in batches]
    assert sum(count > 0 for count in rare) >= 18
    assert max(rare) <= 4


def test_others_meet_in_the_next_epoch_and_with_another_seed():
    y = classes(64, 64)

    def together(seed, epoch):
        found = paired_batches(y, seed=seed, epoch=epoch, batch_size=32)
        number = np.empty(len(y), dtype=int)
        for index, batch in enumerate(found):
            number[batch] = index
        return number[:, None] == number[None]

    first = together(0, 0)
    for other in (together(0, 1), together(1, 0)):
        assert float((first & other).sum() / first.sum()) < 0.4


def test_parts_of_a_batch_hold_several_classes_too():
    y = classes(64, 64)
    for batch in paired_batches(y, seed=0, epoch=0, batch_size=32):
        for part in np.split(batch, 2):
            assert len(np.unique(y[part])) == 2
