"""Inputs cut into pieces, the same ones each time: what a worker is given, and what a killed command repeats."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unfreeze.data.columns import content_column, text_of
from unfreeze.data.dataset import Modality, Samples
from unfreeze.data.groups import Place, RowGroups, open_parquet_file
from unfreeze.data.inputs import (
    STANDARD_INPUT,
    check_column,
    check_kind,
    files_of,
    is_wanted,
    match_files,
    walk,
)
from unfreeze.data.links import Links
from unfreeze.data.parquet import open_parquet
from unfreeze.data.remote import in_its_name
from unfreeze.data.rows import IMAGE_SUFFIXES, TEXT_SUFFIXES, IgnoredLog, suffix_of, unread_inputs
from unfreeze.data.samples import ColumnSamples, FileSamples, ParquetSamples, join_samples
from unfreeze.data.tables import TABLE_SUFFIXES, Table, is_bytes_type, open_table, readable
from unfreeze.data.walking import refuse_links_out
from unfreeze.errors import DataError, RequestError, first_line
from unfreeze.regular import names_anything, names_folder
from unfreeze.runtime.parts import Ranges, in_parts, part_file
from unfreeze.runtime.remote import (
    AT_ONCE,
    fetch,
    fetch_file,
    is_pattern,
    is_remote,
    list_files,
    name_of,
    open_object,
    parent_of,
    scrubbed,
)

SHARD = ".parquet"
# Rows of a table that are decoded together on the way to those that are wanted.
READ_ROWS = 1_024


@dataclass(frozen=True)
class TablePiece:
    """Rows ``start`` to ``stop`` of a Parquet file; ``prefix`` stands before its name in the names of rows.

    A file behind a URL is fetched by the worker that reads the first piece of it; where it is ``streamed``, which is
    where all that is to be predicted has no place there, its row groups alone.
    """

    place: str
    prefix: str
    column: str
    start: int
    stop: int
    streamed: bool = False

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """The name of the file."""
        return _name(self.place)

    def open(self, modality: Modality) -> Samples:
        """The rows as samples; where the file is damaged, each row says so when it is read.

        Raises DataError when a store does not give the file: that may pass, and is no fault of the rows.
        """
        rows, place = np.arange(self.start, self.stop), self._place()
        try:
            found = self._read(place, modality, rows)
        except (DataError, OSError, pa.ArrowException) as problem:
            if self.streamed and isinstance(problem, DataError):
                raise
            said = first_line(problem)
            found = Lost(self.name, rows, said.rstrip("."))
        return join_samples((found,), (self.prefix,)) if self.prefix else found

    def _place(self) -> Place:
        if not is_remote(self.place):
            return Path(self.place)
        return part_file(self.place) if self.streamed else fetch_file(self.place)

    def _read(self, place: Place, modality: Modality, rows: NDArray[np.intp]) -> Samples:
        folder: Path | Links = Path(self.place).parent
        if is_remote(self.place):
            folder = Links(base=scrubbed(parent_of(self.place)), kept=not self.streamed)
        with open_parquet_file(place) as file:
            kind, footer = file.schema_arrow.field(self.column).type, file.metadata
        if is_bytes_type(kind):
            groups = RowGroups([place], self.column, footers=[footer])
            return ParquetSamples(self.name, folder, rows, groups)
        if isinstance(place, Path):
            column = _rows_of(place, self.column, self.start, self.stop)
        else:
            column = RowGroups([place], self.column, footers=[footer]).values(self.start, self.stop)
            column.validate(full=True)
        values = text_of(column, what=self.name)
        if len(values) != len(rows):
            raise OSError(f"{self.name} holds fewer rows than it says")
        places = np.arange(len(values))
        if modality == "image":
            return FileSamples(folder, values, "image", places)
        return ColumnSamples(self.name, values, rows + 1, places, folder)


@dataclass(frozen=True)
class FilesPiece:
    """Files by their paths or URLs; those in ``refused`` are rows that cannot be read.

    ``streamed``: some of them lie behind URLs, and all that is to be predicted has no place on this disk.
    """

    paths: tuple[str, ...]
    refused: frozenset[str] = frozenset()
    streamed: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, modality: Modality) -> Samples:
        """The files as samples."""
        return files_of(self.paths, modality, refused=self.refused, kept=not self.streamed)


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
    """The pieces in order, and ``digest``, which names, sizes and times of the inputs decide.

    ``notes``: what a person should know of how they are read.
    """

    pieces: tuple[Piece, ...]
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many there are in all pieces."""
        return sum(map(len, self.pieces))


