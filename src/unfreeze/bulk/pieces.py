"""Inputs cut into pieces, the same ones each time: what a worker is given, and what a killed command repeats."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unfreeze.data.columns import content_column, text_of
from unfreeze.data.dataset import Modality, Samples
from unfreeze.data.inputs import STANDARD_INPUT, check_kind, files_of, match_files, walk
from unfreeze.data.samples import ColumnSamples, FileSamples, ParquetSamples, RowGroups, join_samples
from unfreeze.data.tables import TABLE_SUFFIXES, is_bytes_type, open_table
from unfreeze.errors import DataError, RequestError

SHARD = ".parquet"
# Rows of a table that are decoded together on the way to those that are wanted.
READ_ROWS = 1_024


@dataclass(frozen=True)
class TablePiece:
    """Rows ``start`` to ``stop`` of a Parquet file; ``prefix`` stands before its name in the names of rows."""

    path: Path
    prefix: str
    column: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def open(self, modality: Modality) -> Samples:
        """The rows as samples; where the file is damaged, each row says so when it is read."""
        rows = np.arange(self.start, self.stop)
        try:
            found = self._read(modality, rows)
        except (DataError, OSError, pa.ArrowException) as problem:
            said = (str(problem).splitlines() or [type(problem).__name__])[0][:200]
            found = Lost(self.path.name, rows, said.rstrip("."))
        return join_samples((found,), (self.prefix,)) if self.prefix else found

    def _read(self, modality: Modality, rows: NDArray[np.intp]) -> Samples:
        _, schema = _measured(self.path)
        if is_bytes_type(schema.field(self.column).type):
            groups = RowGroups([self.path], self.column)
            return ParquetSamples(self.path.name, self.path.parent, rows, groups)
        values = text_of(_rows_of(self.path, self.column, self.start, self.stop), what=self.path.name)
        if len(values) != len(rows):
            raise DataError(f"{self.path.name} holds fewer rows than it says")
        places = np.arange(len(values))
        if modality == "image":
            return FileSamples(self.path.parent, values, "image", places)
        return ColumnSamples(self.path.name, values, rows + 1, places, self.path.parent)


@dataclass(frozen=True)
class FilesPiece:
    """Files by their paths."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, modality: Modality) -> Samples:
        """The files as samples."""
        return files_of(self.paths, modality)


Piece = TablePiece | FilesPiece


@dataclass(frozen=True, eq=False)
class Lost:
    """Rows of a table that cannot be read, and why."""

    table: str
    rows: NDArray[np.intp]
    reason: str

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """``TABLE:ROW``, from 1."""
        return f"{self.table}:{self.rows[row] + 1}"

    def read(self, row: int) -> bytes | str:
        """Raise OSError."""
        raise OSError(self.reason)

    def select(self, rows: NDArray[np.intp]) -> Lost:
        """These rows in this order."""
        return Lost(self.table, self.rows[rows], self.reason)


@dataclass(frozen=True)
class Cut:
    """The pieces in order, and ``digest``, which names, sizes and times of the inputs decide."""

    pieces: tuple[Piece, ...]
    digest: str

    @property
    def rows(self) -> int:
        """How many there are in all pieces."""
        return sum(map(len, self.pieces))


def cut_inputs(inputs: Sequence[str], *, modality: Modality, column: str | None, piece_rows: int) -> Cut:
    """The pieces of Parquet files, of folders or patterns of them, and of files, each of ``piece_rows`` at most.

    Contents are not hashed, since that would read all of them: a file that was changed has another size or time.
    Raises RequestError for other inputs, for none, and for a table without the column.
    """
    listed = [path for name in inputs for path in _listed(name, modality)]
    if not listed:
        raise RequestError(f"{', '.join(inputs)}: no {modality} inputs were found there.")
    shards = [Path(path) for path in listed if path.lower().endswith(SHARD)]
    files = [path for path in listed if not path.lower().endswith(SHARD)]
    if files:
        check_kind(files, modality)
    pieces: list[Piece] = [*_cut_tables(shards, modality, column, piece_rows)]
    pieces += [
        FilesPiece(tuple(files[start : start + piece_rows])) for start in range(0, len(files), piece_rows)
    ]
    if not pieces:
        raise RequestError(f"{', '.join(inputs)}: the tables have no rows.")
    return Cut(tuple(pieces), _digest([*map(str, shards), *files]))


