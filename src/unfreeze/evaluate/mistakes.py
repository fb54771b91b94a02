"""Rows worth a person's look: labels that are likely wrong, and answers that were surely wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Suspect:
    """A row by position, its given class, and the class that the model suggests with its probability."""

    row: int
    given: int
    suggested: int
    probability: float


def likely_wrong_labels(
    probabilities: NDArray[np.floating], y: NDArray[np.integer], *, most: int | None = None
) -> tuple[Suspect, ...]:
    """Rows whose label is likely wrong, the likeliest first, from out-of-fold probabilities (rows, classes).

    Confident learning (Northcutt, Jiang, Chuang 2021): a class is confident for a row when its probability
    is at least the mean that the rows labelled with it have. A row is suspect when the most probable of its
    confident classes is not its label. Ranked by how far the label's probability lies below the suggested
    one's.
    """
    given, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(y, dtype=np.intp)
    rows, classes = given.shape
    own = given[np.arange(rows), truth]
    counts = np.bincount(truth, minlength=classes)
    mean = np.bincount(truth, weights=own, minlength=classes) / np.maximum(counts, 1)
    # A class without rows has no threshold, so it is never suggested.
    confident = np.where((given >= mean) & (counts > 0), given, -1.0)
    suggested = confident.argmax(axis=1)
    top = confident[np.arange(rows), suggested]
    found = np.flatnonzero((top > own) & (suggested != truth))
    order = found[np.argsort(own[found] - top[found], kind="stable")][:most]
    return _suspects(order, truth, suggested, top)


def confident_mistakes(
    probabilities: NDArray[np.floating], y: NDArray[np.integer], *, most: int = 12
) -> tuple[Suspect, ...]:
    """Rows that the model gets wrong, those with the most probable answer first."""
    given, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(y, dtype=np.intp)
    every = np.arange(len(truth))
    predicted = given.argmax(axis=1)
    top = given[every, predicted]
    wrong = np.flatnonzero(predicted != truth)
    order = wrong[np.argsort(-top[wrong], kind="stable")][:most]
    return _suspects(order, truth, predicted, top)


def _suspects(
    order: NDArray[np.intp],
    truth: NDArray[np.intp],
    suggested: NDArray[np.intp],
    top: NDArray[np.float64],
) -> tuple[Suspect, ...]:
    return tuple(Suspect(int(row), int(truth[row]), int(suggested[row]), float(top[row])) for row in order)
