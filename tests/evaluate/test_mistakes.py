from __future__ import annotations

import numpy as np
import pytest

from unfreeze.evaluate.compare import paired_difference
from unfreeze.evaluate.mistakes import confident_mistakes, likely_wrong_labels


def test_flipped_labels_are_found_and_ranked_first():
    random = np.random.default_rng(0)
    true = np.arange(300) % 3
    p = np.full((300, 3), 0.05)
    p[np.arange(300), true] = 0.9
    p = p + random.uniform(0, 0.02, p.shape)
    p /= p.sum(axis=1, keepdims=True)
    given = true.copy()
    flipped = random.choice(300, 15, replace=False)
    given[flipped] = (true[flipped] + 1) % 3
    found = likely_wrong_labels(p, given)
    assert {suspect.row for suspect in found} == set(flipped.tolist())
    assert all(suspect.suggested == true[suspect.row] for suspect in found)
    assert all(suspect.given == given[suspect.row] for suspect in found)
    margins = [p[suspect.row, suspect.given] - suspect.probability for suspect in found]
    assert margins == sorted(margins)
    assert likely_wrong_labels(p, given, most=4) == found[:4]


def test_an_unsure_prediction_is_no_reason_to_doubt_a_label():
    p = np.array([[0.95, 0.05], [0.9, 0.1], [0.1, 0.9], [0.05, 0.95], [0.55, 0.45]])
    assert likely_wrong_labels(p, np.array([0, 0, 1, 1, 1])) == ()


def test_a_class_without_rows_is_never_suggested():
    p = np.array([[0.3, 0.1, 0.6], [0.1, 0.3, 0.6]])
    assert likely_wrong_labels(p, np.array([0, 1])) == ()


def test_the_surest_mistakes_come_first():
    p = np.array([[0.6, 0.4], [0.99, 0.01], [0.2, 0.8], [0.1, 0.9]])
    found = confident_mistakes(p, np.array([1, 1, 1, 0]), most=2)
    assert [(m.row, m.given, m.suggested) for m in found] == [(1, 1, 0), (3, 0, 1)]
    assert found[0].probability == pytest.approx(0.99)


def test_a_paired_difference_is_narrower_than_two_intervals():
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 1000)
    first = np.where(random.random(1000) < 0.8, y, 1 - y)
    second = first.copy()
    second[:30] = 1 - y[:30]
    first[:30] = y[:30]
    difference, low, high = paired_difference(np.eye(2)[first], np.eye(2)[second], y)
    assert difference == pytest.approx(0.03)
    deviation = (0.03 * 0.97 / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.03 - 1.96 * deviation, 0.03 + 1.96 * deviation), abs=0.002)
    assert paired_difference(np.eye(2)[first], np.eye(2)[first], y) == (0.0, 0.0, 0.0)
    # Ten groups of a hundred rows each, the first of which holds all that differs.
    grouped = paired_difference(np.eye(2)[first], np.eye(2)[second], y, groups=np.arange(1000) // 100)
    assert grouped[0] == pytest.approx(0.03)
    assert grouped[1] < 0.0
    assert grouped[2] > 0.055
    # Student's over ten sums of 30 and nine times 0, as if one more row differed: t(9) at 97.5 % is 2.262157.
    half = 2.262157 * (10 / 9 * (27**2 + 9 * 3**2 + 1)) ** 0.5 / 1000
    assert grouped[2] - grouped[0] == pytest.approx(half, abs=1e-6)
    with pytest.raises(ValueError, match="same rows"):
        paired_difference(np.eye(2)[first[:5]], np.eye(2)[first], y)


@pytest.mark.parametrize("groups", [2, 3, 5, 8])
def test_groups_that_rise_together_make_few_false_differences_however_few_they_are(groups):
    random = np.random.default_rng(0)
    code, y = np.repeat(np.arange(groups), 30), np.zeros(30 * groups, dtype=int)
    called = 0
    for _ in range(400):
        # Two equal classifiers, each of which finds some groups easier.
        ease = 1.5 + random.normal(size=groups) + 0.8 * random.normal(size=(2, groups))
        wrong = (random.random((2, len(code))) > 1 / (1 + np.exp(-ease[:, code]))).astype(int)
        _, low, high = paired_difference(np.eye(2)[wrong[0]], np.eye(2)[wrong[1]], y, groups=code)
        called += low > 0 or high < 0
    assert called <= 28


def test_of_groups_that_gain_the_same_few_prove_nothing_and_one_tells_nothing():
    y = np.zeros(60, dtype=int)
    better, worse = y.copy(), y.copy()
    worse[[0, 20, 40]] = 1
    gain, low, high = paired_difference(
        np.eye(2)[better], np.eye(2)[worse], y, groups=np.repeat([0, 1, 2], 20)
    )
    assert gain == pytest.approx(0.05)
    assert low < 0 < high
    alone = paired_difference(np.eye(2)[better], np.eye(2)[worse], y, groups=y)
    assert alone == (pytest.approx(0.05), -1.0, 1.0)
