"""Near-duplicates and neighbours, on rows whose answers are known."""

import numpy as np
import pytest

from unfreeze.choose import likeness
from unfreeze.choose.likeness import count_pairs, evenly, find_twins, neighbours_right, standardise


def noise(rows, width=64, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def test_planted_copies_are_counted_and_told_by_part():
    features = noise(200)
    features[17] = features[5]
    features[90] = features[40] + 0.01 * noise(1, seed=3)[0]
    features[120] = features[60] * 1.0
    part = np.zeros(200, dtype=np.int8)
    part[[90, 150]] = 1
    found = count_pairs(features, part)
    assert (found.count, found.across) == (3, 1)
    assert (found.rows, found.total) == (200, 200)


def test_three_copies_of_a_row_are_three_pairs_wherever_the_blocks_end(monkeypatch):
    features = noise(50)
    features[[9, 10, 49]] = features[9]
    monkeypatch.setattr(likeness, "BLOCK_ROWS", 10)
    part = np.arange(50) >= 49
    found = count_pairs(features, part.astype(np.int8))
    assert (found.count, found.across) == (3, 2)


def test_a_row_is_found_with_the_one_that_is_most_like_it(monkeypatch):
    known, asked = noise(200), noise(30, seed=1)
    asked[4] = known[7] + 0.1 * noise(1, seed=3)[0]
    asked[29] = known[150]
    known[8] = known[7] + 0.2 * noise(1, seed=4)[0]
    monkeypatch.setattr(likeness, "BLOCK_ROWS", 7)
    found = find_twins(asked, known)
    assert found.asked.tolist() == [29, 4]
    assert found.known.tolist() == [150, 7]
    assert found.similarity[0] == pytest.approx(1)
    assert likeness.ALIKE < found.similarity[1] < 1
    assert (len(found), found.compared.tolist()) == (2, list(range(30)))


def test_of_many_rows_fewer_are_asked_and_all_others_looked_at(monkeypatch):
    monkeypatch.setattr(likeness, "MOST_COMPARED", 30)
    monkeypatch.setattr(likeness, "FEWEST_ASKED", 5)
    monkeypatch.setattr(likeness, "BLOCK_ROWS", 7)
    known, asked = noise(100), noise(100, seed=1)
    asked[37], asked[38] = known[22], known[22]
    found = find_twins(asked, known)
    # Thirty rows by thirty are nine by a hundred.
    assert found.compared.tolist() == [0, 12, 24, 37, 49, 61, 74, 86, 99]
    assert (found.asked.tolist(), found.known.tolist()) == ([37], [22])


def test_unrelated_rows_are_no_pairs():
    assert count_pairs(noise(300), np.zeros(300)).count == 0


def test_of_many_rows_evenly_spread_ones_are_compared(monkeypatch):
    monkeypatch.setattr(likeness, "MOST_COMPARED", 10)
    features = noise(100)
    features[50] = features[51]
    found = count_pairs(features, np.zeros(100))
    assert (found.rows, found.total) == (10, 100)
    assert evenly(100, 10).tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert evenly(3, 10).tolist() == [0, 1, 2]


def test_a_feature_in_another_unit_does_not_decide_what_is_alike():
    features = noise(60)
    features[:, 0] *= 1e4
    assert np.allclose(np.linalg.norm(standardise(features), axis=1), 1, atol=1e-5)
    assert np.abs(standardise(features)[:, 0]).max() < 0.9


def test_constant_features_are_no_division_by_zero():
    assert np.isfinite(standardise(np.ones((4, 3), dtype=np.float32))).all()


def clusters(rows_of_a_class, seed=1):
    random = np.random.default_rng(seed)
    y = np.repeat(np.arange(3), rows_of_a_class)
    return (np.eye(3)[y] * 10 + random.normal(size=(len(y), 3))).astype(np.float32), y


def test_separate_classes_are_answered_by_their_neighbours():
    features, y = clusters(12)
    assigned = np.arange(36) % 4
    assert neighbours_right(features, y, assigned, classes=3).all()


def test_a_row_with_the_wrong_label_is_the_one_that_is_not_found():
    features, y = clusters(12)
    y = y.copy()
    y[0] = 1
    assert neighbours_right(features, y, np.arange(36) % 4, classes=3).tolist() == [False, *[True] * 35]


def test_a_held_out_row_never_votes_for_itself():
    features = noise(40)
    y = np.arange(40) % 2
    features[1::2] = features[0::2]
    # Each row's twin has the other class, and both are held out together.
    together = (np.arange(40) // 2) % 4
    apart = np.arange(40) % 2
    near = neighbours_right(features, y, apart, classes=2)
    assert not near.any()
    assert neighbours_right(features, y, together, classes=2).mean() > 0.2


def test_rows_that_are_always_trained_on_are_not_scored():
    features, y = clusters(5)
    assigned = np.arange(15) % 3
    assigned[y == 2] = -1
    wrong = y.copy()
    wrong[y == 2] = 0
    assert neighbours_right(features, y, assigned, classes=3).tolist() == [True] * 10 + [False] * 5
