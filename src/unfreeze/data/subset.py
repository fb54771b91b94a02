"""Fewer rows to learn from: stratified, and each size within the next, so that a learning curve is one story."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import PARTS
from unfreeze.data.split import Pool
from unfreeze.errors import DataError

# Cross-validation holds one row of a class out and needs another to learn it from.
ROWS_A_CLASS = 2


def keep_rows(pool: Pool, part: NDArray[np.int8], size: int) -> NDArray[np.bool_]:
    """Which rows stay when ``size`` of those that are not test are learned from, bool (rows,).

    ``part``: the part of each row of the pool. Test rows all stay, and val keeps its share of the others. Rows are
    taken in the order of their hashes, each class (and stratum) in proportion, from the second row of a class in train
    on; what is kept for one size is kept for every larger one. Raises DataError for a size that cannot be.
    """
    train, val = (np.flatnonzero(part == PARTS.index(name)) for name in ("train", "val"))
    total = len(train) + len(val)
    if size > total:
        raise DataError(
            f"--train-size {size:,} is more than the {total:,} rows of {pool.source} that are not test: "
            f"give {total:,} at most."
        )
    needed = int(np.minimum(np.bincount(pool.label[train]), ROWS_A_CLASS).sum())
    held_out = _held_out(size, len(val), total)
    if size - held_out < needed:
        least = next(
            enough
            for enough in range(size, total + 1)
            if enough - _held_out(enough, len(val), total) >= needed
        )
        raise DataError(
            f"--train-size {size:,} is too small for the {len(pool.names)} classes of {pool.source}: give {least:,} "
            f"at least, so that each has {ROWS_A_CLASS} rows in train."
        )
    keep = np.array(part == PARTS.index("test"))
    keep[_first(pool, train, size - held_out, at_least=ROWS_A_CLASS)] = True
    keep[_first(pool, val, held_out, at_least=0)] = True
    return keep


def _held_out(size: int, val: int, total: int) -> int:
    """Val's rows of ``size``; it grows with ``size``, and so does what is left of it."""
    return 0 if val == 0 else max(1, round(size * val / total))


def _first(pool: Pool, rows: NDArray[np.intp], count: int, *, at_least: int) -> NDArray[np.intp]:
    """The first ``count`` of ``rows``, when the i-th of a class of n stands at (i + 1/2) / n.

    Taking those that stand first gives each class its rounded share (the rule of Sainte-Laguë). ``at_least`` of each
    class come before all others.
    """
    label = pool.label[rows]
    stratum = np.zeros_like(label) if pool.stratum is None else pool.stratum[rows]
    group = np.zeros_like(label) if pool.group is None else pool.group[rows]
    # Equal texts have equal hashes: what else is known of them decides, and never their places.
    by_class = np.lexsort((group, stratum, pool.order[rows], label))
    by_cell = np.lexsort((group, pool.order[rows], stratum, label))
    place = _ranks(np.stack([label, stratum]), by_cell)
    place[_ranks(label[None], by_class, share=False) < at_least] = 0.0
    first = np.lexsort((group, pool.order[rows], stratum, label, place))
    return rows[first[:count]]


def _ranks(keys: NDArray[np.int32], order: NDArray[np.intp], *, share: bool = True) -> NDArray[np.float64]:
    """The place of each row (rows,) among those of equal ``keys`` (keys, rows), which ``order`` puts side by side.

    ``share``: as (i + 1/2) / n, else as i.
    """
    _, cell, sizes = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    cell = cell.reshape(-1)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.empty(len(cell), dtype=np.float64)
    rank[order] = np.arange(len(cell)) - starts[cell[order]]
    return (rank + 0.5) / sizes[cell] if share else rank
