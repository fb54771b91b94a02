from __future__ import annotations

import numpy as np
import pytest

from unfreeze.errors import UnfreezeError
from unfreeze.heads import probe as probe_module
from unfreeze.heads.folds import assign_folds, held_together
from unfreeze.heads.probe import fit_probe, predict_from_less
from unfreeze.proportions import effective_rows, wilson_interval


def names(features):
    return {boundary: f"stage {boundary}" for boundary in features}


def fitted(features, y, classes, **options):
    return fit_probe(features, y, classes=classes, boundaries_names=names(features), seed=0, **options)


@pytest.fixture
def halves():
    """Two boundaries that know half the answer each, and two that know nothing."""
    random = np.random.default_rng(0)
    left, right = random.normal(size=(2, 240))
    y = (left + right > 0).astype(np.intp)
    noise = random.normal(size=(4, 240, 5)).astype(np.float32)
    noise[2, :, 0], noise[3, :, 0] = left, right
    return dict(zip((1, 2, 3, 4), noise, strict=True)), y


def test_boundaries_joined_are_taken_when_each_knows_a_part(halves):
    features, y = halves
    result = fitted(features, y, 2)
    assert result.probe.boundaries == (3, 4)
    assert result.probe.head.width == 10
    assert result.probe.accuracy > result.pooled.accuracy + 0.1
    assert result.probe.log_loss < result.pooled.log_loss - 0.2
    assert any("joined head is taken" in reason for reason in result.reasons)
    both = np.hstack([features[3], features[4]])
    assert (result.probe.head.logits(both).argmax(axis=1) == y).mean() > 0.95


def test_the_pooled_feature_alone_is_taken_when_the_others_add_noise(gaussians):
    x, y = gaussians(200, 6, 2, apart=2.0)
    noise = np.random.default_rng(1).normal(size=(200, 80)).astype(np.float32)
    result = fitted({1: noise, 2: noise[:, ::-1].copy(), 3: x}, y, 2)
    assert result.probe is result.pooled
    assert result.probe.boundaries == (3,)
    assert any("pooled feature alone is taken" in reason for reason in result.reasons)


def test_the_thaw_curve_has_a_point_a_boundary_and_rises_with_knowledge(halves):
    features, y = halves
    curve = fitted(features, y, 2).curve
    assert [(p.boundary, p.name, p.width) for p in curve] == [
        (boundary, f"stage {boundary}", 5) for boundary in (1, 2, 3, 4)
    ]
    assert all(p.low < p.accuracy < p.high for p in curve)
    assert max(p.accuracy for p in curve[:2]) < 0.62 < 0.68 < min(p.accuracy for p in curve[2:])
    assert curve[0].log_loss == pytest.approx(np.log(2), abs=0.03)


def test_the_same_seed_gives_the_same_bits(halves):
    features, y = halves
    first, second = fitted(features, y, 2), fitted(features, y, 2)
    assert (first.probe.oof_logits == second.probe.oof_logits).all()
    assert (first.probe.head.tensors["weight"] == second.probe.head.tensors["weight"]).all()


@pytest.mark.parametrize(("rows", "folds"), [(60, 5), (3, 3), (2, 2)])
def test_a_probe_asked_again_in_its_own_folds_says_the_same(gaussians, rows, folds):
    x, y = gaussians(200, 6, 2, apart=2.0)
    # The smallest class allows no more folds than it has rows.
    kept = np.sort(np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:rows]]))
    x, y = x[kept], y[kept]
    result = fitted({1: x}, y, 2)
    assert result.folds == folds
    again = predict_from_less(
        result.probe, {1: x}, y, assign_folds(y, folds=folds, seed=0), folds=result.folds, classes=2, seed=0
    )
    # As far as the solver goes, which begins elsewhere.
    assert np.abs(again - result.probe.oof_logits).max() < 0.05


def test_out_of_fold_scores_do_not_flatter_memorised_rows():
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 300)).astype(np.float32)
    y = random.permutation(np.arange(80) % 2)
    result = fitted({1: x}, y, 2)
    assert result.probe.accuracy < 0.65
    assert result.probe.log_loss > 0.65


def test_copies_of_rows_do_not_flatter_a_probe_that_knows_nothing():
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(80, 200)).astype(np.float32), 2, axis=0)
    y = np.repeat(random.integers(0, 2, 80), 2)
    contents = np.repeat(np.arange(80), 2).astype(np.uint64)
    assert fitted({1: features}, y, 2).probe.accuracy > 0.8
    assert fitted({1: features}, y, 2, groups=held_together(contents, None)).probe.accuracy < 0.65


def test_that_classes_cannot_be_held_out_is_said():
    y = np.repeat([0, 1], 10)
    features = {1: np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)}
    assert any("which flatters" in reason for reason in fitted(features, y, 2, groups=y).reasons)


def test_groups_stop_a_probe_from_recognising_them():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10).astype(np.int32)
    y = (groups % 2).astype(np.intp)
    x = (random.normal(size=(20, 30))[groups] + random.normal(size=(200, 30)) / 10).astype(np.float32)
    assert fitted({1: x}, y, 2).probe.accuracy > 0.95
    assert fitted({1: x}, y, 2, groups=groups).probe.accuracy < 0.8


