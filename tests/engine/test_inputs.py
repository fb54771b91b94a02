"""Order and variation are functions of seed, round and row alone."""

import numpy as np
import pytest
import torch

from unfreeze.data.tokens import KeptTokens, TokenRows
from unfreeze.engine.devices import has_room
from unfreeze.engine.inputs import TextInputs, cut
from unfreeze.runtime.padding import padded


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 17, 33, 38, 65])
def test_every_row_comes_exactly_once_an_epoch_and_none_alone(t, kind, rows):
    inputs = t.rows_of(kind, rows, 0).inputs
    for epoch in (0, 1):
        batches = inputs.batches(3, epoch, 8)
        assert min(map(len, batches)) > 1 or rows == 1
        assert sorted(np.concatenate(batches).tolist()) == list(range(rows))
        assert all(np.array_equal(a, b) for a, b in zip(batches, inputs.batches(3, epoch, 8), strict=True))


def test_orders_differ_between_epochs_and_seeds(t, kind):
    inputs = t.rows_of(kind, 38, 0).inputs
    orders = {tuple(np.concatenate(inputs.batches(seed, epoch, 8))) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_a_last_batch_of_one_joins_the_one_before():
    assert [part.tolist() for part in cut(np.arange(9), 4)] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert [part.tolist() for part in cut(np.arange(6), 4)] == [[0, 1, 2, 3], [4, 5]]
    assert [part.tolist() for part in cut(np.arange(1), 4)] == [[0]]


@pytest.mark.parametrize("augment", ["light", "strong", "dihedral"])
def test_a_picture_looks_the_same_alone_and_in_a_batch(t, augment):
    inputs = t.rows_of("cnn", 12, 0, augment=augment).inputs
    together = inputs.batch(np.arange(12), 5).h
    for row in range(12):
        assert torch.equal(inputs.batch(np.array([row]), 5).h[0], together[row])
    assert not torch.equal(together, inputs.batch(np.arange(12), 6).h)
    assert torch.equal(inputs.batch(np.arange(12), None).h, torch.from_numpy(inputs.squares))


def test_texts_are_padded_on_the_right_to_a_multiple_and_never_past_the_longest(t):
    inputs = t.rows_of("text", 38, 0).inputs
    longest = int(inputs.lengths.max())
    short = np.flatnonzero(inputs.lengths <= 5)[:3]
    state = inputs.batch(short, None)
    assert state.h.shape == (3, 8)
    for position, row in enumerate(short):
        length = inputs.lengths[row]
        assert state.h[position, :length].tolist() == inputs.ids[row].tolist()
        assert state.h[position, length:].eq(0).all()
        assert state.mask[position].tolist() == [True] * length + [False] * (8 - length)
    assert longest % 8 != 0
    assert inputs.batch(np.arange(38), None).h.shape[1] == longest
    assert (padded(5, most=24), padded(17, most=18), padded(8, most=9)) == (8, 18, 8)


def test_texts_that_a_data_set_keeps_are_batched_as_any_others():
    class Words:
        def encode_with_lengths(self, texts):
            ids = [np.array([len(word) for word in text.split()], dtype=np.int64) for text in texts]
            return ids, np.array([len(row) for row in ids])

    kept, rng = KeptTokens(Words()), np.random.default_rng(0)
    texts = [" ".join("x" * size for size in rng.integers(1, 9, rng.integers(2, 19))) for _ in range(30)]
    keys = rng.integers(0, 2**63, 30).astype(np.uint64)
    rows = TokenRows(kept, kept.places(texts))
    lists = [list(rows), rows]
    plain, mapped = (TextInputs(ids, keys, 0, 5, torch.device("cpu"), 0.3) for ids in lists)
    some = np.array([3, 29, 0, 11])
    for one, two in ((plain, mapped), (plain.select(some), mapped.select(some))):
        assert one.lengths.tolist() == two.lengths.tolist()
        for first, second in zip(one.batches(1, 0, 4), two.batches(1, 0, 4), strict=True):
            assert first.tolist() == second.tolist()
            left, right = one.batch(first, 2), two.batch(second, 2)
            assert torch.equal(left.h, right.h)
            assert torch.equal(left.mask, right.mask)
    assert isinstance(mapped.select(some).ids, TokenRows)


def test_rows_of_similar_length_share_a_batch(t):
    inputs = t.rows_of("text", 64, 0).inputs
    spread = [np.ptp(inputs.lengths[rows]) for rows in inputs.batches(0, 0, 8)]
    by_chance = [np.ptp(inputs.lengths[rows]) for rows in cut(np.arange(64), 8)]
    assert np.mean(spread) < 0.8 * np.mean(by_chance)


def test_texts_of_a_small_set_do_not_meet_the_same_ones_in_every_epoch(t):
    inputs = t.rows_of("text", 256, 0).inputs

    def together(epoch):
        number = np.empty(256, dtype=int)
        for index, rows in enumerate(inputs.batches(0, epoch, 8)):
            number[rows] = index
        return number[:, None] == number[None]

    first = together(0) & ~np.eye(256, dtype=bool)
    again = [float((first & together(epoch)).sum() / first.sum()) for epoch in range(1, 5)]
    assert np.mean(again) < 0.3


def test_token_dropout_leaves_the_ends_and_depends_on_the_row_alone(t):
    inputs = t.rows_of("text", 30, 0, token_dropout=0.5).inputs
    whole = inputs.batch(np.arange(30), 2)
    kept = 0
    for row in range(30):
        alone = inputs.batch(np.array([row]), 2)
        ids = alone.h[0][alone.mask[0]].tolist()
        assert ids == whole.h[row][whole.mask[row]].tolist()
        assert ids[0] == inputs.ids[row][0]
        assert ids[-1] == inputs.ids[row][-1]
        kept += len(ids) - 2
    inner = int(inputs.lengths.sum()) - 60
    assert 0.35 < kept / inner < 0.65
    plain = inputs.batch(np.arange(30), None)
    assert int(plain.mask.sum()) == int(inputs.lengths.sum())


def test_an_accelerator_holds_what_a_quarter_of_its_free_memory_has_room_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (300, 800))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 150)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50)
    assert [has_room(torch.device("cuda"), nbytes) for nbytes in (100, 101)] == [True, False]
    assert not has_room(torch.device("cpu"), 1)
