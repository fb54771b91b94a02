"""Parquet as an opened table: one file, or the shards of one table in the order of their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unfreeze.data.groups import Place, RowGroups, open_parquet_file
from unfreeze.data.links import Links
from unfreeze.data.samples import ParquetSamples
from unfreeze.data.tables import (
    HEAD_ROWS,
    Read,
    Table,
    hub_class_names,
    is_bytes_type,
    readable,
    refuse_repeated,
)
from unfreeze.errors import DataError
from unfreeze.runtime.parts import PartFile
from unfreeze.runtime.remote import AT_ONCE

SPLIT = "split"


@dataclass(frozen=True)
class _Shard:
    """What the footer of a file says; the file itself is opened again when it is read.

    ``footer``: that of an object, which would have to be fetched again; None for a file.
    """

    place: Place
    schema: Any
    rows: int
    footer: Any

    @property
    def types(self) -> dict[str, Any]:
        return {field.name: _plain_type(field.type) for field in self.schema}


def open_parquet(
    places: Sequence[Place], *, name: str, folder: Path | Links, parts: Sequence[str] | None = None
) -> Table:
    """The files or objects as one table, its rows counted through all of them.

    ``parts``: what the column ``split`` says of each file's rows. Raises DataError for a damaged file, and for one
    whose columns differ from those of the first.
    """
    shards = _of_each(_footer, places)
    first = shards[0]
    for shard in shards[1:]:
        _check_agreement(first, shard)
    counts, footers = [shard.rows for shard in shards], [shard.footer for shard in shards]
    names = [column for column in first.schema.names if parts is None or column != SPLIT]
    split = (
        None
        if parts is None
        else pa.chunked_array([pa.array(np.repeat(np.array(parts, dtype=object), counts))])
    )

    def read(columns: Sequence[str]) -> Read:
        wanted = [column for column in columns if parts is None or column != SPLIT]
        # Without a column a table has no length.
        table = pa.concat_tables(_of_each(lambda shard: _columns(shard, wanted or names[:1]), shards))
        if split is not None and SPLIT in columns:
            table = table.append_column(SPLIT, split)
        return Read(table.select(list(columns)), np.arange(1, len(table) + 1))

    def images(column: str, rows: NDArray[np.intp], place: Path | Links) -> ParquetSamples:
        return ParquetSamples(name, place, rows, RowGroups(places, column, footers=footers))

    head = _head(shards, names)
    if split is not None:
        head = head.append_column(SPLIT, split.slice(0, len(head)))
    return Table(
        name=name,
        folder=folder,
        head=head,
        read=read,
        class_names=hub_class_names(first.schema.metadata),
        images=images,
        count=sum(counts),
    )


def _of_each(function: Callable[[Any], Any], shards: Iterable[Any]) -> list[Any]:
    """What the function gives for each shard, in their order; stores are asked for many at a time."""
    asked = list(shards)
    if not any(isinstance(getattr(shard, "place", shard), PartFile) for shard in asked):
        return [function(shard) for shard in asked]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="unfreeze-fetch") as pool:
        return list(pool.map(function, asked))


def _footer(place: Place) -> _Shard:
    with readable(place), open_parquet_file(place) as file:
        refuse_repeated(file.schema_arrow.names, place)
        footer = file.metadata if isinstance(place, PartFile) else None
        return _Shard(place, file.schema_arrow, file.metadata.num_rows, footer)


def _check_agreement(first: _Shard, other: _Shard) -> None:
    ours, theirs = first.types, other.types
    hint = "All files of a table need the same columns."
    for column in dict.fromkeys([*ours, *theirs]):
        if column not in theirs:
            raise DataError(f"{other.place} has no column {column!r}, but {first.place} has. {hint}")
        if column not in ours:
            raise DataError(f"{other.place} has a column {column!r}, but {first.place} has none. {hint}")
        if ours[column] != theirs[column]:
            raise DataError(
                f"{other.place}: the column {column!r} holds {theirs[column]}, but in {first.place} {ours[column]}. "
                f"{hint}"
            )
    if hub_class_names(first.schema.metadata) != hub_class_names(other.schema.metadata):
        raise DataError(f"{other.place} names the classes of its labels otherwise than {first.place}. {hint}")


def _head(shards: Sequence[_Shard], names: Sequence[str]) -> Any:
    """The first rows of the table; columns of bytes are null there."""
    schema = pa.schema([(name, shards[0].types[name]) for name in names])
    pieces, rows = [schema.empty_table()], 0
    for shard in shards:
        if rows < HEAD_ROWS and shard.rows:
            pieces.append(_head_of(shard, schema, most=HEAD_ROWS - rows))
            rows += len(pieces[-1])
    return pa.concat_tables(pieces).unify_dictionaries()


def _head_of(shard: _Shard, schema: Any, *, most: int) -> Any:
    light = [field.name for field in schema if not is_bytes_type(field.type)]
    rows = min(most, shard.rows)
    with readable(shard.place), open_parquet_file(shard.place, footer=shard.footer) as file:
        groups = _first_groups(file.metadata, rows)
        batch = (
            next(file.iter_batches(batch_size=rows, row_groups=groups, columns=light), None)
            if light
            else None
        )
        # The first batch may be short: it ends with its row group.
        rows = rows if batch is None else len(batch)
        columns = [
            _plain(pa.chunked_array([batch.column(field.name)]))
            if batch is not None and field.name in light
            else pa.chunked_array([pa.nulls(rows, type=field.type)])
            for field in schema
        ]
        head = pa.Table.from_arrays(columns, schema=schema)
        head.validate(full=True)
    return head


def _first_groups(footer: Any, rows: int) -> list[int]:
    """The first row groups, up to the one with the last of so many rows: those behind are not read."""
    ends = np.cumsum([footer.row_group(group).num_rows for group in range(footer.num_row_groups)])
    return list(range(min(int(np.searchsorted(ends, rows)) + 1, len(ends))))


def _columns(shard: _Shard, columns: Sequence[str]) -> Any:
    with readable(shard.place), open_parquet_file(shard.place, footer=shard.footer) as file:
        found = file.read(columns=list(columns))
        table = pa.table({name: _plain(found.column(name)) for name in columns})
        table.validate(full=True)
    if len(table) != shard.rows:
        raise DataError(f"{shard.place} is damaged: it holds {len(table):,} rows and says {shard.rows:,}.")
    return table


def _plain_type(kind: Any) -> Any:
    """The type in whose place Arrow can compute with all of them; most are their own."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.large_binary()
    return pa.float32() if pa.types.is_float16(kind) else kind


def _plain(column: Any) -> Any:
    kind = _plain_type(column.type)
    return column if kind == column.type else column.cast(kind)
