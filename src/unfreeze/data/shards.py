"""A table in several Parquet files: a folder that holds nothing else, or a pattern of names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from glob import glob, iglob
from pathlib import Path

from unfreeze.data.groups import Place
from unfreeze.data.links import Links
from unfreeze.data.parquet import open_parquet
from unfreeze.data.rows import PART_NAMES, Columns, Rows, suffix_of
from unfreeze.data.table import table_rows
from unfreeze.data.tables import Table
from unfreeze.data.walking import JUNK, refuse_links_out
from unfreeze.errors import DataError
from unfreeze.regular import names_folder

SUFFIX = ".parquet"
MARKS = "*?["
# train, train-00000-of-00002, test_3: what the writers of shards call the files of a part.
PART_OF_STEM = re.compile(r"([a-z]+)(?:[-_.]?\d.*)?")


def is_shards(folder: Path) -> bool:
    """Whether a folder holds Parquet files, at any depth, and no other data.

    The walk ends at the first other file, so that a folder of pictures is known by one of them.
    """
    found = False
    try:
        for file in _files(folder):
            if suffix_of(file) != SUFFIX:
                return False
            found = True
    except OSError:  # the reader of folders says what cannot be read
        return False
    return found


def is_shard_pattern(source: object) -> bool:
    """Whether a source is a pattern of names of Parquet files."""
    return (
        isinstance(source, str | Path)
        and suffix_of(str(source)) == SUFFIX
        and any(m in str(source) for m in MARKS)
    )


def fits_a_file(pattern: str) -> bool:
    """Whether a pattern of names fits any file or folder."""
    return next(iglob(pattern, recursive=True), None) is not None  # noqa: PTH207 - Path.glob takes no absolute patterns


def read_shards(source: str | Path, columns: Columns) -> Rows:
    """The rows of a folder or a pattern of Parquet files. Raises RequestError or DataError when it is no data set."""
    return table_rows(open_shards(source), columns, source=str(source))


def open_shards(source: str | Path, *, links: Links | None = None) -> Table:
    """The opened table of a folder or a pattern, its files in the order of their names.

    ``links``: where the files that its cells name lie; by default in the folder. Where folders or names say train, val
    or test, all of them must: the column ``split`` says it of each row then.
    """
    root = Path(source)
    if names_folder(root):
        names = sorted(_files(root))
        refuse_links_out(root, names)
    else:
        root = Path(re.split(r"[^/\\]*[*?\[]", str(source), maxsplit=1)[0] or ".")
        found = (Path(name) for name in glob(str(source), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
        names = sorted(path.relative_to(root).as_posix() for path in found if path.is_file())
    if not names:
        raise DataError(f"{source} fits no file. Quote the pattern, and check its folder.")
    places = {name: root / name for name in names}
    return join_shards(str(source), places, name=root.resolve().name, folder=links or root)


def join_shards(source: str, places: Mapping[str, Place], *, name: str, folder: Path | Links) -> Table:
    """The opened table of shards, known by their names below ``source``, in this order."""
    names = list(places)
    parts = [_part_of(name) for name in names]
    if any(parts) and not all(parts):
        raise DataError(
            f"{source}: {names[parts.index(None)]} names no part, but others do: put all files into train, val and "
            "test folders, or none."
        )
    table = open_parquet(
        list(places.values()),
        name=name,
        folder=folder,
        parts=[part for part in parts if part] or None,
    )
    if not len(table.head):
        raise DataError(f"{source} has no rows.")
    return table


def shards_among(names: Iterable[str]) -> list[str]:
    """The shards among the names below a folder, in their order; none where it holds any other data."""
    kept = sorted(name for name in names if not any(map(_is_beside, name.split("/"))))
    return kept if all(suffix_of(name) == SUFFIX for name in kept) else []


def _is_beside(name: str) -> bool:
    """Whether a file or folder is hidden, or what a writer of shards or an operating system notes beside them."""
    return name.startswith((".", "_")) or name.lower() in JUNK


def _files(folder: Path) -> Iterator[str]:
    """Names of the files below a folder, without hidden ones and what a writer of shards notes beside them."""
    # A list and no recursion: folders may lie deeper in each other than Python calls may.
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as scan:
            entries = [entry for entry in scan if not _is_beside(entry.name)]
        # Files first: one of another kind ends the question what the folder holds.
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{below}{entry.name}/")
            else:
                yield f"{below}{entry.name}"


def _part_of(name: str) -> str | None:
    """The part that a file belongs to by the first folder that names one, else by its own name."""
    *folders, file = name.lower().split("/")
    for folder in folders:
        if folder in PART_NAMES:
            return PART_NAMES[folder]
    stem = PART_OF_STEM.fullmatch(file.removesuffix(SUFFIX))
    return PART_NAMES.get(stem[1]) if stem else None
