"""The three files of a feature store: reading what is committed, and committing more.

``rows.*`` holds the features of all boundaries row by row, ``index.*`` the content hash and checksum of each row,
``meta.json`` how many rows count. Rows are appended and made durable first, then ``meta.json`` is replaced: what
lies behind its count is the torn tail of a crash, which the next writer cuts off.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.regular import MOST_RECORD, open_file, read_file
from unfreeze.runtime.files import parse_json, write_atomically

# Counts up when the files of a store change their meaning.
VERSION = 1
META = "meta.json"
HASH_BYTES = 16
DTYPES = ("float16", "float32")
INDEX_RECORD = np.dtype([("digest", "u1", HASH_BYTES), ("checksum", "<u4")])
CHUNK_ROWS = 16_384


@dataclass(frozen=True)
class Meta:
    """What ``meta.json`` says; ``checksum`` covers all the rest and the first ``count`` records of the index."""

    key: str
    boundaries: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: str
    count: int
    checksum: str = ""
    version: int = VERSION

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(self.widths)

    def checksum_with(self, records: bytes) -> str:
        """What ``checksum`` must be for these records of the index."""
        head = json.dumps(asdict(replace(self, checksum=""))).encode()
        return hashlib.blake2b(head + records, digest_size=16).hexdigest()


@dataclass(frozen=True, eq=False)
class Committed:
    """The durable rows: ``index`` (rows,) of ``INDEX_RECORD`` and ``data`` (rows, width), memory-mapped."""

    meta: Meta
    index: NDArray[Any]
    data: NDArray[Any]


class DamagedStore(ValueError):  # noqa: N818 - it names the state of the files
    """The files do not fit together; the message says how."""


def empty_meta(key: str, boundaries: tuple[int, ...], widths: tuple[int, ...]) -> Meta:
    """The meta of a store without rows."""
    return Meta(key, boundaries, widths, DTYPES[0], 0)


def read_committed(folder: Path, key: str, boundaries: tuple[int, ...]) -> Committed | None:
    """What the folder holds, None when there is nothing. Raises DamagedStore, or OSError."""
    try:
        text = read_file(folder / META, most=MOST_RECORD)
    except FileNotFoundError:
        return None
    meta = _parse_meta(text)
    if meta.key != key or meta.boundaries != boundaries:
        raise DamagedStore("it belongs to another backbone")
    rows, index = file_paths(folder, meta.dtype)
    try:
        if rows.stat().st_size < meta.count * meta.width * np.dtype(meta.dtype).itemsize:
            raise DamagedStore("rows are missing")
        with open_file(index) as file:
            records = file.read(meta.count * INDEX_RECORD.itemsize)
    except FileNotFoundError:
        raise DamagedStore("a file is missing") from None
    if meta.checksum_with(records) != meta.checksum:
        raise DamagedStore("the index does not match its checksum")
    return _map(folder, meta, np.frombuffer(records, dtype=INDEX_RECORD))


def append_committed(
    folder: Path, before: Committed | None, start: Meta, digests: NDArray[np.uint8], rows: NDArray[np.float32]
) -> Committed:
    """What is durable after adding ``rows`` (rows, width) to ``before``, kept as ``start.dtype``.

    The caller holds the store's lock. Raises OSError; what was committed before then still counts.
    """
    if before is not None and before.meta.dtype != start.dtype:
        before = _rewrite(folder, before, start.dtype)
    kept = before.index if before is not None else np.zeros(0, dtype=INDEX_RECORD)
    stored = rows.astype(start.dtype)
    records = np.empty(len(stored), dtype=INDEX_RECORD)
    records["digest"] = digests
    records["checksum"] = checksums(stored)
    row_file, index_file = file_paths(folder, start.dtype)
    _append(row_file, len(kept) * start.width * stored.dtype.itemsize, [stored.tobytes()])
    _append(index_file, kept.nbytes, [records.tobytes()])
    return _publish(folder, start, np.concatenate([kept, records]))


def checksums(rows: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32 of each row's bytes, uint32 (rows,)."""
    return np.fromiter((zlib.crc32(row.data) for row in np.ascontiguousarray(rows)), np.uint32, len(rows))


def file_paths(folder: Path, dtype: str) -> tuple[Path, Path]:
    """The files of the rows and of their index."""
    return folder / f"rows.{dtype}", folder / f"index.{dtype}"


def _rewrite(folder: Path, before: Committed, dtype: str) -> Committed:
    """The same rows as another type, in files of their own that nothing counts yet."""
    row_file, index_file = file_paths(folder, dtype)
    index = before.index.copy()

    def converted() -> Iterator[bytes]:
        for start in range(0, len(index), CHUNK_ROWS):
            chunk = np.asarray(before.data[start : start + CHUNK_ROWS], dtype=dtype)
            index["checksum"][start : start + CHUNK_ROWS] = checksums(chunk)
            yield chunk.tobytes()

    _append(row_file, 0, converted())
    _append(index_file, 0, [index.tobytes()])
    return _map(folder, replace(before.meta, dtype=dtype), index)


def _append(path: Path, keep_bytes: int, parts: Iterator[bytes] | list[bytes]) -> None:
    if not keep_bytes:
        # Another process may have the file mapped, and would end where it reads what was cut off: it keeps the old one.
        path.unlink(missing_ok=True)
    path.touch()
    with path.open("r+b") as file:
        file.truncate(keep_bytes)
        file.seek(keep_bytes)
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _publish(folder: Path, start: Meta, index: NDArray[Any]) -> Committed:
    meta = replace(start, count=len(index))
    meta = replace(meta, checksum=meta.checksum_with(index.tobytes()))
    write_atomically(folder / META, json.dumps(asdict(meta)))
    for dtype in DTYPES:
        if dtype != meta.dtype:
            for path in file_paths(folder, dtype):
                path.unlink(missing_ok=True)
    return _map(folder, meta, index)


def _map(folder: Path, meta: Meta, index: NDArray[Any]) -> Committed:
    path, _ = file_paths(folder, meta.dtype)
    shape = (len(index), meta.width)
    data: NDArray[Any] = (
        np.memmap(path, dtype=meta.dtype, mode="r", shape=shape)
        if len(index) and meta.width
        else np.zeros(shape, dtype=meta.dtype)
    )
    return Committed(meta, index, data)


def _parse_meta(text: bytes) -> Meta:
    try:
        values = parse_json(text)
        meta = Meta(
            key=str(values["key"]),
            boundaries=tuple(int(boundary) for boundary in values["boundaries"]),
            widths=tuple(int(width) for width in values["widths"]),
            dtype=str(values["dtype"]),
            count=int(values["count"]),
            checksum=str(values["checksum"]),
            version=int(values["version"]),
        )
    except (ValueError, KeyError, TypeError):
        raise DamagedStore("meta.json cannot be read") from None
    if meta.version != VERSION:
        raise DamagedStore("it was written by another version")
    if meta.dtype not in DTYPES or meta.count < 0 or min(meta.widths, default=0) < 0:
        raise DamagedStore("meta.json holds impossible values")
    return meta
