"""Data sets behind a URL: fetched to this disk, then read as any other, or Parquet files that are read in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from unfreeze.data.dataset import Inference
from unfreeze.data.folder import read_folder
from unfreeze.data.links import Links
from unfreeze.data.parquet import open_parquet
from unfreeze.data.rows import Columns, Rows, suffix_of
from unfreeze.data.shards import SUFFIX, join_shards, open_shards, shards_among
from unfreeze.data.table import table_rows
from unfreeze.data.tables import TABLE_SUFFIXES, Read, Table, no_table, open_table
from unfreeze.data.walking import JUNK
from unfreeze.errors import DataError, RequestError
from unfreeze.runtime.parts import in_parts
from unfreeze.runtime.remote import Listing, fetch, is_pattern, list_files, local_name, scrubbed


def read_remote(url: str, columns: Columns) -> Rows:
    """The rows of a table, of shards, or of a folder of class folders behind a URL.

    Raises RequestError or DataError when it cannot be had or is no data set.
    """
    listing = visible(list_files(url))
    if (table := open_listed(listing)) is not None:
        return table_rows(table, columns, source=scrubbed(url))
    if listing.is_file:
        raise no_table(scrubbed(url))
    local = fetch(listing)
    with in_its_name(listing, local):
        return replace(read_folder(local, columns), source=scrubbed(url))


def open_listed(listing: Listing) -> Table | None:
    """The opened table of a listing that is one or shards of one, fetched or read in parts; None for anything else.

    Files that its cells name are looked for behind the URL. Raises DataError when it cannot be had or is damaged.
    """
    is_table = (
        suffix_of(local_name(listing)) in TABLE_SUFFIXES if listing.is_file else shards_among(listing.files)
    )
    if not is_table:
        return None
    if (in_parts := _open_in_parts(listing)) is not None:
        return in_parts
    local, links = fetch(listing), Links(base=scrubbed(listing.base))
    with in_its_name(listing, local):
        table = (
            replace(open_table(local), folder=links) if listing.is_file else open_shards(local, links=links)
        )

    def read(columns: Sequence[str]) -> Read:
        with in_its_name(listing, local):
            return table.read(columns)

    return replace(table, read=read)


def _open_in_parts(listing: Listing) -> Table | None:
    """The opened table of Parquet files that may not lie on this disk as a whole; None for anything else.

    Rows have the names and the order that they have where the files are fetched.
    """
    names = shards_among(listing.files)
    found = in_parts(listing.only(names)) if names else None
    if found is None:
        return None
    places, why = found
    folder = Links(base=scrubbed(listing.base))
    if not listing.is_file:
        table = join_shards(scrubbed(listing.url), places, name=local_name(listing), folder=folder)
    else:
        table = open_parquet(list(places.values()), name=local_name(listing), folder=folder)
        if not len(table.head):
            raise DataError(f"{scrubbed(listing.url)} has no rows.")
    return replace(table, notes=(Inference("remote files", "read in parts", why),))


def visible(listing: Listing) -> Listing:
    """The listing without hidden files and those of operating systems, which are no data and not fetched.

    Raises DataError where a pattern fits other files than Parquet.
    """
    if listing.is_file:
        return listing
    names = [
        name
        for name in listing.files
        if not any(part.startswith(".") or part.lower() in JUNK for part in PurePosixPath(name).parts)
    ]
    if not names:
        raise DataError(f"{scrubbed(listing.url)} holds hidden files only.")
    if is_pattern(listing.url) and (
        other := next((name for name in names if suffix_of(name) != SUFFIX), None)
    ):
        raise DataError(
            f"{scrubbed(listing.url)} fits {other}, which is no Parquet file: end the pattern in {SUFFIX}."
        )
    return listing.only(names)


@contextmanager
def in_its_name(listing: Listing, local: Path) -> Iterator[None]:
    """Errors about the local copy as errors about the URL, which is what a person knows."""
    try:
        yield
    except RequestError as problem:
        told = str(problem)
        if not listing.is_file:
            # What a pattern fits lies below the folder before its first wildcard.
            told = told.replace(f"{local}/", f"{scrubbed(listing.base)}/")
        raise type(problem)(told.replace(str(local), scrubbed(listing.url))) from None
