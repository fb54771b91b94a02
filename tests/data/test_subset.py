"""Fewer rows to learn from: nested, stratified, a function of seed and identity; the test part stays."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pyarrow as pa
import pytest

from unfreeze.data.dataset import PARTS
from unfreeze.data.load import load_dataset
from unfreeze.data.split import Pool, draw_parts, hash_order
from unfreeze.data.subset import keep_rows
from unfreeze.errors import DataError

SHARES = {"val": 0.15, "test": 0.15}
TEST = PARTS.index("test")


def pool(label, *, seed=0, stratum=None, names=None):
    label = np.asarray(label, dtype=np.int32)
    identity = pa.array(names or [f"row {n}" for n in range(len(label))])
    return Pool(
        source="toys",
        names=tuple(f"c{n}" for n in range(label.max() + 1)),
        label=label,
        order=hash_order(identity, seed),
        stratum=None if stratum is None else np.asarray(stratum, dtype=np.int32),
    )


def counts(rows, part, keep):
    """Kept rows by part (train, val, test) and class."""
    return [
        np.bincount(rows.label[keep & (part == number)], minlength=len(rows.names)).tolist()
        for number in range(3)
    ]


def test_each_size_lies_within_the_next_in_train_and_in_val():
    rows = pool(np.repeat([0, 1, 2], [300, 90, 40]))
    part = draw_parts(rows, SHARES)
    kept = [keep_rows(rows, part, size) for size in (10, 11, 12, 50, 51, 100, 200, 365)]
    for smaller, larger in itertools.pairwise(kept):
        assert not (smaller & ~larger).any()
    assert [int((keep & (part != TEST)).sum()) for keep in kept] == [10, 11, 12, 50, 51, 100, 200, 365]


def test_test_rows_all_stay_and_each_class_gets_its_rounded_share():
    rows = pool(np.repeat([0, 1, 2], [1000, 200, 100]))
    part = draw_parts(rows, SHARES)
    assert counts(rows, part, np.ones(1300, dtype=bool)) == [[700, 140, 70], [150, 30, 15], [150, 30, 15]]
    assert counts(rows, part, keep_rows(rows, part, 110)) == [[70, 14, 7], [15, 3, 1], [150, 30, 15]]


def test_a_rare_class_keeps_two_rows_however_small_the_size():
    rows = pool(np.repeat([0, 1], [2000, 12]))
    part = draw_parts(rows, SHARES)
    train, val, _ = counts(rows, part, keep_rows(rows, part, 20))
    assert train == [14, 2]
    assert val == [4, 0]


def test_strata_are_kept_in_proportion():
    label, stratum = np.repeat([0, 1], 400), np.tile([0, 0, 0, 1], 200)
    rows = pool(label, stratum=stratum)
    part = draw_parts(rows, SHARES)
    keep = keep_rows(rows, part, 80) & (part != TEST)
    assert np.bincount(stratum[keep]).tolist() == pytest.approx([60, 20], abs=2)


def test_the_choice_follows_the_rows_and_not_their_order():
    names = [f"row {n}" for n in range(120)]
    label = np.arange(120) % 3
    shuffled = np.random.default_rng(0).permutation(120)
    first, second = pool(label, names=names), pool(label[shuffled], names=[names[n] for n in shuffled])
    kept = [keep_rows(rows, draw_parts(rows, SHARES), 40) for rows in (first, second)]
    assert set(np.flatnonzero(kept[0])) == set(shuffled[kept[1]])
    other = pool(label, names=names, seed=1)
    assert set(np.flatnonzero(keep_rows(other, draw_parts(other, SHARES), 40))) != set(
        np.flatnonzero(kept[0])
    )


def test_sizes_that_cannot_be_are_refused_with_the_nearest_that_can():
    rows = pool(np.repeat([0, 1, 2], 20))
    part = draw_parts(rows, SHARES)
    with pytest.raises(DataError, match="--train-size 52 is more than the 51 rows of toys that are not test"):
        keep_rows(rows, part, 52)
    with pytest.raises(
        DataError, match="--train-size 6 is too small for the 3 classes of toys: give 7 at least"
    ):
        keep_rows(rows, part, 6)
    assert (keep_rows(rows, part, 7) & (part == 0)).sum() == 6
    assert keep_rows(rows, part, 51).all()


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    return str(path)


def test_a_data_set_keeps_its_test_rows_and_says_how_many_it_learns_from(tmp_path):
    source = write(tmp_path / "t.csv", [[f"a text, {n}", "ab"[n % 2]] for n in range(100)])
    whole, half = load_dataset(source), load_dataset(source, train_size=40)
    names = [{data.samples.name(row) for row in data.rows("test")} for data in (whole, half)]
    assert names[0] == names[1]
    assert len(half.rows("train", "val")) == 40
    assert len(half.rows("val")) == round(40 * len(whole.rows("val")) / len(whole.rows("train", "val")))
    assert half.inferred[-1].value == "40 rows"
    assert half.fingerprint != whole.fingerprint


def test_given_validation_and_test_data_stay_whole(tmp_path):
    source = write(tmp_path / "t.csv", [[f"a text, {n}", "ab"[n % 2]] for n in range(60)])
    held = {
        part: write(tmp_path / f"{part}.csv", [[f"{part}, {n}", "ab"[n % 2]] for n in range(10)])
        for part in ("val", "test")
    }
    data = load_dataset(source, train_size=30, **held)
    assert [len(data.rows(part)) for part in PARTS] == [30, 10, 10]
