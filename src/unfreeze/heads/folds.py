"""Which rows are held out together, so that every prediction comes from a fit that never saw the row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALWAYS_TRAINED = -1


def held_together(contents: NDArray[np.uint64], groups: NDArray[np.int32] | None) -> NDArray[np.intp] | None:
    """Codes (rows,) of what must be held out together, or None where every row stands for itself.

    Rows of a group, where there are groups: a content that many of them share, such as an empty picture, says nothing
    of how they belong together. Else rows of equal content: what is learnt from one copy is known of the others.
    ``contents`` (rows,): a hash each; ``groups`` (rows,): codes.
    """
    if groups is not None:
        return groups.astype(np.intp)
    names, content = np.unique(contents, return_inverse=True)
    return None if len(names) == len(contents) else content


def can_be_held_out(y: NDArray[np.integer], groups: NDArray[np.integer] | None = None) -> bool:
    """Whether there is a class of which some rows can be held out while others are learnt from."""
    occurrences = np.bincount(y) if groups is None else _groups_of_classes(y, groups)
    return bool((occurrences > 1).any())


def assign_folds(
    y: NDArray[np.intp], *, folds: int, seed: int, groups: NDArray[np.integer] | None = None
) -> NDArray[np.intp]:
    """The fold in which each row is held out, (rows,), or ``ALWAYS_TRAINED``.

    Classes are spread evenly over the folds. There are at most ``folds`` of them, no more than the smallest
    class of two rows or more has rows, and at least two. With ``groups`` (see ``held_together``), rows of a group
    share a fold, and there are no more folds than groups. The rows of a class with one row, or in one group alone,
    are always in training; where that is every class, groups are ignored, since none can be held out from itself.
    """
    counts = np.bincount(y)
    several = counts[counts > 1]
    if len(several) == 0:
        raise ValueError("cross-validation needs a class with two rows or more")
    limit = max(2, min(folds, int(several.min())))
    order = np.random.default_rng(seed)
    if groups is not None and can_be_held_out(y, groups):
        return _by_group(y, groups, folds=limit, order=order)
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
    y: NDArray[np.intp], groups: NDArray[np.integer], *, folds: int, order: np.random.Generator
) -> NDArray[np.intp]:
    """Folds of whole groups: the largest first, each into the fold that most lacks its classes, single rows last."""
    names, code = np.unique(groups, return_inverse=True)
    folds = min(folds, len(names))
    of_class = np.bincount(y)
    sizes = np.bincount(code)
    shuffled = order.permutation(len(names))
    # Rows by group, so that a group is a slice.
    by_group = np.argsort(code, kind="stable")
    ends = np.cumsum(sizes)
    # In shares of a class, so that a rare one counts as much as a frequent one.
    held = np.zeros((folds, len(of_class)))
    taken = np.zeros(folds, dtype=np.intp)
    assigned = np.empty(len(y), dtype=np.intp)
    remaining = len(names)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        if sizes[group] == 1:
            break
        rows = by_group[ends[group] - sizes[group] : ends[group]]
        labels, counts = np.unique(y[rows], return_counts=True)
        shares = counts / of_class[labels]
        cost = held[:, labels] @ shares
        empty = taken == 0
        if remaining == int(empty.sum()):
            cost = np.where(empty, cost, np.inf)
        fold = int(np.lexsort((taken, cost))[0])
        assigned[rows] = fold
        held[fold, labels] += shares
        taken[fold] += len(rows)
        remaining -= 1
    single = np.flatnonzero(sizes[code] == 1)
    for label in np.unique(y[single]):
        rows = order.permutation(single[y[single] == label])
        # As if each fold were a column of this class's rows, filled up from its lowest place.
        places = np.round(held[:, label] * of_class[label])[:, None] + np.arange(len(rows))
        level = np.lexsort((np.repeat(taken, len(rows)), places.ravel()))[: len(rows)] // len(rows)
        assigned[rows] = level
        taken += np.bincount(level, minlength=folds)
    assigned[_groups_of_classes(y, groups)[y] == 1] = ALWAYS_TRAINED
    return assigned


def _groups_of_classes(y: NDArray[np.integer], groups: NDArray[np.integer]) -> NDArray[np.intp]:
    """In how many groups each class occurs, (classes,)."""
    names, code = np.unique(groups, return_inverse=True)
    pairs = np.unique(y.astype(np.int64) * len(names) + code)
    return np.bincount(pairs // len(names))


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
