"""Columns of Parquet files by row group: of files on this disk, and of objects that are read in parts."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unfreeze.data.reading import HASH_BYTES, content_hash
from unfreeze.runtime.parts import PartFile

Place = Path | PartFile
# Row groups of a Parquet file kept in memory, counted in decoded bytes: a few of the usual 100 MB groups.
CACHE_BYTES = 512 * 2**20
MOST_OPEN = 16
# Row groups of objects that are fetched while earlier ones are decoded, and the bytes that they may take together.
MOST_AHEAD = 4
AHEAD_BYTES = CACHE_BYTES // 4


def open_parquet_file(place: Place, *, footer: Any = None) -> Any:
    """The Parquet file; a ``footer`` that was read before is not read again. The caller closes it."""
    from pyarrow import parquet

    return parquet.ParquetFile(place.open() if isinstance(place, PartFile) else place, metadata=footer)


class RowGroups:
    """One column of Parquet files by row, counted through all of them, with a cache of its last used row groups.

    ``footers``: those of objects, which are known from opening the table. Row groups of objects that are used in their
    order are fetched ahead.
    """

    def __init__(
        self,
        places: Sequence[Place],
        column: str,
        *,
        footers: Sequence[Any] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._column = column
        self._cache_bytes = cache_bytes
        # Threads share the file handles and one cache; decoding, the long part, happens outside the lock.
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._groups: list[tuple[Place, Any, int]] = []
        counts = [0]
        for position, place in enumerate(places):
            footer = None if footers is None else footers[position]
            if footer is None:
                with open_parquet_file(place) as file:
                    footer = file.metadata
            # That of a file is read again with it: of thousands it would take much memory.
            kept = footer if isinstance(place, PartFile) else None
            for group in range(footer.num_row_groups):
                self._groups.append((place, kept, group))
                counts.append(footer.row_group(group).num_rows)
        self._starts = np.cumsum(counts)
        self._cached: OrderedDict[int, Any] = OrderedDict()
        self._coming: dict[int, Future[Any]] = {}
        self._entries: deque[int] = deque(maxlen=2 * MOST_AHEAD)
        # Of row groups of objects, so that another pass for hashes alone need not fetch them.
        self._hashes: dict[int, NDArray[np.uint8]] = {}
        self._fetchers = ThreadPoolExecutor(MOST_AHEAD, thread_name_prefix="unfreeze-fetch")
        for place, _, group in self._groups:
            if isinstance(place, PartFile):
                place.shelf.claim([self._key(place, group)])

    def cell(self, row: int) -> Any:
        """The value in this row of the table, as a Python object; raises OSError where its file is damaged.

        Raises DataError where an object cannot be had any more, or is another one.
        """
        try:
            return self._cell(row)
        except (pa.ArrowException, IndexError) as problem:
            raise _damaged(problem) from None

    def values(self, start: int, stop: int) -> Any:
        """Rows ``start`` to ``stop`` of objects, as one Arrow column; errors are those of ``cell``."""
        kept = []
        try:
            for group in range(self._group_of(start), self._group_of(stop - 1) + 1):
                first = max(0, start - int(self._starts[group]))
                kept += self._taken(group)[first : stop - int(self._starts[group])].chunks
        except (pa.ArrowException, IndexError) as problem:
            raise _damaged(problem) from None
        return pa.chunked_array(kept)

    def known_hash(self, row: int) -> bytes | None:
        """The content hash of the bytes in this row of an object, if its row group was read before."""
        group = self._group_of(row)
        found = self._hashes.get(group)
        known = None if found is None else found[row - int(self._starts[group])]
        return None if known is None or not known.any() else known.tobytes()

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _cell(self, row: int) -> Any:
        group = self._group_of(row)
        with self._lock:
            column = self._cached.pop(group, None)
            if column is None:
                column = self._entered(group)
                held = column.nbytes + sum(other.nbytes for other in self._cached.values())
                while self._cached and held > self._cache_bytes:
                    held -= self._cached.popitem(last=False)[1].nbytes
            self._cached[group] = column
        return column[row - int(self._starts[group])].as_py()

    def _entered(self, group: int) -> Any:
        """The column in a row group that is not in memory."""
        place, _, number = self._groups[group]
        if not isinstance(place, PartFile):
            return self._file(place).read_row_group(number, columns=[self._column]).column(0)
        coming = self._coming.pop(group, None)
        # Several threads read rows in their order, and come to row groups nearly in theirs.
        in_order = group == 0 or any(0 < group - other <= MOST_AHEAD for other in self._entries)
        self._entries.append(group)
        if coming is not None or in_order:
            self._fetch_ahead(group + 1)
        return self._fetched(group) if coming is None else coming.result()

    def _fetch_ahead(self, first: int) -> None:
        taken = 0
        for group in range(first, min(first + MOST_AHEAD, len(self._groups))):
            taken += self._size(group)
            if not isinstance(self._groups[group][0], PartFile) or (group > first and taken > AHEAD_BYTES):
                break
            if group not in self._coming and group not in self._cached:
                self._coming[group] = self._fetchers.submit(self._fetched, group)
        # What nobody came to is not kept beside what comes next.
        held = sum(map(self._size, self._coming))
        while len(self._coming) > 1 and held > 2 * AHEAD_BYTES:
            oldest = next(iter(self._coming))
            held -= self._size(oldest)
            self._coming.pop(oldest).cancel()

    def _size(self, group: int) -> int:
        """Decoded bytes of the column in a row group of an object."""
        _, footer, number = self._groups[group]
        if footer is None:
            return 0
        about = footer.row_group(number)
        leaves = (about.column(leaf) for leaf in range(about.num_columns))
        return sum(
            leaf.total_uncompressed_size
            for leaf in leaves
            if leaf.path_in_schema == self._column or leaf.path_in_schema.startswith(f"{self._column}.")
        )

    def _fetched(self, group: int) -> Any:
        """The column in a row group of an object, whose hashes are kept."""
        column = self._taken(group)
        if group not in self._hashes:
            self._hashes[group] = _hashes_of(column)
        return column

    def _taken(self, group: int) -> Any:
        """The column from the shelf, else from the object and then onto the shelf."""
        place, footer, number = self._groups[group]
        assert isinstance(place, PartFile)
        key = self._key(place, number)
        shelved = place.shelf.find(key)
        if shelved is not None:
            try:
                return _read_column(shelved)
            except (OSError, pa.ArrowException):
                # It gave way meanwhile, or a crash of the machine cut it short.
                place.shelf.drop(key)
        with open_parquet_file(place, footer=footer) as file:
            column = file.read_row_group(number, columns=[self._column]).column(0)
        size = _written_bytes(column)
        place.shelf.keep(key, size, lambda path: _write_column(column, path))
        return column

    def _key(self, place: PartFile, number: int) -> str:
        return place.key(f"{self._column}\0{number}")

    def _file(self, path: Path) -> Any:
        """The opened file; a process may hold some hundred open, and a table may have thousands."""
        file = self._open.pop(path, None) or open_parquet_file(path)
        self._open[path] = file
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return file


def _damaged(problem: Exception) -> OSError:
    return OSError(f"its row group is damaged: {str(problem)[:120]}")


def _hashes_of(column: Any) -> NDArray[np.uint8]:
    """Content hashes, uint8 (rows, 16), of cells that hold their bytes; zero where one names a file or is empty."""
    values = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    hashes = np.zeros((len(column), HASH_BYTES), dtype=np.uint8)
    for row, cell in enumerate(values):
        content = cell.as_py()
        if isinstance(content, bytes):
            hashes[row] = np.frombuffer(content_hash(content), dtype=np.uint8)
    return hashes


def _read_column(path: Path) -> Any:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all().column(0)


def _write_column(column: Any, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file:
        _write(column, file)


def _written_bytes(column: Any) -> int:
    sink = pa.MockOutputStream()
    _write(column, sink)
    written: int = sink.size()
    return written


def _write(column: Any, sink: Any) -> None:
    table = pa.table({"column": column})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