def cut_inputs(inputs: Sequence[str], *, modality: Modality, column: str | None, piece_rows: int) -> Cut:
    """The pieces of Parquet files, of folders or patterns of them, and of files, each of ``piece_rows`` at most.

    Contents are not hashed, since that would read all of them: a file that was changed has another size or time, and an
    object another version. Raises RequestError for other inputs, for none, and for a table without the column.
    """
    met = _Met()
    listed = [path for name in inputs for path in _listed(name, modality, met)]
    left_out = unread_inputs(met.log.entries(), modality)
    if not listed:
        told = " ".join(("", *left_out))
        raise RequestError(
            f"{', '.join(map(scrubbed, inputs))}: no {modality} inputs were found there.{told}"
        )
    shards = [path for path in listed if suffix_of(_name(path)) == SHARD]
    files = [path for path in listed if suffix_of(_name(path)) != SHARD]
    if files:
        check_kind(files, modality)
    check_column(column, tables=bool(shards))
    pieces: list[Piece] = [*_cut_tables(shards, modality, column, piece_rows, met.streamed)]
    for start in range(0, len(files), piece_rows):
        paths = tuple(files[start : start + piece_rows])
        streamed = not met.streamed.isdisjoint(paths)
        pieces.append(FilesPiece(paths, frozenset(met.refused.intersection(paths)), streamed))
    if not pieces:
        raise RequestError(f"{', '.join(map(scrubbed, inputs))}: the tables have no rows.")
    return Cut(tuple(pieces), _digest([*shards, *files], met.versions), (*met.notes, *left_out))


@dataclass
class _Met:
    """What was met in listing: ``versions`` of objects by URL, links that lead out of a folder and are not read.

    ``streamed``: URLs of objects of which nothing is to stay here. ``log``: what was left out.
    """

    versions: dict[str, Sequence[object]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    streamed: set[str] = field(default_factory=set)
    log: IgnoredLog = field(default_factory=IgnoredLog)
    notes: list[str] = field(default_factory=list)


def _listed(name: str, modality: Modality, met: _Met) -> list[str]:
    """The files that one name of a command line stands for."""
    if is_remote(name):
        return _listed_behind(name, modality, met)
    path = Path(name)
    if names_folder(path):
        return _shards_below(path) or walk(path, modality, met.refused, met.log)
    if any(mark in name for mark in "*?[") and not names_anything(path):
        return match_files(name)
    suffix = path.suffix.lower()
    _check_table(name, suffix)
    if not names_anything(path) and suffix == SHARD:
        raise RequestError(f"{name} does not exist. Give Parquet files, or folders or patterns of them.")
    return [name]


def _listed_behind(url: str, modality: Modality, met: _Met) -> list[str]:
    """The URLs of the files that a URL stands for: of Parquet files if there are any, else of those of the kind."""
    wanted = IMAGE_SUFFIXES if modality == "image" else TEXT_SUFFIXES
    try:
        listing = list_files(url)
    except DataError:
        if suffix_of(name_of(url)) in wanted:
            return [url]  # a bad row, as a file that does not exist
        raise
    suffixes = {name: suffix_of(name) for name in listing.files}
    if listing.is_file:
        _check_table(url, *suffixes.values())
        names, addresses = list(suffixes), {name_of(url): url}
    else:
        shown = {
            name: suffix for name, suffix in suffixes.items() if is_pattern(url) or not _is_bookkeeping(name)
        }
        if SHARD in shown.values():
            names = sorted(name for name in shown if shown[name] == SHARD)
        else:
            names = sorted(name for name in shown if is_wanted(name, wanted, met.log))
        addresses = listing.addresses()
    for name in names:
        met.versions[addresses[name]] = [listing.files[name].version, listing.files[name].size]
    if (beyond := in_parts(listing.only(names))) is not None:
        met.streamed.update(addresses[name] for name in names)
        met.notes.append(f"{scrubbed(url)} is read in parts: {beyond[1]}.")
    return [addresses[name] for name in names]


def _check_table(name: str, suffix: str) -> None:
    if name == STANDARD_INPUT or (suffix in TABLE_SUFFIXES and suffix != SHARD):
        raise RequestError(
            f"--engine ray reads Parquet files and folders of files, not {scrubbed(name)}: convert it, or leave "
            "--engine out."
        )


def _is_bookkeeping(name: str) -> bool:
    """Whether a name below a folder is somebody's bookkeeping: a part of it begins with a dot or an underscore."""
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _name(place: str) -> str:
    """The name of the file at a path or URL."""
    return name_of(place) if is_remote(place) else Path(place).name


def _shards_below(folder: Path) -> list[str]:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob(f"*{SHARD}") if path.is_file()]
    names = [name for name in names if not _is_bookkeeping(name)]
    refuse_links_out(folder, names)
    return sorted(str(folder / name) for name in names)


