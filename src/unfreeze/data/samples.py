"""The raw inputs of a data set, one class for each place where they can lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unfreeze.data.dataset import Modality, Remembering, Samples
from unfreeze.data.groups import RowGroups
from unfreeze.data.links import Links, content_in
from unfreeze.data.walking import LEADS_OUT
from unfreeze.runtime.pictures import encode_losslessly
from unfreeze.runtime.remote import scrubbed
from unfreeze.runtime.texts import full_text

EMPTY_CELL = "the cell is empty"


@dataclass(frozen=True, eq=False)
class FileSamples:
    """Files, by path; ``paths`` (string array) are relative to ``root``, absolute, or URLs where that is ``Links``.

    ``lines`` holds the table rows that named them, when paths repeat and cannot serve as names. ``refused``: paths
    that are not read, as links that lead out of the folder in which they were found.
    """

    root: Path | Links
    paths: Any
    modality: Modality
    rows: NDArray[np.intp]
    lines: NDArray[np.int64] | None = None
    refused: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """The path as the data write it, a URL without what may be secret in it."""
        path = scrubbed(self._path(row))
        return path if self.lines is None else f"{path} (row {self.lines[self.rows[row]]})"

    def read(self, row: int) -> bytes | str:
        """The file's bytes, or its text. Raises OSError, and BadText for a file that holds none."""
        path = self._path(row)
        if path in self.refused:
            raise OSError(f"{LEADS_OUT}; put a copy there")
        content = content_in(self.root, path)
        return content if self.modality == "image" else full_text(content)

    def select(self, rows: NDArray[np.intp]) -> FileSamples:
        """These rows in this order; the paths are shared."""
        return replace(self, rows=self.rows[rows])

    def _path(self, row: int) -> str:
        return str(self.paths[int(self.rows[row])].as_py())


@dataclass(frozen=True, eq=False)
class ColumnSamples:
    """Texts or image bytes in an Arrow column; ``lines`` are the row numbers in the table, from 1."""

    table: str
    column: Any
    lines: NDArray[np.int64]
    rows: NDArray[np.intp]
    folder: Path | Links | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """``TABLE:ROW``."""
        return f"{self.table}:{self.lines[self.rows[row]]}"

    def read(self, row: int) -> bytes | str:
        """The text, or the image's bytes; raises OSError for an empty cell."""
        return cell_content(self.column[int(self.rows[row])].as_py(), self.folder)

    def select(self, rows: NDArray[np.intp]) -> ColumnSamples:
        """These rows in this order; the column is shared."""
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True, eq=False)
class ParquetSamples:
    """Image bytes inside Parquet files, read by row group on demand, so that memory is bounded.

    ``folder``: where the files that cells name instead lie.
    """

    table: str
    folder: Path | Links
    rows: NDArray[np.intp]
    groups: RowGroups

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """``TABLE:ROW``."""
        return f"{self.table}:{self.rows[row] + 1}"

    def read(self, row: int) -> bytes | str:
        """The image's bytes; raises OSError for an empty cell."""
        return cell_content(self.groups.cell(int(self.rows[row])), self.folder)

    def known_hash(self, row: int) -> bytes | None:
        """That of a cell whose row group was read, where the files are behind a URL."""
        return self.groups.known_hash(int(self.rows[row]))

    def select(self, rows: NDArray[np.intp]) -> ParquetSamples:
        """These rows in this order; the files and their cache are shared."""
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True, eq=False)
class ListSamples:
    """Texts, PIL images or uint8 arrays (height, width[, channels]) that are in memory already.

    ``blank``: whether a text of nothing but white space is one too.
    """

    items: tuple[Any, ...]
    rows: NDArray[np.intp]
    blank: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """``item N``, counted from 1."""
        return f"item {self.rows[row] + 1}"

    def read(self, row: int) -> bytes | str:
        """The text, or the picture as the bytes of a lossless image file. Raises BadText and BadImage."""
        item = self.items[int(self.rows[row])]
        if isinstance(item, str):
            return item if self.blank else full_text(item)
        return encode_losslessly(item)

    def select(self, rows: NDArray[np.intp]) -> ListSamples:
        """These rows in this order; the items are shared."""
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True, eq=False)
class LostSamples:
    """Rows that were asked for and hold no input: the name of each, and why."""

    names: tuple[str, ...]
    reasons: tuple[str, ...]
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """The name that it was given."""
        return self.names[int(self.rows[row])]

    def read(self, row: int) -> bytes | str:
        """Raise OSError."""
        raise OSError(self.reasons[int(self.rows[row])])

    def select(self, rows: NDArray[np.intp]) -> LostSamples:
        """These rows in this order; names and reasons are shared."""
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True, eq=False)
class JoinedSamples:
    """Several sources as one; a row's name carries its source's prefix, so that names stay unique."""

    sources: tuple[Samples, ...]
    prefixes: tuple[str, ...]
    source_of: NDArray[np.int32] = field(repr=False)
    row_of: NDArray[np.intp] = field(repr=False)

    def __len__(self) -> int:
        return len(self.row_of)

    def name(self, row: int) -> str:
        """The name in its source, after the prefix."""
        source = int(self.source_of[row])
        return self.prefixes[source] + self.sources[source].name(int(self.row_of[row]))

    def read(self, row: int) -> bytes | str:
        """The raw input from its source."""
        return self.sources[int(self.source_of[row])].read(int(self.row_of[row]))

    def known_hash(self, row: int) -> bytes | None:
        """That of its source, if that remembers any."""
        source = self.sources[int(self.source_of[row])]
        return source.known_hash(int(self.row_of[row])) if isinstance(source, Remembering) else None

    def select(self, rows: NDArray[np.intp]) -> JoinedSamples:
        """These rows in this order; the sources are shared."""
        return replace(self, source_of=self.source_of[rows], row_of=self.row_of[rows])


