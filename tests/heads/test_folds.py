from __future__ import annotations

import numpy as np
import pytest

from unfreeze.heads.folds import (
    ALWAYS_TRAINED,
    assign_folds,
    can_be_held_out,
    held_together,
    stratified_sample,
)


def test_folds_are_even_in_size_and_in_every_class():
    y = np.repeat([0, 1, 2], [41, 23, 9])
    fold = assign_folds(y, folds=5, seed=3)
    assert sorted(np.bincount(fold)) == [14, 14, 15, 15, 15]
    for label in range(3):
        per_fold = np.bincount(fold[y == label], minlength=5)
        assert per_fold.max() - per_fold.min() <= 1


def test_a_small_class_lowers_the_number_of_folds_down_to_two():
    assert assign_folds(np.repeat([0, 1], [50, 3]), folds=5, seed=0).max() + 1 == 3
    assert assign_folds(np.repeat([0, 1], [50, 2]), folds=5, seed=0).max() + 1 == 2


def test_the_row_of_a_class_with_one_row_is_never_held_out():
    y = np.repeat([0, 1, 2], [20, 1, 20])
    fold = assign_folds(y, folds=5, seed=0)
    assert fold[20] == ALWAYS_TRAINED
    assert (np.delete(fold, 20) >= 0).all()


def test_without_a_class_of_two_rows_there_is_nothing_to_validate():
    with pytest.raises(ValueError, match="two rows"):
        assign_folds(np.array([0, 1]), folds=5, seed=0)


def test_a_group_is_never_split_and_folds_stay_balanced():
    random = np.random.default_rng(0)
    groups = random.integers(0, 60, 600).astype(np.int32)
    y = (random.random(600) < 0.3).astype(np.intp)
    fold = assign_folds(y, folds=5, seed=1, groups=groups)
    assert all(len(set(fold[groups == group])) == 1 for group in range(60))
    share = [y[fold == k].mean() for k in range(5)]
    size = np.bincount(fold)
    assert max(share) - min(share) < 0.06
    assert size.max() - size.min() < 40


def test_there_are_no_more_folds_than_groups_and_none_is_empty():
    y = np.arange(40) % 2
    groups = np.repeat([7, 8, 9], [30, 5, 5]).astype(np.int32)
    assert sorted(np.bincount(assign_folds(y, folds=5, seed=0, groups=groups))) == [5, 5, 30]
    one = np.zeros(40, dtype=np.int32)
    assert assign_folds(y, folds=5, seed=0, groups=one).max() + 1 == 5


def test_rows_stand_for_themselves_where_neither_group_nor_content_repeats():
    assert held_together(np.array([5, 9, 7], dtype=np.uint64), None) is None


def test_equal_contents_are_held_out_together_unless_groups_say_what_is():
    contents = np.array([1, 2, 1, 3, 4, 3], dtype=np.uint64)
    alone = held_together(contents, None)
    assert alone[0] == alone[2]
    assert alone[3] == alone[5]
    assert len(set(alone)) == 4
    groups = np.array([0, 0, 1, 2, 2, 3], dtype=np.int32)
    assert held_together(contents, groups).tolist() == groups.tolist()


@pytest.mark.parametrize("copies", [2, 4, 10])
def test_copies_share_a_fold_and_folds_stay_even_in_every_class(copies):
    random = np.random.default_rng(copies)
    # Two thirds of the contents stand once.
    content = np.concatenate([np.arange(200), np.repeat(np.arange(200, 300), copies)])
    y = (content % 3 == 0).astype(np.intp)
    shuffled = random.permutation(len(y))
    content, y = content[shuffled], y[shuffled]
    fold = assign_folds(y, folds=5, seed=1, groups=held_together(content.astype(np.uint64), None))
    assert all(len(set(fold[content == one])) == 1 for one in range(300))
    for label in range(2):
        per_fold = np.bincount(fold[y == label], minlength=5)
        assert per_fold.max() - per_fold.min() <= copies


def test_a_class_of_one_content_is_never_held_out():
    y = np.repeat([0, 1, 2], [10, 4, 10])
    groups = np.concatenate([np.arange(10), [50] * 4, np.arange(10) + 20])
    fold = assign_folds(y, folds=5, seed=0, groups=groups)
    assert (fold[y == 1] == ALWAYS_TRAINED).all()
    assert (fold[y != 1] >= 0).all()


def test_where_every_class_is_one_content_rows_are_held_out_from_their_copies():
    y = np.repeat([0, 1], 6)
    assert not can_be_held_out(y, y)
    assert (assign_folds(y, folds=3, seed=0, groups=y) == assign_folds(y, folds=3, seed=0)).all()
    assert can_be_held_out(y)
    assert not can_be_held_out(np.arange(5))


def test_the_seed_decides_the_folds():
    y = np.arange(100) % 2
    first, again, other = (assign_folds(y, folds=5, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_sample_keeps_shares_and_rare_classes():
    y = np.repeat([0, 1, 2], [9000, 990, 10])
    rows = stratified_sample(y, size=1000, seed=0)
    assert np.bincount(y[rows]).tolist() == [900, 99, 2]
    assert (np.diff(rows) > 0).all()
    assert len(stratified_sample(y, size=10_000, seed=0)) == 10_000
