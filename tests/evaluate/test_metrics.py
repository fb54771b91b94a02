from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as reference

from unfreeze.errors import UnfreezeError
from unfreeze.evaluate.metrics import score


def toy(n, classes, *, seed=0, skill=1.0):
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), y] += skill
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True), y


def names(classes):
    return tuple(f"c{i}" for i in range(classes))


def test_few_rows_that_are_all_right_or_all_of_one_answer_prove_little():
    y = np.array([0, 1] * 8)
    right = score(np.eye(2)[y], y, ("a", "b"))
    assert (right.balanced_accuracy, right.balanced_accuracy_high) == (1.0, 1.0)
    assert right.balanced_accuracy_low == right.macro_f1_low == right.accuracy_low < 0.85
    one = score(np.eye(2)[np.zeros(16, dtype=int)], y, ("a", "b"))
    assert one.balanced_accuracy == 0.5
    assert one.balanced_accuracy_low < 0.3
    assert one.balanced_accuracy_high > 0.7


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_equal_scikit_learn(classes):
    p, y = toy(300, classes)
    found, predicted = score(p, y, names(classes)), p.argmax(axis=1)
    assert found.n == 300
    assert found.accuracy == pytest.approx(reference.accuracy_score(y, predicted))
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(y, predicted))
    assert found.macro_f1 == pytest.approx(reference.f1_score(y, predicted, average="macro"))
    assert found.log_loss == pytest.approx(reference.log_loss(y, p))
    assert np.array_equal(found.confusion, reference.confusion_matrix(y, predicted))
    expected = np.transpose(reference.precision_recall_fscore_support(y, predicted))
    for name, row in zip(names(classes), expected, strict=True):
        one = found.per_class[name]
        assert (one.precision, one.recall, one.f1, one.support) == pytest.approx(tuple(row))
    if classes == 2:
        assert found.roc_auc == pytest.approx(reference.roc_auc_score(y, p[:, 1]))
        assert found.top_k == {1: found.accuracy}
    else:
        assert found.roc_auc is None
        assert set(found.top_k) == {1, 2, 3, 5}
        for k, share in found.top_k.items():
            assert share == pytest.approx(reference.top_k_accuracy_score(y, p, k=k))


@pytest.mark.parametrize("above", [0.0, 1e-7])
def test_the_log_loss_of_perfect_answers_has_no_sign(above):
    p = np.eye(3) * (1 + above)
    assert f"{score(p, np.arange(3), names(3)).log_loss:.3f}" == "0.000"


def test_intervals_equal_a_bootstrap_over_rows():
    p, y = toy(150, 3, seed=4)
    found, predicted = score(p, y, names(3), resamples=4000), p.argmax(axis=1)
    random = np.random.default_rng(1)
    drawn = []
    for rows in random.integers(0, 150, (1000, 150)):
        hit = predicted[rows] == y[rows]
        recall = [hit[y[rows] == label].mean() for label in range(3)]
        f1 = [
            2 * (hit & (y[rows] == c)).sum() / ((y[rows] == c).sum() + (predicted[rows] == c).sum())
            for c in range(3)
        ]
        drawn.append((hit.mean(), np.mean(recall), np.mean(f1)))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    assert (found.accuracy_low, found.balanced_accuracy_low, found.macro_f1_low) == pytest.approx(
        tuple(low), abs=0.012
    )
    assert (found.accuracy_high, found.balanced_accuracy_high, found.macro_f1_high) == pytest.approx(
        tuple(high), abs=0.012
    )


def test_about_ninety_five_of_a_hundred_intervals_cover_the_truth():
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        right = random.random(200) < 0.8
        y = np.arange(200) % 2
        p = np.eye(2)[np.where(right, y, 1 - y)]
        found = score(p, y, names(2), resamples=300)
        covered += found.accuracy_low <= 0.8 <= found.accuracy_high
    assert 180 <= covered <= 198