def _cut_tables(
    shards: Sequence[str], modality: Modality, column: str | None, piece_rows: int, streamed: Collection[str]
) -> Iterator[TablePiece]:
    """Ranges of rows, whatever the row groups: one group of a million rows would be no piece to repeat."""
    prefixes = _prefixes(shards)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="unfreeze-footer") as pool:
        measured = list(pool.map(_measured, shards))
    for shard, (rows, schema) in zip(shards, measured, strict=True):
        if not rows:
            continue
        # The first table with rows decides where no column was named.
        if column is None:
            column = content_column(_opened_table(shard, shard in streamed), modality=modality, asked=None)
        if column not in schema.names:
            raise RequestError(
                f"{scrubbed(shard)} has no column {column!r} for the {modality}s. "
                f"Its columns are {', '.join(schema.names[:20])}."
            )
        kind = schema.field(column).type
        if modality == "text" and (is_bytes_type(kind) or pa.types.is_nested(kind)):
            raise RequestError(
                f"{scrubbed(shard)}: the column {column!r} holds {kind}, and this run reads texts."
            )
        for start in range(0, rows, piece_rows):
            stop = min(start + piece_rows, rows)
            yield TablePiece(shard, prefixes[shard], column, start, stop, shard in streamed)


def _opened_table(shard: str, streamed: bool) -> Table:
    if not is_remote(shard):
        return open_table(Path(shard))
    if not streamed:
        listing = list_files(shard)
        local = fetch(listing)
        with in_its_name(listing, local):
            return open_table(local)
    return open_parquet([part_file(shard)], name=_name(shard), folder=Links(base=scrubbed(parent_of(shard))))


def _measured(shard: str) -> tuple[int, Any]:
    """Rows and Arrow schema of a Parquet file, from its footer: nothing else of a remote one is read."""
    from pyarrow import parquet

    with _opened(shard) as source, readable(scrubbed(shard)), parquet.ParquetFile(source) as file:
        return file.metadata.num_rows, file.schema_arrow


@contextmanager
def _opened(place: str) -> Iterator[str | Ranges]:
    """What pyarrow reads a file from: the path, or the object behind a URL."""
    if not is_remote(place):
        yield place
        return
    with open_object(place) as file:
        yield Ranges(scrubbed(place), file)


def _prefixes(shards: Sequence[str]) -> dict[str, str]:
    """What stands before each file's name: nothing, or the folders that tell files of one name apart."""
    if len({_name(shard) for shard in shards}) == len(shards):
        return dict.fromkeys(shards, "")
    folders = {shard: _folder(shard) for shard in shards}
    common = _common([folder.split("/") for folder in folders.values()])
    below = {shard: "/".join(folder.split("/")[common:]) for shard, folder in folders.items()}
    return {shard: f"{folder}/" if folder else "" for shard, folder in below.items()}


def _folder(place: str) -> str:
    return parent_of(place) if is_remote(place) else Path(place).absolute().parent.as_posix()


def _common(paths: Sequence[Sequence[str]]) -> int:
    """How many parts all paths begin with."""
    return sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False)))


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


def _digest(paths: Sequence[str], versions: Mapping[str, Sequence[object]]) -> str:
    hashed = hashlib.sha256()
    for path in paths:
        facts: list[object] = [scrubbed(path)]
        if path in versions:
            facts += versions[path]
        else:
            # A name that does not exist becomes a bad row.
            with suppress(OSError):
                state = os.stat(path)  # noqa: PTH116 - of a million files, without a million Path objects
                facts += [state.st_size, state.st_mtime_ns]
        hashed.update(json.dumps(facts).encode() + b"\n")
    return hashed.hexdigest()
