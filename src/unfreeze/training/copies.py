"""Test rows that look like rows that were learnt from: a result on them says little of new ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.choose.likeness import find_twins
from unfreeze.data.dataset import Dataset
from unfreeze.engine.frozen_pass import Features
from unfreeze.training.probing import fit_rows

# What ``NearCopies.marks`` holds for a test row: it looks like a learnt one, is the same to the last byte, is neither,
# or was not compared.
NEAR, SAME, OTHER, UNKNOWN = MARKS = "~=.?"


@dataclass(frozen=True, eq=False)
class NearCopies:
    """Test rows that look nearly the same to the pretrained network as one that was learnt from.

    ``tested`` and ``known`` (pairs,): rows of the data set, the most similar first; ``similarity`` (pairs,). Of the
    other test rows that were compared, ``same`` are learnt ones to the last byte, and ``others`` are no copies.
    """

    tested: NDArray[np.intp]
    known: NDArray[np.intp]
    similarity: NDArray[np.float32]
    same: NDArray[np.intp]
    others: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.tested)

    @property
    def compared(self) -> int:
        """How many test rows were."""
        return len(self.tested) + len(self.same) + len(self.others)

    def marks(self, rows: NDArray[np.intp]) -> str:
        """One of ``MARKS`` for each of these test rows."""
        kinds = [np.isin(rows, those) for those in (self.tested, self.same, self.others)]
        return "".join(np.select(kinds, [NEAR, SAME, OTHER], UNKNOWN))


def near_copies(dataset: Dataset, tested: Features, features: Features) -> NearCopies:
    """Those of the ``tested`` rows, which have gone through the network that gave the ``features`` of the others.

    Rows that are the same to the last byte are no pairs: the audit finds those.
    """
    learnt, last = fit_rows(dataset, features), max(features.arrays)
    array = features.arrays[last]
    found = find_twins(tested.arrays[last], array if learnt.all() else array[learnt])
    exact = np.isin(tested.keys, features.keys[learnt])
    near = ~exact[found.asked]
    others = np.setdiff1d(found.compared, found.asked)
    return NearCopies(
        tested=tested.rows[found.asked[near]],
        known=features.rows[learnt][found.known[near]],
        similarity=found.similarity[near],
        same=tested.rows[found.compared[exact[found.compared]]],
        others=tested.rows[others[~exact[others]]],
    )
