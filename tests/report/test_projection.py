"""The projection: deterministic, bounded, and true to clear neighbourhoods."""

from __future__ import annotations

import numpy as np
import pytest

from unfreeze.report.projection import project


def blobs(rows: int, width: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    label = generator.integers(0, classes, rows)
    features = generator.normal(size=(classes, width))[label] * 3 + generator.normal(size=(rows, width))
    return features.astype(np.float32), label


def test_the_same_seed_gives_the_same_points():
    features, _ = blobs(200, 80)
    first, second = project(features, 1, limit=120), project(features, 1, limit=120)
    assert np.array_equal(first.rows, second.rows)
    assert np.array_equal(first.xy, second.xy)
    assert not np.array_equal(first.rows, project(features, 2, limit=120).rows)


def test_at_most_limit_rows_are_shown_in_ascending_order():
    features, _ = blobs(300, 8)
    shown = project(features, 0, limit=50)
    assert shown.rows.shape == (50,)
    assert shown.xy.shape == (50, 2)
    assert (np.diff(shown.rows) > 0).all()
    assert np.abs(shown.xy).max() == pytest.approx(1.0)


def test_neighbours_in_the_picture_share_their_class():
    features, label = blobs(150, 60)
    shown = project(features, 0)
    assert shown.method == "t-SNE"
    distance = ((shown.xy[:, None] - shown.xy[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    kinds = label[shown.rows]
    assert (kinds[distance.argmin(1)] == kinds).mean() > 0.98


@pytest.mark.parametrize(("rows", "width"), [(20, 60), (29, 4), (25, 1)])
def test_few_rows_are_shown_by_their_principal_components(rows, width):
    features, _ = blobs(rows, width)
    shown = project(features, 0)
    assert shown.method == "PCA"
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    expected = centred @ np.linalg.svd(centred)[2][0]
    assert abs(np.corrcoef(expected, shown.xy[:, 0])[0, 1]) == pytest.approx(1.0, abs=1e-6)


def test_rows_that_are_not_finite_are_left_out():
    features, _ = blobs(12, 5)
    features[3, 2] = np.nan
    features[7, 0] = np.inf
    shown = project(features, 0)
    assert shown.rows.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert np.isfinite(shown.xy).all()


def test_equal_rows_and_no_rows_do_no_harm():
    equal = project(np.ones((40, 6), np.float32), 0)
    assert (equal.method, np.abs(equal.xy).max()) == ("PCA", 0.0)
    assert project(np.zeros((0, 6), np.float32), 0).xy.shape == (0, 2)
