"""The rows of an opened table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unfreeze.data.columns import (
    ChosenColumns,
    choose_columns,
    is_blank,
    is_string,
    label_strings,
    text_of,
    value_strings,
)
from unfreeze.data.dataset import PARTS, Samples
from unfreeze.data.links import Links
from unfreeze.data.rows import NOT_GIVEN, PART_NAMES, Columns, IgnoredLog, Rows, has_utf8
from unfreeze.data.samples import ColumnSamples, FileSamples
from unfreeze.data.tables import Read, Table, is_bytes_type, open_table
from unfreeze.errors import DataError, RequestError
from unfreeze.runtime.remote import SECRETS

# How an absolute path begins, on any system.
ABSOLUTE = r"^([A-Za-z]:)?[/\\]"


def read_table_file(path: Path, columns: Columns) -> Rows:
    """The rows of a table file. Raises RequestError or DataError when it is no data set."""
    return table_rows(open_table(path), columns, source=str(path))


def table_rows(table: Table, asked: Columns, *, source: str) -> Rows:
    """The rows of an opened table that have a label and content; the others are listed as ignored."""
    chosen = choose_columns(table, asked)
    content_type = table.head.schema.field(chosen.content).type
    lazy = is_bytes_type(content_type) and table.images is not None
    if chosen.modality == "text" and is_bytes_type(content_type):
        raise RequestError(
            f"{table.name}: the text column {chosen.content!r} holds bytes. Name an image column instead."
        )
    log = IgnoredLog()
    wanted = [chosen.label, chosen.split, chosen.group, chosen.stratify, None if lazy else chosen.content]
    read = table.read(list(dict.fromkeys(name for name in wanted if name is not None)))
    for number, reason in read.lost.items():
        log.add(f"{table.name}:{number}", reason)
    what = f"{table.name}: the label column {chosen.label!r}"
    labels = label_strings(read.table.column(chosen.label), table.class_names.get(chosen.label), what=what)
    named = f"{table.name}: the {chosen.modality} column {chosen.content!r}"
    content = None if lazy else _content(read.table.column(chosen.content), what=named)
    group, stratum = (_values(table, read, name) for name in (chosen.group, chosen.stratify))
    keep = _complete(table, chosen, read, labels, content, None if asked.ungrouped else group, log)
    codes = _encoded(labels.filter(pa.array(keep)))
    names = tuple(codes.dictionary.to_pylist()) if len(codes) else ()
    _check_identifier(table, chosen, len(names), len(codes))
    kept = np.flatnonzero(keep)
    samples, identity = _samples(table, chosen, read, content, kept)
    group_codes, groups = (None, None) if group is None else _ranked(group, kept)
    return Rows(
        source=source,
        modality=chosen.modality,
        samples=samples,
        names=names,
        code=np.asarray(codes.indices, dtype=np.int32),
        part=_parts(table, chosen, read, kept),
        identity=identity,
        group=group_codes,
        groups=groups,
        stratum=None if stratum is None else _ranked(pc.fill_null(stratum, ""), kept)[0],
        ignored=(*table.ignored, *log.entries()),
        inferred=(*chosen.inferred, *table.notes),
        warnings=_doubts(table, chosen.label, read),
    )


def _doubts(table: Table, label: str, read: Read) -> tuple[str, ...]:
    if table.doubts is None:
        return ()
    written = pc.unique(pc.utf8_trim_whitespace(text_of(read.table.column(label), what=label)))
    return table.doubts(label, {name for name in written.to_pylist() if name})


def _content(column: Any, *, what: str) -> Any:
    """Texts and paths as large strings; bytes as they are."""
    return column if is_bytes_type(column.type) else text_of(column, what=what)


def _complete(
    table: Table, chosen: ChosenColumns, read: Read, labels: Any, content: Any, group: Any, log: IgnoredLog
) -> NDArray[np.bool_]:
    """Which rows have everything; the others go to the log."""
    has_label = np.asarray(labels.is_valid())
    full = np.ones(len(labels), dtype=bool)
    if content is not None and is_string(content.type):
        full = ~np.asarray(is_blank(content))
    checks = {"no label": ~has_label, f"empty {chosen.content!r}": has_label & ~full}
    if group is not None:
        group_missing = np.asarray(group.is_null())
        checks[f"no {chosen.group!r}"] = has_label & full & group_missing
        full &= ~group_missing
    for reason, missing in checks.items():
        rows = np.flatnonzero(missing)
        for done, row in enumerate(rows):
            if not log.wants(reason):
                log.add_many(reason, len(rows) - done)
                break
            log.add(f"{table.name}:{read.lines[row]}", reason)
    return np.asarray(has_label & full)


def _check_identifier(table: Table, chosen: ChosenColumns, classes: int, rows: int) -> None:
    if rows == 0:
        raise DataError(
            f"{table.name} has no row with both a label ({chosen.label!r}) and {chosen.content!r}"
            f"{'' if chosen.group is None else f', and a group ({chosen.group!r})'}."
        )
    if (rows > 2 and classes == rows) or (rows >= 20 and classes > rows / 2):
        raise DataError(
            f"{table.name}: the label column {chosen.label!r} has {classes:,} different values in {rows:,} "
            "rows, like an identifier. Name the column of the classes with --label-column."
        )


def _samples(
    table: Table, chosen: ChosenColumns, read: Read, content: Any, kept: NDArray[np.intp]
) -> tuple[Samples, Any]:
    everything = np.arange(len(kept), dtype=np.intp)
    samples: Samples
    if content is None:
        assert table.images is not None
        return table.images(chosen.content, kept, table.folder or Path()), _row_numbers(kept)
    if is_bytes_type(content.type):
        samples = ColumnSamples(table.name, content, read.lines, kept, table.folder)
        return samples, _row_numbers(kept)
    if len(kept) < len(content):
        content = content.take(pa.array(kept))
    lines = read.lines[kept]
    if chosen.modality == "text":
        return ColumnSamples(table.name, content, lines, everything), content
    # A name is shown without what may be secret in a URL: it may be that which tells two apart.
    shown = pc.replace_substring_regex(content, pattern=SECRETS.pattern, replacement=r"\1\2")
    unique = len(pc.unique(shown)) == len(content)
    root = with_links(table.folder, content)
    samples = FileSamples(root, content, "image", everything, None if unique else lines)
    return samples, _wherever(content, table.folder)


def with_links(folder: Path | Links | None, paths: Any) -> Path | Links:
    """Where the paths of a column lead: URLs may stand among them."""
    if isinstance(folder, Links) or not pc.any(pc.match_substring(paths, "://")).as_py():
        return folder or Path()
    return Links(folder or Path())


def _wherever(paths: Any, folder: Path | Links | None) -> Any:
    """The paths as a split knows them, wherever the data lie: those that move as a whole keep their split.

    A relative path is known as it is written, so that no other row changes it. An absolute one, or a URL, is known
    without the folder of the table, else without the folder that all such paths have in common.
    """
    if isinstance(folder, Links):
        homes = {folder.base or ""}
    else:
        homes = {os.path.realpath(folder or Path()), str((folder or Path()).absolute())}
    for home in filter(has_utf8, homes):
        below = pc.starts_with(paths, f"{home}/")
        paths = pc.if_else(below, pc.utf8_slice_codeunits(paths, start=len(home) + 1), paths)
    for elsewhere in (ABSOLUTE, "://"):
        there = pc.match_substring_regex(paths, elsewhere)
        ends = pc.min_max(paths.filter(there)).as_py()
        # Character by character is meant: it is cut back to the last slash below.
        shared = os.path.commonprefix([ends["min"] or "", ends["max"] or ""])  # noqa: RUF071
        paths = pc.if_else(there, pc.utf8_slice_codeunits(paths, start=shared.rfind("/") + 1), paths)
    return paths


def _row_numbers(kept: NDArray[np.intp]) -> Any:
    return pa.array(kept).cast(pa.large_string())


def _parts(table: Table, chosen: ChosenColumns, read: Read, kept: NDArray[np.intp]) -> NDArray[np.int8]:
    if chosen.split is None:
        return np.full(len(kept), NOT_GIVEN, dtype=np.int8)
    what = f"{table.name}: the split column {chosen.split!r}"
    column = text_of(read.table.column(chosen.split), what=what).take(pa.array(kept))
    values = pc.fill_null(pc.utf8_lower(pc.utf8_trim_whitespace(column)), "")
    encoded = _encoded(values)
    numbers = []
    for value in encoded.dictionary.to_pylist():
        if value not in PART_NAMES:
            raise DataError(
                f"{table.name}: the split column {chosen.split!r} holds {value!r}, which names no part: "
                f"use train, val or test."
            )
        numbers.append(PARTS.index(PART_NAMES[value]))
    return np.asarray(np.array(numbers, dtype=np.int8)[np.asarray(encoded.indices)])


def _values(table: Table, read: Read, name: str | None) -> Any:
    """The values of a column that rows are grouped or spread by, as strings; None where none is named."""
    if name is None:
        return None
    return value_strings(read.table.column(name), what=f"{table.name}: the column {name!r}")


def _ranked(values: Any, kept: NDArray[np.intp]) -> tuple[NDArray[np.int32], Any]:
    """Codes of the strings of these rows, int32 (rows,), -1 for none, and the string of each code, sorted."""
    encoded = _encoded(values.take(pa.array(kept)))
    order = pc.sort_indices(encoded.dictionary)
    # The last one is that of no value, which has the index -1.
    rank = np.full(len(order) + 1, -1, dtype=np.int32)
    rank[np.asarray(order)] = np.arange(len(order))
    return rank[np.asarray(pc.fill_null(encoded.indices, -1))], encoded.dictionary.take(order)


def _encoded(values: Any) -> Any:
    """A column of strings as one dictionary-encoded array."""
    encoded = values.combine_chunks().dictionary_encode()
    return encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
