"""Chance as a pure function: the same numbers for the same seed, round and sample, with no generator to save.

SplitMix64 (Steele, Lea and Flood 2014) is run as a counter-based generator: the state is a mix of the arguments, so
any number can be drawn without drawing those before it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniforms(seed: int, round_: int, keys: NDArray[np.uint64], draws: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), shape (keys, draws), from a seed, a round (epoch or view) and one key a sample."""
    with np.errstate(over="ignore"):
        start = _mix(_mix(np.uint64(seed % 2**64)) + np.uint64(round_ % 2**64) * _GAMMA)
        rows = _mix(keys + start)[:, None]
        columns = np.arange(1, draws + 1, dtype=np.uint64)[None, :] * _GAMMA
        bits = _mix(rows + columns)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(seed: int, epoch: int, rows: int) -> NDArray[np.intp]:
    """A permutation of 0..rows-1 that depends on the seed and the epoch alone."""
    keys = np.arange(rows, dtype=np.uint64)
    return np.argsort(uniforms(seed, epoch, keys, 1)[:, 0], kind="stable")


def keys_of(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One key a sample from its content hash (rows, 16): what augmentation depends on, wherever the row stands."""
    return np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0].astype(np.uint64)


def _mix(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        mixed = np.asarray(value, dtype=np.uint64) + _GAMMA
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        return mixed ^ (mixed >> np.uint64(31))
