"""Objects behind a URL that are read in parts, and the disk that these parts may take.

For data that have no place here as a whole. A pass over such data reads all of them in their order, and the next pass
does the same: a cache that drops what was used longest ago would hold nothing that comes next. So what was read first
stays until the budget is spent, what is beyond is read anew in each pass, and only parts that no running command has
used give way.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from unfreeze.config import bytes_of
from unfreeze.errors import DataError
from unfreeze.runtime.files import cache_root
from unfreeze.runtime.remote import (
    Entry,
    Listing,
    in_words,
    list_files,
    missing_bytes,
    protocol_of,
    scrubbed,
)

BUDGET = "UNFREEZE_REMOTE_BUDGET"
# The other half is left to what a training writes: decoded pictures, features, activations, the run. A choice, not
# a measurement.
SHARE_OF_FREE = 0.5
# Servers of plain HTTP need not give parts; what is in memory has one position for all who read it.
IN_PARTS = ("s3", "gs", "gcs", "az", "hf")
# How old a listing may be that says that an object is still the same. S3 itself refuses ranges of another one.
CHECK_SECONDS = 60.0
# Another process holds the lock only while it writes one part; a longer wait means that it hangs.
LOCK_SECONDS = 60.0


class Shelf:
    """Parts of objects on this disk, ``budget`` bytes at most, shared by all commands that use this cache."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._folder = _folder()
        self._began = time.time()

    def claim(self, keys: Iterable[str]) -> None:
        """Note that these will be used: they do not give way to others."""
        for key in keys:
            with suppress(OSError):
                os.utime(self._folder / key)

    def find(self, key: str) -> Path | None:
        """The file of a part, if it is here."""
        path = self._folder / key
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def drop(self, key: str) -> None:
        """Remove a part that turned out to be damaged."""
        with suppress(OSError):
            (self._folder / key).unlink()

    def keep(self, key: str, size: int, write: Callable[[Path], None]) -> None:
        """Keep a part of ``size`` bytes, which ``write`` puts into a file, if there is or can be made room for it.

        A disk that refuses it costs no more than this copy.
        """
        temporary = self._folder / f"{key}.{os.getpid()}{threading.get_ident()}.tmp"
        with suppress(OSError, filelock.Timeout):
            self._folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self._folder.with_name("parts.lock"), timeout=LOCK_SECONDS):
                if not self.make_room(size):
                    return
                try:
                    write(temporary)
                    temporary.replace(self._folder / key)
                finally:
                    temporary.unlink(missing_ok=True)

    def make_room(self, size: int) -> bool:
        """Whether so many bytes more fit into the budget, after what no running command has used gave way."""
        if size > self._budget:
            return False
        found = _held(self._folder)
        free = self._budget - sum(held.size for held in found)
        for held in sorted(found, key=lambda held: held.used):
            if free >= size or held.used >= self._began:
                break
            with suppress(OSError):
                held.path.unlink()
                free += held.size
        return free >= size


@dataclass(frozen=True)
class _Held:
    path: Path
    size: int
    used: float


class Watch:
    """A listing that is made again while its objects are read, to notice that one of them is another by now."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._lock = threading.Lock()
        self._now, self._checked = listing.files, time.monotonic()

    def check(self, name: str) -> None:
        """Raise DataError when the object of this name was changed or removed since it was listed."""
        with self._lock:
            if time.monotonic() - self._checked >= CHECK_SECONDS:
                self._now, self._checked = list_files(self._listing.url).files, time.monotonic()
        if self._now.get(name) != self._listing.files[name]:
            raise DataError(
                f"{scrubbed(self._listing.addresses()[name])} was changed since it was listed. Start again."
            )


@dataclass(frozen=True, eq=False)
class PartFile:
    """An object that is read in parts, for as long as it is the one that was listed.

    Its string is its URL without what may be secret.
    """

    url: str
    name: str
    store: Any
    entry: Entry
    watch: Watch
    shelf: Shelf

    def __str__(self) -> str:
        return scrubbed(self.url)

    def key(self, part: str) -> str:
        """What one of its parts is called on the shelf: another version of the object has other names."""
        told = [protocol_of(self.url), self.entry.path, self.entry.version, self.entry.size, part]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def open(self) -> Ranges:
        """The object, to read ranges of. Raises DataError when it cannot be had or has changed since."""
        self.watch.check(self.name)
        with in_words(str(self), "read"):
            return Ranges(str(self), self.store.open(self.entry.path, "rb", cache_type="none"))


class Ranges:
    """What pyarrow asks of a file. An error of the store is a sentence, and never a damaged row.

    Raises DataError.
    """

    closed = False

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file = url, file

    def read(self, size: int = -1) -> bytes:
        """So many bytes from here on."""
        with in_words(self._url, "read"):
            content: bytes = self._file.read(size)
            return content

    def seek(self, position: int, whence: int = 0) -> int:
        """Go to a position; ``whence`` as for any file."""
        found: int = self._file.seek(position, whence)
        return found

    def tell(self) -> int:
        """The position."""
        found: int = self._file.tell()
        return found

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Let the object go."""
        self._file.close()
        self.closed = True


def in_parts(listing: Listing, *, copies: int = 1) -> tuple[dict[str, PartFile], str] | None:
    """The objects as files to be read in parts, and why, where they may not lie on this disk as a whole.

    ``copies``: how many of them fetching makes.
    None where they may, after making room for them, and where they cannot be read otherwise. Raises RequestError for
    a budget that is no size.
    """
    missing = missing_bytes(listing)
    if missing is None or protocol_of(listing.url) not in IN_PARTS:
        return None
    missing *= copies
    budget, held, asked = _budget()
    shelf = Shelf(budget)
    if missing <= budget:
        if missing + held > budget:
            shelf.make_room(missing)
        return None
    source = f"${BUDGET}" if asked else f"half of what is free; ${BUDGET} sets another limit"
    what = _size(missing) if copies == 1 else f"{copies} copies, {_size(missing)},"
    why = f"{what} are more than the {_size(budget)} that they may take on this disk ({source})"
    addresses, watch = listing.addresses(), Watch(listing)
    return {
        name: PartFile(addresses[name], name, listing.store, entry, watch, shelf)
        for name, entry in listing.files.items()
    }, why


def part_file(url: str) -> PartFile:
    """One object, to be read in parts.

    Raises DataError where there is none, and RequestError for a budget that is no size.
    """
    listing = list_files(url)
    if not listing.is_file:
        raise DataError(f"{scrubbed(url)} is a folder, where a file is expected.")
    ((name, entry),) = listing.files.items()
    return PartFile(url, name, listing.store, entry, Watch(listing), Shelf(_budget()[0]))


def _budget() -> tuple[int, int, bool]:
    """Bytes that may lie here, those that parts take already, and whether the user has set the first."""
    folder = _folder()
    held = sum(part.size for part in _held(folder))
    asked = os.environ.get(BUDGET)
    most = bytes_of(asked, BUDGET) if asked else int(SHARE_OF_FREE * (_free(folder) + held))
    return most, held, bool(asked)


def _folder() -> Path:
    return cache_root() / "remote" / "parts"


def _held(folder: Path) -> list[_Held]:
    found = []
    with suppress(OSError), os.scandir(folder) as scan:
        for entry in scan:
            with suppress(OSError):  # it gave way meanwhile
                state = entry.stat()
                found.append(_Held(Path(entry.path), state.st_size, state.st_mtime))
    return found


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(count: int) -> str:
    for unit, bytes_ in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= bytes_:
            return f"{count / bytes_:.3g} {unit}"
    return f"{count} bytes"
