"""Texts of different lengths as one array: the same widths in training, prediction and an exported model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Lengths are rounded up, so that a batch has one of few shapes.
LENGTH_MULTIPLE = 8


def padded(longest: int, *, most: int) -> int:
    """The width of a batch: rounded up, but not past ``most`` tokens, where a position table may end."""
    return max(longest, min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, most))


def pad_ids(
    ids: Sequence[NDArray[np.int64]], pad_id: int, *, most: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Token ids (texts, tokens) padded on the right to the longest text, rounded up, and their mask.

    ``most``: how many tokens a text can have at all.
    """
    width = padded(max((len(row) for row in ids), default=1), most=most)
    block = np.full((len(ids), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=np.bool_)
    for position, row in enumerate(ids):
        block[position, : len(row)] = row
        mask[position, : len(row)] = True
    return block, mask
