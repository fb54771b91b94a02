"""Content hashes, uint8 (rows, 16), as keys: which of many are known, and where."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.reading import HASH_BYTES

Digests = NDArray[np.uint8]
Positions = NDArray[np.intp]


class SortedDigests:
    """Where a content hash stands in the index, for many at a time; sorted when it is first asked."""

    def __init__(self, digests: Digests) -> None:
        self._digests = digests
        self._order: Positions | None = None
        self._keys = np.zeros(0, dtype=f"S{HASH_BYTES}")

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, digests: Digests) -> Positions:
        """Positions (rows,) of the digests (rows, 16), -1 where there is none."""
        wanted = as_keys(digests)
        if not len(self):
            return np.full(len(wanted), -1, dtype=np.intp)
        if self._order is None:
            keys = as_keys(self._digests)
            self._order = np.argsort(keys, kind="stable")
            self._keys = keys[self._order]
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self) - 1)
        return np.where(self._keys[place] == wanted, self._order[place], -1).astype(np.intp)


def as_keys(digests: Digests) -> NDArray[np.bytes_]:
    """Digests (rows, 16) as one comparable value each."""
    return np.ascontiguousarray(digests).view(f"S{HASH_BYTES}").reshape(-1)


def each_digest(digests: Digests) -> Iterator[bytes]:
    """Each digest as bytes."""
    return (row.tobytes() for row in digests)
