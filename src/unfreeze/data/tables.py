"""Table files, opened by columns: CSV, TSV, JSONL and Parquet behind one record."""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unfreeze.data.dataset import Ignored, Inference
from unfreeze.data.links import Links
from unfreeze.data.quotes import look_at_quotes, swallowed_rows
from unfreeze.data.rows import has_utf8, suffix_of
from unfreeze.data.samples import ParquetSamples
from unfreeze.errors import DataError, first_line
from unfreeze.runtime.files import parse_json

# Rows that the columns are judged by.
HEAD_ROWS = 1_000
# A CSV row must fit into a block; 16 MB is far above any text a classifier reads.
CSV_BLOCK_BYTES = 16 * 2**20
JSON_BATCH_ROWS = 20_000


@dataclass(frozen=True)
class Read:
    """Columns of a table: an Arrow table and the row numbers (rows,) that its file counts from 1.

    ``lost``: why a row of the file is not among them, by its number.
    """

    table: Any
    lines: NDArray[np.int64]
    lost: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Table:
    """An opened table.

    ``head`` holds its first rows; columns of image bytes are null there and only have a type. ``read`` gives
    whole columns. ``class_names`` names the integers of a label column, by column. ``images`` opens a column
    of image bytes for given positions without reading it; None means that ``read`` may be used. ``folder``: where
    the files that cells name lie. ``ignored``: what lies beside its rows. ``notes``: what a person should know of how
    they are read. ``doubts``: warnings of rows that may not be what the file means, by the label's column and the
    classes in it, as they are written there.
    """

    name: str
    folder: Path | Links | None
    head: Any
    read: Callable[[Sequence[str]], Read]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    images: Callable[[str, NDArray[np.intp], Path | Links], ParquetSamples] | None = None
    count: int | None = None
    ignored: tuple[Ignored, ...] = ()
    notes: tuple[Inference, ...] = ()
    doubts: Callable[[str, Collection[str]], tuple[str, ...]] | None = None

    def rows(self) -> int:
        """Number of rows; read from the file unless its header says it."""
        if self.count is not None:
            return self.count
        return len(self.read(self.head.column_names[:1]).table)


@dataclass(frozen=True)
class TableFormat:
    """A kind of table file: the extensions it is known by, and how it is opened."""

    suffixes: tuple[str, ...]
    open: Callable[[Path], Table]


def open_table(path: Path) -> Table:
    """The opened table file. Raises DataError when its extension is unknown, it is empty or damaged."""
    suffix = suffix_of(path.name)
    for known in FORMATS:
        if suffix in known.suffixes:
            with readable(path):
                if not path.stat().st_size:
                    raise DataError(f"{path} has no rows: the file is empty.")
                table = known.open(path)
            if not table.head.num_columns or not len(table.head):
                raise DataError(f"{path} has no rows.")
            return table
    raise no_table(path)


def no_table(place: object) -> DataError:
    """The error for a file, named by its path or URL, that is no table."""
    endings = ", ".join(TABLE_SUFFIXES)
    return DataError(f"{place} is neither a folder nor a table: its name must end in one of {endings}.")


def is_bytes_type(kind: Any) -> bool:
    """Whether an Arrow type holds file contents: binary, or the ``{bytes, path}`` of hub data sets."""
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(position).name for position in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def hub_class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Names of the integers of label columns, as hub data sets note them in the schema."""
    try:
        features = parse_json((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: tuple(feature["names"])
            for column, feature in features.items()
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and all(isinstance(name, str) for name in feature["names"])
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


@contextmanager
def readable(place: object) -> Iterator[None]:
    """Raise DataError, which names the file by its path or URL, for what Arrow and the system say of a damaged one."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{place} cannot be read: {_told(error)}.") from None


def _told(error: Exception) -> str:
    """Why a file cannot be read, and what to do."""
    text = first_line(error).partition(". ")[0].rstrip(".")
    if isinstance(error, UnicodeDecodeError) or "UTF8" in text or "UTF-8" in text:
        return f"{text}. Save it as UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}. Check that the file is there and may be read"
    return f"it is damaged, or of another kind than its name says ({text}). Write it again"