def _listed(name: str, modality: Modality) -> list[str]:
    """The files that one name of a command line stands for."""
    path = Path(name)
    if path.is_dir():
        return _shards_below(path) or walk(path, modality)
    if any(mark in name for mark in "*?[") and not path.exists():
        return match_files(name)
    suffix = path.suffix.lower()
    if name == STANDARD_INPUT or (suffix in TABLE_SUFFIXES and suffix != SHARD):
        raise RequestError(
            f"--engine ray reads Parquet files and folders of files, not {name}: convert it, or leave --engine out."
        )
    if not path.exists() and suffix == SHARD:
        raise RequestError(f"{name} does not exist. Give Parquet files, or folders or patterns of them.")
    return [name]


def _shards_below(folder: Path) -> list[str]:
    """Parquet files below a folder; what begins with a dot or an underscore is somebody's bookkeeping."""
    return sorted(
        str(path)
        for path in folder.rglob(f"*{SHARD}")
        if path.is_file() and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )


def _cut_tables(
    shards: Sequence[Path], modality: Modality, column: str | None, piece_rows: int
) -> Iterator[TablePiece]:
    """Ranges of rows, whatever the row groups: one group of a million rows would be no piece to repeat."""
    prefixes = _prefixes(shards)
    for shard in shards:
        rows, schema = _measured(shard)
        if not rows:
            continue
        # The first table with rows decides where no column was named.
        column = column or content_column(open_table(shard), modality=modality, asked=None)
        if column not in schema.names:
            raise RequestError(
                f"{shard} has no column {column!r} for the {modality}s. Its columns are {', '.join(schema.names[:20])}."
            )
        kind = schema.field(column).type
        if modality == "text" and (is_bytes_type(kind) or pa.types.is_nested(kind)):
            raise RequestError(f"{shard}: the column {column!r} holds {kind}, and this run reads texts.")
        for start in range(0, rows, piece_rows):
            yield TablePiece(shard, prefixes[shard], column, start, min(start + piece_rows, rows))


def _measured(shard: Path) -> tuple[int, Any]:
    """Rows and Arrow schema of a Parquet file, from its footer."""
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(shard)
    except (OSError, pa.ArrowException) as problem:
        said = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DataError(f"{shard} cannot be read: {said.rstrip('.')}.") from None
    with file:
        return file.metadata.num_rows, file.schema_arrow


def _prefixes(shards: Sequence[Path]) -> dict[Path, str]:
    """What stands before each file's name: nothing, or the folders that tell files of one name apart."""
    if len({shard.name for shard in shards}) == len(shards):
        return dict.fromkeys(shards, "")
    top = os.path.commonpath([shard.absolute().parent for shard in shards])
    folders = {shard: shard.absolute().parent.relative_to(top).as_posix() for shard in shards}
    return {shard: "" if folder == "." else f"{folder}/" for shard, folder in folders.items()}


def _rows_of(path: Path, column: str, start: int, stop: int) -> Any:
    """Rows ``start`` to ``stop`` of a column; row groups before and behind are not read."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends = np.cumsum(counts)
        groups = [int(group) for group in np.flatnonzero((ends > start) & (ends - counts < stop))]
        position = int(ends[groups[0]] - counts[groups[0]])
        kept = []
        for batch in file.iter_batches(batch_size=READ_ROWS, row_groups=groups, columns=[column]):
            values = batch.column(0)
            values.validate(full=True)
            kept.append(values.slice(max(0, start - position), max(0, stop - max(start, position))))
            position += len(values)
            if position >= stop:
                break
    return pa.chunked_array(kept)


def _digest(paths: Sequence[str]) -> str:
    hashed = hashlib.sha256()
    for path in paths:
        try:
            state = os.stat(path)  # noqa: PTH116 - of a million files, without a million Path objects
            facts = [path, state.st_size, state.st_mtime_ns]
        except OSError:
            facts = [path]
        hashed.update(json.dumps(facts).encode() + b"\n")
    return hashed.hexdigest()