def drawn_in_groups(seed, groups=30, rows=15):
    """Codes, truth and answers of groups, each with an ease of its own; half of all answers are right."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rows)
    right = random.normal(size=groups)[group] + 0.5 * random.normal(size=len(group)) > 0
    y = np.arange(len(group)) % 2
    return group, y, np.eye(2)[np.where(right, y, 1 - y)]


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy"])
def test_intervals_over_groups_cover_the_truth_where_those_over_rows_do_not(name):
    covered = {"groups": 0, "rows": 0}
    for seed in range(200):
        group, y, p = drawn_in_groups(seed)
        for kind, groups in (("groups", group), ("rows", None)):
            found = score(p, y, names(2), groups=groups, resamples=200)
            covered[kind] += getattr(found, f"{name}_low") <= 0.5 <= getattr(found, f"{name}_high")
    assert 180 <= covered["groups"] <= 199
    assert covered["rows"] < 120


def test_a_group_a_row_gives_the_intervals_of_rows():
    p, y = toy(150, 3, seed=4)
    alone, grouped = (
        score(p, y, names(3), groups=groups, resamples=4000) for groups in (None, np.arange(150))
    )
    assert (alone.accuracy_low, alone.accuracy_high) == (grouped.accuracy_low, grouped.accuracy_high)
    assert (grouped.macro_f1_low, grouped.macro_f1_high) == pytest.approx(
        (alone.macro_f1_low, alone.macro_f1_high), abs=0.012
    )


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1"])
@pytest.mark.parametrize("groups", [3, 5])
def test_intervals_over_few_groups_cover_the_truth(name, groups):
    covered = 0
    for seed in range(200):
        group, y, p = drawn_in_groups(seed, groups=groups)
        found = score(p, y, names(2), groups=group, resamples=200)
        covered += getattr(found, f"{name}_low") <= 0.5 <= getattr(found, f"{name}_high")
    # A bootstrap's over three groups cover it in 144.
    assert covered >= 176


@pytest.mark.parametrize("few", [2, 3, 5])
def test_intervals_cover_the_truth_where_a_class_has_few_rows(few):
    covered = 0
    y = np.repeat([0, 1], [500, few])
    for seed in range(200):
        right = np.random.default_rng(seed).random(len(y)) < np.where(y, 0.7, 0.97)
        found = score(np.eye(2)[np.where(right, y, 1 - y)], y, names(2), resamples=200)
        covered += found.balanced_accuracy_low <= (0.7 + 0.97) / 2 <= found.balanced_accuracy_high
    assert covered >= 185


@pytest.mark.parametrize("groups", [None, np.repeat([0, 1, 2, 3], [10, 10, 10, 6])])
def test_a_class_of_few_rows_that_are_all_right_or_wrong_widens_one_end(groups):
    y = np.repeat([0, 1], [30, 6])
    wrong = np.isin(np.arange(36), [0, 12, 13, 21])
    right, none = (
        score(np.eye(2)[np.where(missed, 1 - y, y)], y, names(2), groups=groups)
        for missed in (wrong, wrong | (y == 1))
    )
    # Of six rows that are right 39 % may be wrong, of one group 79 %: half of that in the mean of two classes.
    most = (0.39 if groups is None else 0.79) / 2
    assert right.balanced_accuracy - right.balanced_accuracy_low > most
    assert none.balanced_accuracy_high - none.balanced_accuracy > most
    assert none.macro_f1_high - none.macro_f1 > most
    for found in (right, none):
        for name in ("balanced_accuracy", "macro_f1"):
            low, value, high = (getattr(found, f"{name}{end}") for end in ("_low", "", "_high"))
            assert 0 <= low <= value <= high <= 1


def test_classes_that_do_not_occur_are_left_out_of_the_means():
    p = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]])
    found = score(p, np.array([0, 1, 1]), names(3))
    assert found.balanced_accuracy == pytest.approx(0.75)
    assert found.macro_f1 == pytest.approx((1.0 + 2 / 3) / 2)
    absent = found.per_class["c2"]
    assert (absent.precision, absent.recall, absent.f1, absent.support) == (0.0, 0.0, 0.0, 0)


def test_one_class_among_the_rows_has_no_roc_auc():
    assert score(np.array([[0.3, 0.7], [0.6, 0.4]]), np.array([1, 1]), names(2)).roc_auc is None


def test_equal_probabilities_count_half_in_the_auc_and_rank_as_argmax_does():
    p = np.full((4, 4), 0.25)
    found = score(p, np.array([0, 1, 2, 3]), names(4))
    assert found.top_k == {1: 0.25, 2: 0.5, 3: 0.75}
    assert found.top_k[1] == found.accuracy
    assert score(np.full((4, 2), 0.5), np.array([0, 1, 0, 1]), names(2)).roc_auc == 0.5


def test_a_certain_mistake_leaves_the_log_loss_finite():
    found = score(np.array([[1.0, 0.0]]), np.array([1]), names(2))
    assert found.log_loss == pytest.approx(-np.log(1e-15))


def test_scores_are_repeatable_and_serialisable():
    p, y = toy(100, 3)
    first, second = score(p, y, names(3)), score(p, y, names(3))
    assert first == second
    assert json.loads(json.dumps(first.to_dict()))["n"] == 100


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.2, 1.3])
def test_a_probability_that_is_none_is_refused(bad):
    p, y = toy(10, 3)
    p[4, 1] = bad
    with pytest.raises(UnfreezeError, match="first: row 4"):
        score(p, y, names(3))


def test_nothing_to_score_is_said():
    with pytest.raises(UnfreezeError, match="no rows"):
        score(np.zeros((0, 2)), np.zeros(0, dtype=int), names(2))


def test_a_few_rows_that_are_all_right_are_no_certainty():
    found = score(np.eye(2), np.arange(2), names(2))
    assert found.accuracy == 1
    assert found.accuracy_low == pytest.approx(0.342, abs=1e-3)
    assert found.accuracy_high == 1
