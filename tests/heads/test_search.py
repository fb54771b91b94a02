from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from unfreeze.heads import search
from unfreeze.heads.design import make_design
from unfreeze.heads.folds import assign_folds
from unfreeze.heads.search import FIRST_PENALTIES, fit_head, predict_out_of_fold, search_penalty
from unfreeze.heads.weights import needs_class_weights, row_log_loss


def spread(x):
    deviation = x.std(0, dtype=np.float64)
    return np.sqrt(deviation**2 + (np.sort(deviation)[(len(deviation) - 1) // 2] / 2) ** 2)


def searched(x, y, *, classes, folds=4):
    design = make_design([x], name="toy")
    assigned = assign_folds(y, folds=folds, seed=0)
    return search_penalty(design, y, assigned, classes=classes, balanced=False), design, assigned


def test_out_of_fold_logits_equal_fits_without_the_row(gaussians, softmax):
    x, y = gaussians(120, 15, 3)
    found, _, assigned = searched(x, y, classes=3)
    ours = softmax(found.logits)
    for fold in range(4):
        train, held = assigned != fold, assigned == fold
        mean, deviation = x[train].mean(0, dtype=np.float64), spread(x[train])
        c = 1.0 / (found.regularisation * train.sum())
        reference = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
        reference.fit((x[train] - mean) / deviation, y[train])
        expected = reference.predict_proba((x[held] - mean) / deviation)
        assert np.abs(ours[held] - expected).max() < 5e-3


def test_the_best_penalty_has_the_lowest_log_loss_of_its_logits(gaussians):
    x, y = gaussians(150, 30, 2)
    found, _, _ = searched(x, y, classes=2)
    assert found.best.log_loss == min(candidate.log_loss for candidate in found.candidates)
    assert found.best.log_loss == pytest.approx(row_log_loss(found.logits, y).mean(), abs=1e-6)
    assert found.best.accuracy == (found.logits.argmax(axis=1) == y).mean()


def test_the_grid_grows_upwards_on_noise(gaussians):
    x, _ = gaussians(60, 100, 2)
    y = np.random.default_rng(0).permutation(np.arange(60) % 2)
    found, _, _ = searched(x, y, classes=2)
    assert found.regularisation > FIRST_PENALTIES[0]
    assert found.best.log_loss == pytest.approx(np.log(2), abs=0.01)


def test_the_grid_grows_downwards_on_separable_rows(gaussians):
    x, y = gaussians(200, 4, 2, apart=40.0)
    found, _, _ = searched(x, y, classes=2)
    assert found.regularisation < FIRST_PENALTIES[-1]
    assert found.best.log_loss < 1e-3


def test_small_batches_find_the_same_penalty(gaussians, monkeypatch):
    x, y = gaussians(120, 15, 3)
    whole, _, _ = searched(x, y, classes=3)
    monkeypatch.setattr(search, "BATCH_NUMBERS", 1)
    single, _, _ = searched(x, y, classes=3)
    assert single.regularisation == whole.regularisation
    assert np.abs(single.logits - whole.logits).max() < 0.02
    assert len(single.candidates) <= len(whole.candidates)


def test_the_head_reads_raw_features(gaussians, softmax):
    x, y = gaussians(120, 15, 3)
    design = make_design([x], name="toy")
    head = fit_head(design, y, boundaries=(4,), penalty=0.01, classes=3, balanced=False)
    z = (x - x.mean(0, dtype=np.float64)) / spread(x)
    reference = LogisticRegression(C=1 / (0.01 * 120), tol=1e-9, max_iter=5000).fit(z, y)
    assert np.abs(softmax(head.logits(x)) - reference.predict_proba(z)).max() < 1e-3
    assert (head.width, head.classes, head.boundaries) == (15, 3, (4,))


def test_one_given_penalty_is_predicted_as_in_the_search(gaussians):
    x, y = gaussians(120, 15, 3)
    found, design, assigned = searched(x, y, classes=3)
    alone = predict_out_of_fold(design, y, assigned, penalty=found.regularisation, classes=3, balanced=False)
    assert np.abs(alone.logits - found.logits).max() < 0.02


def test_weights_are_for_uneven_classes():
    assert needs_class_weights([100, 40, 90])[0] is False
    assert needs_class_weights([100, 0, 90])[0] is False
    # Of fewer than two hundred rows two to one is much already.
    assert [needs_class_weights([large, 60])[0] for large in (90, 91, 139, 140, 180, 181)] == [
        *(False, True, True),
        *(False, False, True),
    ]
    assert "more than 1.5 where there are fewer than 200 rows" in needs_class_weights([40, 20])[1]
    wanted, reason = needs_class_weights([900, 100])
    assert wanted is True
    assert "9.0 times" in reason


def test_features_that_hardly_ever_fire_do_no_harm(gaussians):
    x, y = gaussians(200, 10, 2)
    random = np.random.default_rng(0)
    rare = np.zeros((200, 100), dtype=np.float32)
    rare[random.integers(0, 200, 100), np.arange(100)] = 0.05
    rare += random.normal(size=rare.shape).astype(np.float32) * 1e-4
    alone, _, _ = searched(x, y, classes=2)
    beside, _, _ = searched(np.hstack([x, rare[:, :9]]), y, classes=2)
    assert beside.best.log_loss < alone.best.log_loss + 0.005
