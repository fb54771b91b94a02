"""Batches whose rows have others of their class, and of other classes, to be compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.chance import order
from unfreeze.engine.inputs import Inputs


def batches_of(
    inputs: Inputs, y: NDArray[np.integer], *, pairs: bool, seed: int, epoch: int, batch_size: int
) -> list[NDArray[np.intp]]:
    """The rows of every batch of an epoch, as the inputs give them, or for a phase on ``pairs`` by classes (rows,)."""
    if pairs:
        return paired_batches(y, seed=seed, epoch=epoch, batch_size=batch_size)
    return inputs.batches(seed, epoch, batch_size)


def paired_batches(
    y: NDArray[np.integer], *, seed: int, epoch: int, batch_size: int
) -> list[NDArray[np.intp]]:
    """The rows of every batch of an epoch, each row once: a function of the classes (rows,), of seed and epoch.

    Each class has its share of every batch, and two rows at least where it has them; where classes are too many for
    that, a batch holds some of them. So batches differ by some rows in their size. By chance alone most rows of 77
    classes would meet none of their own, and rows sorted by length none of the other class where one class is of short
    texts.
    """
    shuffled = order(seed, epoch, len(y))
    of_rows, labels = y[shuffled], np.unique(y)
    count = -(-len(y) // batch_size)
    found: list[list[NDArray[np.intp]]] = [[] for _ in range(count)]
    # Classes with fewer pieces than there are batches begin at different ones.
    for label, rank in zip(labels, order(seed + 1, epoch, len(labels)), strict=True):
        own = shuffled[of_rows == label]
        pieces = min(count, max(1, len(own) // 2))
        begin = (rank + 0.5) / len(labels)
        # Where pieces differ by a row, classes have the longer ones in different batches.
        ends = np.floor(np.arange(1, pieces) * len(own) / pieces + begin).astype(int)
        for number, piece in enumerate(np.split(own, ends)):
            found[int((number + begin) * count / pieces)].append(piece)
    place = np.empty(len(y), dtype=np.intp)
    place[shuffled] = np.arange(len(y))
    # In an order that knows no classes: where memory is short, a part of a batch is compared by itself.
    return [rows[np.argsort(place[rows])] for rows in map(np.concatenate, filter(None, found))]