def test_a_class_with_one_row_is_trained_on_and_not_scored(gaussians):
    x, y = gaussians(90, 8, 3, apart=3.0)
    keep = np.flatnonzero((y != 2) | (np.arange(90) == 2))
    result = fitted({1: x[keep]}, y[keep], 3)
    single = int(np.flatnonzero(y[keep] == 2)[0])
    assert np.flatnonzero(~result.probe.held_out).tolist() == [single]
    assert np.isfinite(result.probe.oof_logits).all()
    assert result.probe.head.classes == 3
    assert any("one row" in reason for reason in result.reasons)


def test_balanced_weights_raise_the_recall_of_the_small_class():
    random = np.random.default_rng(0)
    y = (np.arange(400) % 10 == 0).astype(np.intp)
    x = (y[:, None] * 1.2 + random.normal(size=(400, 3))).astype(np.float32)
    recall = {}
    for weight in (None, "balanced"):
        logits = fitted({1: x}, y, 2, class_weight=weight).probe.oof_logits
        recall[weight] = (logits.argmax(axis=1) == 1)[y == 1].mean()
    assert recall["balanced"] > recall[None] + 0.2


def test_many_rows_are_sampled_for_the_curve_but_all_predicted(halves, monkeypatch):
    features, y = halves
    whole = fitted(features, y, 2)
    monkeypatch.setattr(probe_module, "CURVE_ROWS", 150)
    sampled = fitted(features, y, 2)
    assert sampled.probe.oof_logits.shape == (240, 2)
    assert sampled.probe.boundaries == whole.probe.boundaries
    assert sampled.probe.accuracy == pytest.approx(whole.probe.accuracy, abs=0.05)
    assert "150 of 240 rows" in sampled.reasons[0]


def test_a_design_that_would_fill_the_memory_is_mapped_from_a_file_and_gives_the_same_head(
    halves, monkeypatch
):
    features, y = halves
    plain = fitted(features, y, 2)
    made = []
    real = np.memmap
    monkeypatch.setattr("unfreeze.arrays.np.memmap", lambda *at, **how: made.append(1) or real(*at, **how))
    monkeypatch.setattr("unfreeze.arrays.MEMORY_BYTES", 0)
    # Sums over parts of the rows end in other last digits.
    monkeypatch.setattr("unfreeze.heads.problem.MOMENT_ROWS", 64)
    mapped = fitted(features, y, 2)
    assert made
    assert mapped.probe.regularisation == plain.probe.regularisation
    assert mapped.probe.oof_logits == pytest.approx(plain.probe.oof_logits, abs=1e-3)


def test_features_that_are_not_finite_name_their_boundary(halves):
    features, y = halves
    features[2][7, 1] = np.inf
    with pytest.raises(UnfreezeError, match="stage 2"):
        fitted(features, y, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_weight": "even"}, "class_weight"),
        ({"y": np.array([0, 5] * 120)}, "labels"),
        ({"y": np.array([0, 1] * 3)}, "shape"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(halves, change, message):
    features, y = halves
    with pytest.raises(ValueError, match=message):
        fitted(features, change.pop("y", y), 2, **change)


def test_the_mlp_head_sees_what_a_line_cannot():
    random = np.random.default_rng(0)
    x = random.normal(size=(240, 2)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.intp)
    result = fitted({1: x[:, :1].copy(), 2: x}, y, 2, kind="mlp", folds=3)
    assert result.pooled.accuracy < 0.6
    assert result.probe.accuracy > 0.8
    assert (result.probe.head.kind, result.probe.boundaries) == ("mlp", (2,))
    assert result.probe.candidates == ()


def test_rows_in_groups_count_for_as_many_as_they_tell_of():
    right = np.arange(200) < 120
    assert effective_rows(right, None) == effective_rows(right, np.arange(200)) == 200
    # Whole groups of ten are right or wrong: no more than twenty rows, less what so few groups do not tell.
    whole = effective_rows(right, np.arange(200) // 10)
    assert whole == pytest.approx(19 * (1.959964 / 2.093024) ** 2, rel=1e-5)
    # The same share in every group: as good as rows of their own.
    assert effective_rows(right, np.arange(200) % 20) == 200
    assert effective_rows(np.ones(200, dtype=bool), np.arange(200) // 10) == 20
    assert effective_rows(right, np.zeros(200, dtype=int)) == 1


def test_the_probe_s_interval_is_over_groups():
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 15)
    y = (group % 2).astype(np.intp)
    # The groups, and not the rows, are easy or hard.
    features = {1: (y + random.normal(size=20)[group])[:, None].astype(np.float32)}
    found = fitted(features, y, 2, groups=group).probe
    low, high = wilson_interval(found.accuracy, 300)
    assert found.interval[1] - found.interval[0] > 2 * (high - low)


def test_wilson_s_interval_of_known_counts():
    assert wilson_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
