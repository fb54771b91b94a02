"""Drawing parts from rows: stratified, in an order of names or contents that knows no positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import PARTS, Part
from unfreeze.data.rows import listed
from unfreeze.errors import DataError

# From this many rows on a class follows the shares; below, see ``class_counts``.
FEW_ROWS = 7
ROWS_FOR_VAL = 4
GROUP_ATTEMPTS = 20
# How many strings of a column are Python objects at the same time.
STRINGS_AT_ONCE = 10_000


@dataclass(frozen=True, eq=False)
class Pool:
    """Rows to draw from. All arrays (rows,): class index, hash order, group codes, stratum codes."""

    source: str
    names: tuple[str, ...]
    label: NDArray[np.int32]
    order: NDArray[np.uint64]
    group: NDArray[np.int32] | None = None
    stratum: NDArray[np.int32] | None = None


def hash_order(identity: Any, seed: int) -> NDArray[np.uint64]:
    """A number for each string of an Arrow array, uint64 (rows,), made of the string and the seed alone.

    Sorting by it is a random order that rows keep when others are added, removed or moved.
    """
    key = str(seed).encode()
    chunks = identity.chunks if hasattr(identity, "chunks") else [identity]
    digests = bytearray()
    for chunk in chunks:
        for start in range(0, len(chunk), STRINGS_AT_ONCE):
            for value in chunk.slice(start, STRINGS_AT_ONCE).to_pylist():
                digests += blake2b(value.encode("utf-8"), digest_size=8, key=key).digest()
    return np.frombuffer(bytes(digests), dtype=np.uint64)


def draw_parts(pool: Pool, shares: Mapping[Part, float]) -> NDArray[np.int8]:
    """The part of each row, int8 (rows,), an index into ``PARTS``.

    ``shares`` holds the share of the rows for each part to be drawn besides train. With groups these are drawn whole.
    Else strata are spread evenly over the parts within a class, and its rows of equal identity share a part, wherever
    that leaves them. Raises DataError when a class or a grouping is too small.
    """
    wanted = {part: share for part, share in shares.items() if share > 0}
    if not wanted:
        return np.full(len(pool.label), PARTS.index("train"), dtype=np.int8)
    if pool.group is not None:
        return _draw_groups(pool, wanted)
    return _draw_rows(pool, wanted)


def class_counts(rows: int, wanted: Mapping[Part, float]) -> dict[Part, int]:
    """How many of a class's ``rows`` go to each part, for (possibly fractional) wishes of rows by part.

    From 7 rows on, each drawn part gets its rounded wish, at least one. With 3 to 6 rows test gets one, val
    gets one from 4 rows on, and train keeps the rest: heads are chosen by cross-validation, which needs them.
    """
    counts: dict[Part, int] = {}
    for part, wish in wanted.items():
        if rows < FEW_ROWS:
            counts[part] = 1 if part == "test" or rows >= ROWS_FOR_VAL or len(wanted) == 1 else 0
        else:
            counts[part] = max(1, round(wish))
    while sum(counts.values()) >= rows:
        counts[max(counts, key=lambda part: counts[part])] -= 1
    return {"train": rows - sum(counts.values()), **counts}


def _draw_rows(pool: Pool, shares: Mapping[Part, float]) -> NDArray[np.int8]:
    sizes = np.bincount(pool.label, minlength=len(pool.names))
    least = 1 + len(shares)
    for name, size in zip(pool.names, sizes, strict=True):
        if size < least:
            raise DataError(
                f"{pool.source}: the class {name!r} has {size} row(s), but at least {least} are needed to "
                f"hold out {' and '.join(shares)}. Add some, or leave the class out."
            )
    stratum = np.zeros_like(pool.label) if pool.stratum is None else pool.stratum
    by_class = np.lexsort((pool.order, stratum, pool.label))
    part = np.empty(len(pool.label), dtype=np.int8)
    # What rounding took from a class is owed to the next, so that the whole keeps its shares.
    owed = dict.fromkeys(shares, 0.0)
    start = 0
    for rows_of_class in map(int, sizes):
        wishes = {name: rows_of_class * share + owed[name] for name, share in shares.items()}
        counts = class_counts(rows_of_class, wishes)
        owed = {name: float(np.clip(wishes[name] - counts[name], -0.5, 0.5)) for name in shares}
        rows = by_class[start : start + rows_of_class]
        part[rows] = _place(pool.order[rows], counts)
        start += rows_of_class
    return part


def _place(order: NDArray[np.uint64], counts: Mapping[Part, int]) -> NDArray[np.int8]:
    """The parts of one class's rows, about so many in each, with rows of equal identity (the same text) in one part.

    A text that is learned and tested on makes results too good. Texts that occur several times go, the most frequent
    first, where the greatest share of the rows is missing, of parts that have room for them, and no part stays without
    one. A class of fewer texts than parts is drawn by rows; its repeated ones show up in the audit.
    """
    wanted = {PARTS.index(part): count for part, count in counts.items() if count}
    _, text, sizes = np.unique(order, return_inverse=True, return_counts=True)
    if len(sizes) == len(order) or len(sizes) < len(wanted):
        return _spread(counts)
    missing = dict(wanted)
    part_of = np.full(len(sizes), -1, dtype=np.int8)
    empty, left = set(wanted), len(sizes)
    several = np.flatnonzero(sizes > 1)
    for index in several[np.argsort(-sizes[several], kind="stable")]:
        # As many texts as empty parts: each gets one.
        open_ = empty if left == len(empty) else wanted
        roomy = [part for part in open_ if missing[part] >= sizes[index]]
        taken = (
            max(roomy, key=lambda part: missing[part] / wanted[part])
            if roomy
            else max(open_, key=lambda part: missing[part])
        )
        part_of[index] = taken
        missing[taken] -= int(sizes[index])
        empty.discard(taken)
        left -= 1
    rows = part_of[text]
    if not left:
        return rows
    rest = {PARTS[part]: max(0, count) for part, count in missing.items()}
    while sum(rest.values()) > left:
        rest[max(rest, key=lambda part: (rest[part], PARTS.index(part) not in empty))] -= 1
    rows[rows < 0] = _spread(rest)
    return rows


def _spread(counts: Mapping[Part, int]) -> NDArray[np.int8]:
    """Part numbers in the given counts, each part evenly spaced, so that every stratum gets its share."""
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts.values() if count])
    numbers = np.repeat([PARTS.index(part) for part in counts], list(counts.values())).astype(np.int8)
    return numbers[np.argsort(places, kind="stable")]


def _draw_groups(pool: Pool, shares: Mapping[Part, float]) -> NDArray[np.int8]:
    assert pool.group is not None
    parts: tuple[Part, ...] = ("train", *shares)
    codes, group = np.unique(pool.group, return_inverse=True)
    tables = _group_tables(pool, group, len(codes))
    holders = Counter(label for table in tables for label in table)
    for label, name in enumerate(pool.names):
        if holders[label] < len(parts):
            raise DataError(
                f"{pool.source}: the class {name!r} occurs in {holders[label]} group(s) only, but {len(parts)} are "
                f"needed so that {', '.join(parts)} each get some of it. Leave --group-column out, or give "
                "--test data."
            )
    order = np.full(len(codes), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(order, group, pool.order)
    sizes = np.bincount(pool.label, minlength=len(pool.names)).astype(float)
    share = {"train": 1.0 - sum(shares.values()), **shares}
    targets = np.stack([sizes * share[part] for part in parts])
    ranks = np.argsort(order, kind="stable")
    for attempt in range(GROUP_ATTEMPTS):
        owner = _share_out(tables, np.roll(ranks, attempt * (len(ranks) // GROUP_ATTEMPTS + 1)), targets)
        if owner is not None:
            return np.array([PARTS.index(part) for part in parts], dtype=np.int8)[owner][group]
    raise DataError(
        f"{pool.source}: no way was found to put whole groups into {', '.join(parts)} so that each part has "
        f"all of {listed(pool.names)}. Leave --group-column out, or give --test data."
    )


def _group_tables(pool: Pool, group: NDArray[np.intp], groups: int) -> list[dict[int, int]]:
    """Rows by class for each group."""
    pairs, counts = np.unique(np.stack([group, pool.label]), axis=1, return_counts=True)
    tables: list[dict[int, int]] = [{} for _ in range(groups)]
    for position, label, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        tables[position][label] = count
    return tables


def _share_out(
    tables: list[dict[int, int]], ranks: NDArray[np.intp], targets: NDArray[np.float64]
) -> NDArray[np.intp] | None:
    """A part for each group, or None when some part would lack a class.

    First every part gets a group of each class, rarest class first; then the rest, large groups first, go
    where their classes are missed most.
    """
    owner = np.full(len(tables), -1, dtype=np.intp)
    need = targets.copy()
    parts, classes = targets.shape
    holders: list[list[int]] = [[] for _ in range(classes)]
    for position in ranks.tolist():
        for label in tables[position]:
            holders[label].append(position)

    def give(position: int, part: int) -> None:
        owner[position] = part
        for label, count in tables[position].items():
            need[part, label] -= count

    for label in sorted(range(classes), key=lambda label: len(holders[label])):
        for part in reversed(range(parts)):
            if any(owner[position] == part for position in holders[label]):
                continue
            free = [position for position in holders[label] if owner[position] < 0]
            if not free:
                return None
            fits = (p for p in free if tables[p][label] <= np.ceil(targets[part, label]))
            give(next(fits, min(free, key=lambda p: tables[p][label])), part)
    rest = [position for position in ranks.tolist() if owner[position] < 0]
    rest.sort(key=lambda position: -sum(tables[position].values()))
    for position in rest:
        scores = [
            sum(count * need[part, label] / targets[part, label] for label, count in tables[position].items())
            for part in range(parts)
        ]
        give(position, int(np.argmax(scores)))
    return owner
