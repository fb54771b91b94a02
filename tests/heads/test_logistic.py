from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from unfreeze.errors import UnfreezeError
from unfreeze.heads.design import make_design
from unfreeze.heads.logistic import solve
from unfreeze.heads.problem import make_folds


def solve_all(x, y, train, *, classes, penalties, balanced=False, **options):
    design = make_design([x], name="toy")
    folds = make_folds(design, y, train, classes=classes, balanced=balanced)
    count = train.shape[1]
    return solve(
        design,
        y,
        folds,
        fold=np.tile(np.arange(count), len(penalties)),
        penalty=np.repeat(np.asarray(penalties), count),
        **options,
    )


def spread(x):
    """The divisor of each feature: its standard deviation, and in squares a quarter of the typical one's."""
    deviation = x.std(0, dtype=np.float64)
    return np.sqrt(deviation**2 + (np.sort(deviation)[(len(deviation) - 1) // 2] / 2) ** 2)


def standardised(x, train):
    return (x - x[train].mean(0, dtype=np.float64)) / spread(x[train])


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("n", "width", "classes"), [(160, 12, 2), (160, 12, 4), (60, 150, 2), (60, 150, 3)])
def test_every_candidate_equals_scikit_learn(gaussians, softmax, n, width, classes, balanced):
    x, y = gaussians(n, width, classes)
    keep = (y != 0) | (np.arange(n) % 3 == 0)
    x, y = x[keep], y[keep]
    train = np.random.default_rng(1).permutation(len(y))[:, None] % 3 != np.arange(3)
    penalties = [1.0, 0.03, 0.001]
    solution = solve_all(x, y, train, classes=classes, penalties=penalties, balanced=balanced)
    assert solution.converged.all()
    for position in range(9):
        rows = train[:, position % 3]
        z = standardised(x, rows)
        c = 1.0 / (penalties[position // 3] * rows.sum())
        reference = LogisticRegression(
            C=c, tol=1e-9, max_iter=10_000, class_weight="balanced" if balanced else None
        ).fit(z[rows], y[rows])
        ours = softmax(solution.logits[:, position])
        assert np.abs(ours - reference.predict_proba(z)).max() < 1e-3


def test_weights_for_raw_features_give_the_solver_s_own_logits(gaussians):
    x, y = gaussians(90, 20, 3)
    train = np.random.default_rng(1).permutation(90)[:, None] % 3 != np.arange(3)
    solution = solve_all(x, y, train, classes=3, penalties=[0.1])
    for fold in range(3):
        raw = x @ solution.weight[:, fold] + solution.bias[fold]
        assert np.abs(raw - solution.logits[:, fold]).max() < 2e-4


def test_the_gradient_at_the_solution_is_zero(gaussians, softmax):
    x, y = gaussians(120, 30, 3)
    everything = np.ones((120, 1), dtype=bool)
    solution = solve_all(x, y, everything, classes=3, penalties=[0.01])
    z = standardised(x, everything[:, 0])
    weight = solution.weight[:, 0] * spread(x)[:, None]
    residual = (softmax(solution.logits[:, 0]) - np.eye(3)[y]) / 120
    assert np.abs(z.T @ residual + 0.01 * weight).max() < 3e-5
    assert np.abs(residual.sum(0)).max() < 3e-5


def test_rows_held_out_change_nothing_in_the_fit(gaussians):
    x, y = gaussians(80, 10, 2)
    train = (np.arange(80) < 60)[:, None]
    changed = x.copy()
    changed[60:] = changed[60:] * 3 + 1
    first, second = (solve_all(given, y, train, classes=2, penalties=[0.05]) for given in (x, changed))
    scale = spread(x)[:, None]
    assert np.abs((first.weight - second.weight)[:, 0] * scale).max() < 1e-4


def test_constant_features_get_no_weight_and_do_no_harm(gaussians):
    x, y = gaussians(80, 10, 2)
    dead = np.zeros((80, 3), dtype=np.float32)
    dead[:, 1] = 1234.567
    dead[70, 2] = 1.0
    train = (np.arange(80) < 60)[:, None]
    alone = solve_all(x, y, train, classes=2, penalties=[0.05])
    beside = solve_all(np.hstack([x, dead]), y, train, classes=2, penalties=[0.05])
    assert np.all(beside.weight[-3:] == 0.0)
    assert np.abs(alone.logits - beside.logits).max() < 1e-3


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_without_training_rows_stays_improbable_and_finite(gaussians, softmax, classes):
    x, y = gaussians(60, 5, classes)
    train = (y != classes - 1)[:, None]
    solution = solve_all(x, y, train, classes=classes, penalties=[0.1])
    probability = softmax(solution.logits[:, 0])[:, -1]
    assert np.isfinite(solution.logits).all()
    assert 0.0 < probability.max() < 0.1


def test_separable_rows_converge_at_a_weak_penalty(gaussians, softmax):
    x, y = gaussians(60, 40, 2, apart=8.0)
    everything = np.ones((60, 1), dtype=bool)
    solution = solve_all(x, y, everything, classes=2, penalties=[1e-5])
    assert solution.converged.all()
    assert softmax(solution.logits[:, 0])[np.arange(60), y].min() > 0.99


@pytest.mark.parametrize(("classes", "apart"), [(2, 3.0), (2, 10.0), (3, 1.0)])
@pytest.mark.parametrize("penalty", [1e-2, 1e-4, 1e-6])
def test_a_few_rows_of_many_features_are_solved_at_any_penalty(gaussians, softmax, classes, apart, penalty):
    """One row is the mean of the others, turned: what rounding leaves of that direction must count for nothing."""
    x, y = gaussians(24, 2000, classes, apart=apart)
    everything = np.ones((24, 1), dtype=bool)
    solution = solve_all(x, y, everything, classes=classes, penalties=[penalty])
    assert solution.converged.all()
    reference = LogisticRegression(C=1.0 / (penalty * 24), tol=1e-10, max_iter=10_000)
    reference.fit(standardised(x, everything[:, 0]), y)
    expected = reference.predict_proba(standardised(x, everything[:, 0]))
    assert np.abs(softmax(solution.logits[:, 0]) - expected).max() < 2e-3
    assert softmax(solution.logits[:, 0])[np.arange(24), y].min() > 0.9


@pytest.mark.parametrize("classes", [2, 5])
def test_a_fit_that_starts_from_another_penalty_s_ends_where_one_from_nothing_does(
    gaussians, softmax, classes
):
    x, y = gaussians(120, 300, classes)
    train = np.random.default_rng(1).permutation(120)[:, None] % 3 != np.arange(3)
    before = solve_all(x, y, train, classes=classes, penalties=[0.01])
    cold, warm = (
        solve_all(x, y, train, classes=classes, penalties=[0.003], start=start)
        for start in (None, before.theta)
    )
    assert warm.converged.all()
    assert warm.steps < cold.steps
    for fold in range(3):
        assert np.abs(softmax(warm.logits[:, fold]) - softmax(cold.logits[:, fold])).max() < 2e-3


@pytest.mark.parametrize(("n", "width"), [(24, 2000), (900, 900), (60, 100)])
def test_the_spectrum_is_of_unit_vectors_that_stand_apart(gaussians, n, width):
    design = make_design([gaussians(n, width, 2)[0]], name="toy")
    products = design.vectors.T @ design.vectors
    assert np.abs(products.numpy() - np.eye(len(products))).max() < 1e-2
    assert design.rest > 0
    assert float(design.values.min()) > 0


def test_features_that_are_not_finite_are_refused():
    x = np.ones((4, 3), dtype=np.float32)
    x[2, 1] = np.nan
    with pytest.raises(UnfreezeError, match=r"blocks\.3"):
        make_design([x], name="blocks.3")