def _open_csv(path: Path) -> Table:
    from pyarrow import csv

    _check_utf8(path)
    delimiter = _delimiter(path)
    quotes = look_at_quotes(path, delimiter)

    def batches(columns: Sequence[str] | None, lost: dict[int, str]) -> Any:
        def skip(row: Any) -> str:
            # The reader counts the header as a row.
            lost[row.number - 1] = f"{row.actual_columns} cells where {row.expected_columns} are expected"
            return "skip"

        # All columns are read as text: "01" stays "01", and no label changes its spelling by its neighbours.
        types = None if columns is None else dict.fromkeys(columns, pa.large_string())
        return csv.open_csv(
            path,
            # Several threads would not know the number of a row that is skipped, and are no faster here.
            read_options=csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
            parse_options=csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quotes.enclose else False,
                newlines_in_values=True,
                # In a table of one column an empty line is a row with an empty cell.
                ignore_empty_lines=columns is None or not lone,
                invalid_row_handler=skip,
            ),
            convert_options=csv.ConvertOptions(column_types=types, include_columns=columns),
        )

    def read(columns: Sequence[str]) -> Read:
        lost: dict[int, str] = {}
        with readable(path), batches(columns, lost) as reader:
            table = pa.Table.from_batches(list(reader), schema=reader.schema)
        numbers = np.arange(1, len(table) + len(lost) + 1)
        return Read(table, np.delete(numbers, np.array(list(lost), dtype=np.int64) - 1), lost)

    with batches(None, {}) as reader:
        names = reader.schema.names
    refuse_repeated(names, path)
    # Empty lines above the header are none of its rows.
    lone = len(names) == 1 and bool(_first_line(path).strip())
    with batches(names, {}) as reader:
        first = next(iter(reader), None)
        batches_read = [] if first is None else [first]
        head = pa.Table.from_batches(batches_read, schema=reader.schema).slice(0, HEAD_ROWS)

    def doubts(label: str, known: Collection[str]) -> tuple[str, ...]:
        with readable(path):
            return swallowed_rows(path, delimiter, columns=len(names), place=names.index(label), known=known)

    return Table(
        name=path.name,
        folder=path.parent,
        head=head,
        read=read,
        notes=quotes.notes,
        doubts=doubts if quotes.inner_lines else None,
    )


def refuse_repeated(names: Sequence[str], place: object) -> None:
    """Raise DataError for a file with two columns of one name."""
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise DataError(f"{place} has more than one column called {repeated[0]!r}: rename one of them.")


def _check_utf8(path: Path) -> None:
    """Raise DataError that names the first line that is not UTF-8."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as file:
        for start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            if file.peek(2).startswith(start):
                raise DataError(f"{path} cannot be read: it is UTF-16. Save it as UTF-8.")
        while True:
            block = file.read(CSV_BLOCK_BYTES)
            try:
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise DataError(
                    f"{path} cannot be read: line {line:,} is not UTF-8. Save it as UTF-8."
                ) from None
            if not block:
                return


def _delimiter(path: Path) -> str:
    if suffix_of(path.name) == ".tsv":
        return "\t"
    header = _first_line(path)
    # Spreadsheets of many countries write semicolons.
    return max(",;\t", key=lambda mark: (header.count(mark), mark == ","))


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline()


def _open_jsonl(path: Path) -> Table:
    def read(columns: Sequence[str]) -> Read:
        schema = pa.schema([(name, pa.large_string()) for name in columns])
        batches, lines = [], []
        lost: dict[int, str] = {}
        values: list[dict[str, str | None]] = []
        with readable(path):
            for line, record in _json_records(path):
                if record is None:
                    lost[line] = "not a JSON object"
                    continue
                lines.append(line)
                values.append({name: _json_cell(record.get(name)) for name in columns})
                if len(values) == JSON_BATCH_ROWS:
                    batches.append(pa.RecordBatch.from_pylist(values, schema=schema))
                    values = []
        batches.append(pa.RecordBatch.from_pylist(values, schema=schema))
        return Read(pa.Table.from_batches(batches, schema=schema), np.array(lines, dtype=np.int64), lost)

    first: list[dict[str, object]] = []
    for _, record in _json_records(path):
        if record is not None:
            first.append(record)
        if len(first) == HEAD_ROWS:
            break
    if not first:
        _check_utf8(path)
        raise DataError(
            f"{path} has no rows: none of its lines is a JSON object. Write each row as one, in a line."
        )
    # A lone surrogate has no UTF-8 form: no such name can be asked for, and Arrow holds none.
    names = list(dict.fromkeys(name for record in first for name in record if has_utf8(name)))
    head = pa.table(
        {
            name: pa.array([_json_cell(record.get(name)) for record in first], type=pa.large_string())
            for name in names
        }
    )
    return Table(name=path.name, folder=path.parent, head=head, read=read)


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, object] | None]]:
    """Number and record of each line that is not empty; None for what is no JSON object."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = parse_json(line.decode("utf-8-sig"))
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


def _json_cell(value: object) -> str | None:
    """The value as a cell of text, spelled as in the other formats: true, 1, 0.5."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", errors="replace").decode("utf-8")
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _open_parquet(path: Path) -> Table:
    # Here, since that module builds on the records above.
    from unfreeze.data.parquet import open_parquet

    return open_parquet((path,), name=path.name, folder=path.parent)


FORMATS = (
    TableFormat((".csv", ".tsv"), _open_csv),
    TableFormat((".jsonl", ".ndjson"), _open_jsonl),
    TableFormat((".parquet",), _open_parquet),
)
TABLE_SUFFIXES = tuple(suffix for known in FORMATS for suffix in known.suffixes)
