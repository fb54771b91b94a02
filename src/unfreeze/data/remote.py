"""Data sets behind a URL: fetched to this disk, then read as any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from unfreeze.data.folder import read_folder
from unfreeze.data.links import Links
from unfreeze.data.rows import Columns, Rows, suffix_of
from unfreeze.data.shards import SUFFIX, is_shards, open_shards
from unfreeze.data.table import table_rows
from unfreeze.data.tables import Table, open_table
from unfreeze.data.walking import JUNK
from unfreeze.errors import DataError, RequestError
from unfreeze.runtime.remote import Listing, fetch, is_pattern, list_files, scrubbed


def read_remote(url: str, columns: Columns) -> Rows:
    """The rows of a table, of shards, or of a folder of class folders behind a URL.

    Raises RequestError or DataError when it cannot be had or is no data set.
    """
    listing = visible(list_files(url))
    local = fetch(listing)
    with in_its_name(url, local):
        if listing.is_file or is_shards(local):
            return table_rows(open_remote(listing, local), columns, source=scrubbed(url))
        return replace(read_folder(local, columns), source=scrubbed(url))


def open_remote(listing: Listing, local: Path) -> Table:
    """The opened table of a listing and its local copy; files that its cells name are looked for behind the URL."""
    if listing.is_file:
        return replace(open_table(local), folder=Links(base=scrubbed(listing.base)))
    return open_shards(local, links=Links(base=scrubbed(listing.base)))


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
def in_its_name(url: str, local: Path) -> Iterator[None]:
    """Errors about the local copy as errors about the URL, which is what a person knows."""
    try:
        yield
    except RequestError as problem:
        raise type(problem)(str(problem).replace(str(local), scrubbed(url))) from None
