"""Batches whose rows have others of their class, and of other classes, to be compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.chance import order
from unfreeze.engine.inputs import cut


def paired_batches(
    y: NDArray[np.integer], *, seed: int, epoch: int, batch_size: int
) -> list[NDArray[np.intp]]:
    """The rows of every batch of an epoch, each row once: a function of the classes (rows,), of seed and epoch.

    Each class has its share of every batch, and two rows at least where it has them; where classes are too many for
    that, a batch holds some of them. By chance alone most rows of 77 classes would meet none of their own, and rows
    sorted by length none of the other class where one class is of short texts.
    """
    shuffled = order(seed, epoch, len(y))
    of_rows = y[shuffled]
    # Where in the epoch a piece of a class lies: its pieces are spread evenly, as those of every other class.
    places: list[float] = []
    pieces: list[NDArray[np.intp]] = []
    for label in np.unique(of_rows):
        own = shuffled[of_rows == label]
        cut_up = cut(own, max(2, batch_size * len(own) // len(y)))
        places += [(number + 0.5) / len(cut_up) for number in range(len(cut_up))]
        pieces += cut_up
    tied = order(seed + 1, epoch, len(pieces))
    found: list[list[NDArray[np.intp]]] = []
    room = 0
    for piece in (pieces[index] for index in tied[np.argsort(np.array(places)[tied], kind="stable")]):
        if len(piece) > room:
            found.append([])
            room = batch_size
        found[-1].append(piece)
        room -= len(piece)
    rank = np.empty(len(y), dtype=np.intp)
    rank[shuffled] = np.arange(len(y))
    # In an order that knows no classes: where memory is short, a part of a batch is compared by itself.
    return [rows[np.argsort(rank[rows])] for rows in map(np.concatenate, found)]