def join_samples(sources: tuple[Samples, ...], prefixes: tuple[str, ...]) -> JoinedSamples:
    """All rows of the sources, one source after the other."""
    lengths = [len(source) for source in sources]
    return JoinedSamples(
        sources=sources,
        prefixes=prefixes,
        source_of=np.repeat(np.arange(len(sources), dtype=np.int32), lengths),
        row_of=np.concatenate([np.arange(length, dtype=np.intp) for length in lengths]),
    )


def with_lost(samples: Samples, lost: Mapping[int, tuple[str, str]]) -> Samples:
    """The samples and between them the ``lost`` rows: name and reason of each, by its place in the whole."""
    if not lost:
        return samples
    names, reasons = zip(*lost.values(), strict=True)
    joined = join_samples((samples, LostSamples(names, reasons, np.arange(len(lost)))), ("", ""))
    places = np.array(list(lost), dtype=np.intp)
    order = np.empty(len(joined), dtype=np.intp)
    order[places] = len(samples) + np.arange(len(lost))
    order[np.delete(np.arange(len(joined)), places)] = np.arange(len(samples))
    return joined.select(order)


def strings(values: list[str]) -> Any:
    """The strings as one Arrow array."""
    return pa.array(values, type=pa.large_string())


def cell_content(value: Any, folder: Path | Links | None) -> bytes | str:
    """What a table cell holds: a text, bytes, or the ``{bytes, path}`` of hub data sets.

    Raises OSError for an empty cell.
    """
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            return content_in(folder or Path(), str(value["path"]))
        value = value.get("bytes")
    if value is None:
        raise OSError(EMPTY_CELL)
    if isinstance(value, str):
        if not value.strip():
            raise OSError(EMPTY_CELL)
        return value
    if isinstance(value, bytes):
        return value
    raise OSError(f"the cell holds {type(value).__name__}, not text or image bytes")
