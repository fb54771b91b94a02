"""Which rows of one seed are rows of another too: a key for each, short enough to be kept in a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

# Of a million rows two share a key once in 37 million comparisons.
KEY_BYTES = 8


def key_rows(names: Sequence[str]) -> str:
    """The keys of rows with these names, 16 hexadecimal digits each, one behind the other.

    Rows of the same name are told apart by their order.
    """
    seen: Counter[str] = Counter()
    keys = []
    for name in names:
        text = f"{name}\0{seen[name]}".encode("utf-8", "surrogateescape")
        keys.append(blake2b(text, digest_size=KEY_BYTES).hexdigest())
        seen[name] += 1
    return "".join(keys)


def key_groups(codes: Sequence[int]) -> str:
    """The keys of rows in groups of these codes, equal within a group and in all parts of the same data."""
    return "".join(f"{code % 2**64:0{2 * KEY_BYTES}x}" for code in codes)


def are_keys(text: str, count: int, *, distinct: bool = True) -> bool:
    """Whether a text is what ``key_rows`` gives for so many rows, or ``key_groups``, or empty."""
    digits = 2 * KEY_BYTES
    if not text:
        return True
    if len(text) != digits * count or not set(text) <= set("0123456789abcdef"):
        return False
    return (
        not distinct or len({text[start : start + digits] for start in range(0, len(text), digits)}) == count
    )


def read_keys(text: str, *, rows_hash: str, count: int) -> NDArray[np.uint64]:
    """The keys (rows,) in a text of ``key_rows``.

    Where it is empty, as in records from before there were keys, lists of the same ``rows_hash`` have the same rows,
    and others have none in common.
    """
    kept = text or key_rows([rows_hash] * count)
    return np.frombuffer(bytes.fromhex(kept), dtype=">u8").astype(np.uint64)
