"""Inputs to predict on: raw, without labels, from a command line or from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unfreeze.data.columns import content_column, is_blank, text_of
from unfreeze.data.dataset import UNLABELLED, Dataset, Modality, Samples
from unfreeze.data.links import Links
from unfreeze.data.remote import open_listed, visible
from unfreeze.data.rows import (
    IMAGE_SUFFIXES,
    NOT_UTF8,
    TEXT_SUFFIXES,
    IgnoredLog,
    escaped,
    has_utf8,
    no_input,
    suffix_of,
    unread_inputs,
)
from unfreeze.data.samples import (
    EMPTY_CELL,
    ColumnSamples,
    FileSamples,
    ListSamples,
    join_samples,
    strings,
    with_lost,
)
from unfreeze.data.shards import SUFFIX, is_shard_pattern, is_shards, open_shards
from unfreeze.data.table import with_links
from unfreeze.data.tables import TABLE_SUFFIXES, Table, is_bytes_type, open_table
from unfreeze.data.walking import Walker, unreadable
from unfreeze.errors import DataError, RequestError
from unfreeze.regular import names_anything, names_file, names_folder
from unfreeze.runtime.labels import Labels
from unfreeze.runtime.pictures import picture_problem
from unfreeze.runtime.remote import fetch_file, is_pattern, is_remote, list_files, name_of, scrubbed

STANDARD_INPUT = "-"
EMPTY_LINE = "the line is empty"


def unlabelled(samples: Samples, *, modality: Modality, labels: Labels) -> Dataset:
    """The samples as a data set whose rows have no label and count as test."""
    return Dataset(
        source="inputs",
        modality=modality,
        labels=labels,
        samples=samples,
        label=np.full(len(samples), UNLABELLED, dtype=np.int32),
        part=np.full(len(samples), 2, dtype=np.int8),
    )


def open_items(inputs: Any, *, modality: Modality, blank: bool = False) -> Samples:
    """Inputs given in Python: one, or a sequence of, paths, PIL images or arrays (image), strings (text).

    ``blank``: texts of nothing but white space are read as well, which are rows with an error otherwise. Raises
    DataError for an empty sequence or an input of the wrong kind.
    """
    single = isinstance(inputs, str | Path | np.ndarray) or hasattr(inputs, "convert")
    items = [inputs] if single else list(inputs)
    if not items:
        raise DataError("There are no inputs to predict on.")
    if modality == "text":
        wrong = next((item for item in items if not isinstance(item, str)), None)
        if wrong is not None:
            raise DataError(
                f"This model reads texts, and an input is a {type(wrong).__name__}: give strings."
            )
        return ListSamples(tuple(items), np.arange(len(items)), blank)
    if all(isinstance(item, str | Path) for item in items):
        return files_of([str(item) for item in items])
    for position, item in enumerate(items):
        if problem := picture_problem(item, position):
            raise DataError(problem)
    return ListSamples(tuple(items), np.arange(len(items)))


def open_inputs(
    inputs: Sequence[str],
    *,
    modality: Modality,
    lines: Sequence[str] | None,
    column: str | None,
    tell: Callable[[str], None] | None = None,
) -> Samples:
    """Inputs named on a command line: files, folders, globs, tables, and ``-`` for ``lines``.

    Lines are texts for a text model, paths of files for an image model. A named file that does not exist becomes a
    row with an error later when there are others, and so do empty lines and rows of a table that cannot be read, so
    that the others keep their places; a name that gives nothing at all raises RequestError. ``tell`` is given a
    sentence on files in folders that are left out.
    """
    refused: set[str] = set()
    log = IgnoredLog()
    found = [
        _named(name, modality=modality, lines=lines, column=column, refused=refused, log=log)
        for name in inputs
    ]
    files = [name for entry in found if isinstance(entry, list) for name in entry]
    if named := [name for name in files if name.strip()]:
        check_kind(named, modality)
    opened = [
        files_of(entry, modality, refused=frozenset(refused)) if isinstance(entry, list) else entry
        for entry in _neighbours(found)
    ]
    sources = [source for source in opened if len(source)]
    left_out = unread_inputs(log.entries(), modality)
    if not sources:
        told = " ".join(("", *left_out)) if left_out else _piped(modality)
        raise RequestError(f"{', '.join(inputs)}: no {modality} inputs were found there.{told}")
    tables = (
        not isinstance(entry, list)
        for name, entry in zip(inputs, found, strict=True)
        if name != STANDARD_INPUT
    )
    check_column(column, tables=any(tables))
    if tell is not None:
        for sentence in left_out:
            tell(sentence)
    return sources[0] if len(sources) == 1 else join_samples(tuple(sources), ("",) * len(sources))


def _named(
    name: str,
    *,
    modality: Modality,
    lines: Sequence[str] | None,
    column: str | None,
    refused: set[str],
    log: IgnoredLog,
) -> Samples | list[str]:
    """What one name of a command line stands for: samples, or paths of files, with those that are not read added."""
    if name == STANDARD_INPUT:
        return _lines(lines or (), modality)
    if is_remote(name):
        return _remote(name, modality=modality, column=column, log=log)
    if not has_utf8(name):
        return [name]
    path = Path(name)
    if path.suffix.lower() in TABLE_SUFFIXES and names_file(path):
        return _table(open_table(path), source=name, modality=modality, column=column)
    if names_folder(path):
        if is_shards(path):
            return _table(open_shards(path), source=name, modality=modality, column=column)
        return walk(path, modality, refused, log)
    if is_shard_pattern(name) and not names_anything(path):
        return _table(open_shards(name), source=name, modality=modality, column=column)
    if any(mark in name for mark in "*?[") and not names_anything(path):
        return match_files(name)
    return [name]


def _lines(lines: Sequence[str], modality: Modality) -> Samples | list[str]:
    """What lines stand for: texts or paths of files. An empty one keeps its place, unless all of them are."""
    full = [row for row, line in enumerate(lines) if line.strip()]
    if not full:
        return []
    if modality == "image":
        return list(lines)
    empty = sorted(set(range(len(lines))) - set(full))
    lost = {row: (f"item {row + 1}", EMPTY_LINE) for row in empty}
    return with_lost(ListSamples(tuple(lines), np.array(full, dtype=np.intp)), lost)


def _remote(url: str, *, modality: Modality, column: str | None, log: IgnoredLog) -> Samples | list[str]:
    """What a URL stands for: the rows of a table, or URLs of files, which are fetched when they are read."""
    suffix = suffix_of(name_of(url))
    wanted = IMAGE_SUFFIXES if modality == "image" else TEXT_SUFFIXES
    if suffix in wanted and not is_pattern(url):
        return [url]
    listing = list_files(url)
    if suffix == SUFFIX or not is_pattern(url):
        listing = visible(listing)
    if (table := open_listed(listing)) is not None:
        return _table(table, source=scrubbed(url), modality=modality, column=column)
    if listing.is_file:
        return [url]
    return [file for name, file in listing.addresses().items() if is_wanted(name, wanted, log)]


def _neighbours(found: Sequence[Samples | list[str]]) -> list[Samples | list[str]]:
    """The same, with lists of files that follow each other made one: thousands of files are one source."""
    merged: list[Samples | list[str]] = []
    for entry in found:
        last = merged[-1] if merged else None
        if isinstance(entry, list) and isinstance(last, list):
            last.extend(entry)
        else:
            merged.append(list(entry) if isinstance(entry, list) else entry)
    return merged


def files_of(
    paths: Sequence[str],
    modality: Modality = "image",
    *,
    refused: frozenset[str] = frozenset(),
    kept: bool = True,
) -> Samples:
    """The files as samples, named by their paths; those in ``refused`` are rows that cannot be read.

    ``kept``: whether what lies behind a URL stays on this disk once it was read.
    """
    lost = {row: why for row, path in enumerate(paths) if (why := _nameless(path))}
    named = [path for row, path in enumerate(paths) if row not in lost]
    root = Links(kept=kept) if any(map(is_remote, named)) else Path()
    return with_lost(
        FileSamples(root, strings(named), modality, np.arange(len(named)), refused=refused), lost
    )


def _nameless(path: str) -> tuple[str, str] | None:
    """How a path is shown that names no file, and why; None for any other."""
    if not path.strip():
        return path, EMPTY_LINE
    return None if has_utf8(path) else (escaped(path), NOT_UTF8)


def check_kind(files: list[str], modality: Modality) -> None:
    """Refuse a request that is wholly of the other kind; single wrong files become rows with an error."""
    images = [Path(name).suffix.lower() in IMAGE_SUFFIXES for name in files]
    if modality == "text" and any(images):
        raise RequestError(
            f"This run reads texts, and {files[images.index(True)]} is an image. "
            "Give .txt files, tables, or - for lines."
        )
    if modality == "image" and not any(images) and all(Path(name).suffix.lower() == ".txt" for name in files):
        raise RequestError(
            f"This run reads images, and {files[0]} is a text file. Give image files or folders."
        )
    if len(files) == 1 and is_remote(files[0]):
        # Alone, a file that cannot be had is an error of the request.
        fetch_file(files[0])
    elif len(files) == 1 and not names_anything(files[0]):
        raise RequestError(
            f"{files[0]} does not exist. Give files, folders, globs, tables, or - for lines.{_piped(modality)}"
        )


def check_column(column: str | None, *, tables: bool) -> None:
    """Raise RequestError for the name of a column where no table is among the inputs: nothing would be read of it."""
    if column is not None and not tables:
        raise RequestError(
            f"--column {column!r}: there is no table among the inputs. Give one, or leave it out."
        )


def _piped(modality: Modality) -> str:
    """What to do with a text that was given where its place is meant."""
    return " A text itself is piped in, with - as its name." if modality == "text" else ""


def walk(folder: Path, modality: Modality, refused: set[str], log: IgnoredLog) -> list[str]:
    """The paths of all files of that kind below the folder, sorted; ``log`` is told of the others and of hidden ones.

    A link that leads out of the folder stands among them as one file, and is added to ``refused``; so is what has a
    name that is not UTF-8. Raises DataError when a folder cannot be read.
    """
    wanted = IMAGE_SUFFIXES if modality == "image" else TEXT_SUFFIXES
    walker = Walker(folder, log)
    try:
        found = [str(folder / name) for _, name in walker.files([""]) if is_wanted(name, wanted, log)]
    except OSError as error:
        raise unreadable(error) from None
    # Who knows what lies in the folder that one leads to? It is told, lest its files be missed.
    out = [folder / name for name in (*walker.leading_out, *walker.unnamed)]
    kept = [str(path) for path in out if suffix_of(path.name) in wanted or path.is_dir()]
    refused.update(kept)
    return sorted(found + kept)


def is_wanted(name: str, suffixes: frozenset[str], log: IgnoredLog) -> bool:
    """Whether a file has one of these endings; ``log`` is told of one that has not."""
    suffix = suffix_of(name)
    if suffix not in suffixes:
        log.add(name, no_input(suffix))
    return suffix in suffixes


def match_files(pattern: str) -> list[str]:
    """The paths of the files that a pattern like ``new/*.jpg`` names, sorted."""
    from glob import glob

    return sorted(name for name in glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207 - Path.glob takes no absolute patterns


def _table(table: Table, *, source: str, modality: Modality, column: str | None) -> Samples:
    name = content_column(table, modality=modality, asked=column)
    kind = table.head.schema.field(name).type
    if modality == "text" and is_bytes_type(kind):
        raise RequestError(f"{source}: the column {name!r} holds bytes, and this run reads texts.")
    if is_bytes_type(kind) and table.images is not None:
        return table.images(name, np.arange(table.rows()), table.folder or Path())
    read = table.read([name])
    values = read.table.column(name)
    if not is_bytes_type(kind):
        values = text_of(values, what=f"{source}: the column {name!r}")
    reasons, lines = dict(read.lost), read.lines
    samples: Samples
    if modality == "image" and not is_bytes_type(kind):
        empty = np.asarray(is_blank(values))
        reasons |= dict.fromkeys(lines[empty].tolist(), EMPTY_CELL)
        values, lines = values.filter(pa.array(~empty)), lines[~empty]
        samples = FileSamples(with_links(table.folder, values), values, "image", np.arange(len(values)))
    else:
        samples = ColumnSamples(table.name, values, lines, np.arange(len(values)), table.folder)
    numbers = np.array(sorted(reasons), dtype=np.int64)
    places = np.searchsorted(lines, numbers) + np.arange(len(numbers))
    return with_lost(
        samples,
        {
            place: (f"{table.name}:{number}", reasons[number])
            for place, number in zip(places.tolist(), numbers.tolist(), strict=True)
        },
    )
