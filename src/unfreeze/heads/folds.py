"""Which rows are held out together, so that every prediction comes from a fit that never saw the row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALWAYS_TRAINED = -1


def assign_folds(
    y: NDArray[np.intp], *, folds: int, seed: int, groups: NDArray[np.int32] | None = None
) -> NDArray[np.intp]:
    """The fold in which each row is held out, (rows,), or ``ALWAYS_TRAINED``.

    Classes are spread evenly over the folds. There are at most ``folds`` of them, no more than the smallest
    class of two rows or more has rows, and at least two. The row of a class with one row is always in
    training. With ``groups``, rows of a group share a fold, and there are no more folds than groups; a
    single group cannot be held out from itself and is ignored.
    """
    counts = np.bincount(y)
    several = counts[counts > 1]
    if len(several) == 0:
        raise ValueError("cross-validation needs a class with two rows or more")
    limit = max(2, min(folds, int(several.min())))
    order = np.random.default_rng(seed)
    if groups is not None:
        distinct = len(np.unique(groups))
        if distinct > 1:
            assigned = _by_group(y, groups, folds=min(limit, distinct), order=order)
            assigned[counts[y] == 1] = ALWAYS_TRAINED
            return assigned
    assigned = np.empty(len(y), dtype=np.intp)
    first = 0
    for label in np.flatnonzero(counts):
        rows = order.permutation(np.flatnonzero(y == label))
        if len(rows) == 1:
            assigned[rows] = ALWAYS_TRAINED
            continue
        # Each class starts where the last one ended, so that the folds stay equally large.
        assigned[rows] = (first + np.arange(len(rows))) % limit
        first += len(rows)
    return assigned


def _by_group(
    y: NDArray[np.intp], groups: NDArray[np.int32], *, folds: int, order: np.random.Generator
) -> NDArray[np.intp]:
    """Folds of whole groups: the largest group first, each into the fold that most lacks its classes."""
    names, code = np.unique(groups, return_inverse=True)
    classes = int(y.max()) + 1
    table = np.zeros((len(names), classes))
    np.add.at(table, (code, y), 1)
    table /= np.maximum(table.sum(axis=0), 1)
    shuffled = order.permutation(len(names))
    sizes = np.bincount(code)
    held = np.zeros((folds, classes))
    fold_of = np.empty(len(names), dtype=np.intp)
    taken = np.zeros(folds, dtype=np.intp)
    remaining = len(names)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        cost = held @ table[group]
        empty = taken == 0
        if remaining == int(empty.sum()):
            cost = np.where(empty, cost, np.inf)
        fold = int(np.lexsort((taken, cost))[0])
        fold_of[group] = fold
        held[fold] += table[group]
        taken[fold] += 1
        remaining -= 1
    return fold_of[code]


def stratified_sample(y: NDArray[np.intp], *, size: int, seed: int) -> NDArray[np.intp]:
    """Positions of about ``size`` rows, ascending: each class in its share, at least two rows of it."""
    if len(y) <= size:
        return np.arange(len(y))
    order = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        wanted = min(len(rows), max(2, round(len(rows) * size / len(y))))
        chosen.append(order.choice(rows, size=wanted, replace=False))
    return np.sort(np.concatenate(chosen))
