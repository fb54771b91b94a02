from __future__ import annotations

import numpy as np
import pytest

from unfreeze.evaluate.baselines import chance_baseline, majority_baseline, tfidf_baseline

WORDS = ("lorem", "ipsum", "dolor", "sit", "amet", "elit", "sed", "do")


def texts_with(y, *, marks, seed=0):
    random = np.random.default_rng(seed)
    return [" ".join([*random.permutation(WORDS)[:5], marks[label]]) for label in y]


def test_chance_and_majority_of_known_counts():
    assert chance_baseline(4).accuracy == 0.25
    found = majority_baseline(np.array([1, 1, 0]), np.array([0, 1, 1, 1]), ("ham", "spam"))
    assert found.accuracy == 0.75
    assert "'spam'" in found.description


@pytest.mark.parametrize("n", [60, 260])
def test_a_word_that_tells_the_class_is_found(n):
    y = np.arange(n) % 3
    marks = ("money", "meeting", "holiday")
    p = tfidf_baseline(texts_with(y, marks=marks), y, [texts_with(y, marks=marks, seed=1)], classes=3, seed=0)
    assert p.shape == (n, 3)
    assert p.sum(axis=1) == pytest.approx(np.ones(n))
    assert (p.argmax(axis=1) == y).all()


def test_a_pair_of_words_is_a_feature():
    y = np.arange(80) % 2
    pair = ("not good but bad", "not bad but good")
    p = tfidf_baseline([pair[label] for label in y], y, [[pair[0]], [pair[1]]], classes=2, seed=0)
    assert p.argmax(axis=1).tolist() == [0, 1]


def test_a_class_without_training_rows_has_probability_zero():
    y = np.arange(40) % 2 * 2
    p = tfidf_baseline(texts_with(y, marks=("a1", "", "b1")), y, [["a1", "b1"]], classes=3, seed=0)
    assert (p[:, 1] == 0).all()
    assert p.argmax(axis=1).tolist() == [0, 2]


def test_texts_without_words_get_the_classes_shares():
    p = tfidf_baseline(["!!", "?", "", "-"], np.array([0, 0, 0, 1]), [["..."], ["hello"]], classes=2, seed=0)
    assert p.tolist() == [[0.75, 0.25], [0.75, 0.25]]


def test_texts_that_share_no_word_are_no_error():
    y = np.arange(220) % 2
    p = tfidf_baseline([f"w{i}" for i in range(220)], y, [["w0", "w1"]], classes=2, seed=0)
    assert p.argmax(axis=1).tolist() == [0, 1]


def test_a_class_with_one_text_is_no_error():
    p = tfidf_baseline(["a", "a b", "a c", "z"], np.array([0, 0, 0, 1]), [["z"]], classes=2, seed=0)
    assert p[0, 1] > 0.25


def test_common_features_are_kept_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr("unfreeze.evaluate.baselines.TFIDF_FEATURES", 2)
    y = np.arange(60) % 2
    texts = [f"{'money' if label else 'meeting'} w{i}" for i, label in enumerate(y)]
    p = tfidf_baseline(texts, y, [["money", "meeting"]], classes=2, seed=0)
    assert p.argmax(axis=1).tolist() == [1, 0]
