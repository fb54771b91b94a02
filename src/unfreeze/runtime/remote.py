"""Files behind a URL, through fsspec: fetched whole into a cache on this disk.

Nearly everything else reads local files. A data set is read many times (columns, features, epochs, test) and a run
is checked by hashes before it is believed, so a copy on this disk is what is wanted anyway; and few places can
hang, lack a package or be refused. Parquet files that have no place here are read in parts instead (``parts.py``).

An object is kept under the hash of its URL and version (etag, else size and time), so that a changed one is fetched
anew. It appears under that name when it is whole. A folder is a tree of links to such objects. Neither fsspec nor a
client of a store is imported before a URL is used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeGuard

from unfreeze.errors import DataError, RequestError, UnfreezeError, first_line
from unfreeze.runtime.files import cache_root, own_temporary, remove_abandoned, sync_file

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# A URL, of which a path makes one with a single slash.
FOLDED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# Where secrets stand in a URL: before the host, and in the query (a signature) or the fragment.
SECRETS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://)(?:[^\s/'\"]*@)?([^\s?#'\"]*)(?:[?#][^\s'\"]*)?")
# The same of a URL in quotes, as a command has one with spaces in its path.
QUOTED = re.compile(r"""(['"][A-Za-z][A-Za-z0-9+.-]+://)(?:[^/'"]*@)?([^?#'"]*)(?:[?#][^'"]*)?(?=['"])""")
# What a protocol needs beside fsspec. Those that reach local files, or wrap another one, are left out on purpose.
PROTOCOLS = {
    "s3": "unfreeze[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "hf": "unfreeze[hub]",
    "http": "aiohttp",
    "https": "aiohttp",
    "memory": "fsspec",
}
# What a store says of an object that changes with its content, the surest first.
VERSIONS = (
    "ETag",
    "etag",
    "blob_id",
    "md5Hash",
    "VersionId",
    "LastModified",
    "mtime",
    "updated",
    "last_modified",
)
# Waiting for a store is what takes the time: more at once than there are processors.
AT_ONCE = 16
GLOB_MARKS = "*["
# What this disk answers where there is no room for a copy.
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Entry:
    """An object: its path in the store, what changes with its content (None: nothing is known), and its bytes."""

    path: str
    version: str | None
    size: int | None


@dataclass(frozen=True, eq=False)
class Listing:
    """The objects of a URL: ``files`` by name below ``base``, the URL of a folder; ``is_file``: it names one object."""

    url: str
    base: str
    store: Any
    is_file: bool
    files: Mapping[str, Entry]

    def addresses(self) -> dict[str, str]:
        """The URL of each file, by its name."""
        return {name: f"{self.base}/{name}" for name in self.files}

    def only(self, names: Sequence[str]) -> Listing:
        """The same with these files alone."""
        return replace(self, files={name: self.files[name] for name in names})


def is_remote(place: object) -> TypeGuard[str]:
    """Whether a place is a URL, and no path of this machine."""
    return isinstance(place, str) and URL.match(place) is not None


def here_alone(folder: str | Path | None, option: str) -> str | None:
    """The sentence that refuses a URL where an option takes a folder of this machine; None where it is none."""
    if folder is None or FOLDED.match(str(folder)) is None:
        return None
    return f"{option} takes a folder of this machine, and a URL was given: name a folder, and copy it from there."


def scrubbed(text: str) -> str:
    """The text without what may be secret in its URLs: user and password, query, fragment."""
    return SECRETS.sub(r"\1\2", QUOTED.sub(r"\1\2", text)) if "://" in text else text


def is_pattern(url: str) -> bool:
    """Whether a URL may stand for several objects by wildcards."""
    return any(mark in url for mark in GLOB_MARKS)


def name_of(url: str) -> str:
    """The last name of a URL's path."""
    return scrubbed(url).rstrip("/").rpartition("/")[2]


def parent_of(url: str) -> str:
    """The URL of the folder that an object lies in."""
    return scrubbed(url).rstrip("/").rpartition("/")[0]


def list_files(url: str) -> Listing:
    """What lies at a URL: one object, all below a folder, or all that a pattern fits.

    Raises DataError where there is nothing, or it may not be read; RequestError for a protocol that cannot be used.
    """
    store, path = open_store(url)
    with in_words(url, "listed"):
        if is_pattern(path) and not store.exists(path):
            folder, base = (_before_wildcard(place) for place in (path, url))
            return Listing(url, base, store, False, _entries(url, folder, store.glob(path, detail=True)))
        about = store.info(path)
        if about["type"] == "file":
            files = {_checked(url, name_of(url)): _entry(about["name"], about)}
            return Listing(url, parent_of(url), store, True, files)
        return Listing(url, url.rstrip("/"), store, False, _entries(url, path, store.find(path, detail=True)))


def _before_wildcard(place: str) -> str:
    """The folder that the first name with a wildcard lies in."""
    return re.split(r"[*\[]", place, maxsplit=1)[0].rpartition("/")[0]


def fetch(listing: Listing) -> Path:
    """The local copy of a listing: a file, or a folder with these files; both keep their names.

    Raises DataError when one of them cannot be fetched.
    """
    keys = {name: _key(listing.url, entry) for name, entry in listing.files.items()}
    digest = _digest([scrubbed(listing.url), sorted(keys.items())])
    place = cache_root() / "remote" / "trees" / digest
    label = "" if listing.is_file else local_name(listing)
    target = place / local_name(listing)
    with in_words(listing.url, "fetched"):
        # After a crash of the machine a file may have lost its end, and its tree a file.
        if not all(_is_whole(place / label / name, entry) for name, entry in listing.files.items()):
            remove_abandoned(_unfinished().iterdir())
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="unfreeze-fetch") as pool:
                tasks = [
                    pool.submit(_object, listing.store, listing.files[name], key)
                    for name, key in keys.items()
                ]
                try:
                    objects = dict(zip(keys, [task.result() for task in tasks], strict=True))
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            _plant(place, label, objects, listing.files)
    return target


def local_name(listing: Listing) -> str:
    """What the local copy of a listing is called."""
    if listing.is_file:
        return next(iter(listing.files))
    return re.sub(r"[*?\[\]:\\]+", "_", name_of(listing.url)) or "_"


def missing_bytes(listing: Listing) -> int | None:
    """Bytes that ``fetch`` would have to get; None where a size or a version is unknown."""
    entries = listing.files.values()
    if any(entry.size is None or entry.version is None for entry in entries):
        return None
    return sum(entry.size or 0 for entry in entries if not _is_whole(_place(_key(listing.url, entry)), entry))


def fetch_file(url: str) -> Path:
    """The local copy of one object. Raises DataError when there is none or it cannot be fetched."""
    listing = list_files(url)
    if not listing.is_file:
        raise DataError(f"{scrubbed(url)} is a folder, where a file is expected.")
    return fetch(listing)


@contextmanager
def open_object(url: str) -> Iterator[IO[bytes]]:
    """An object to read parts of, such as the footer of a Parquet file, without fetching the whole."""
    store, path = open_store(url)
    with in_words(url, "read"), store.open(path, "rb") as file:
        yield file


def read_object(url: str) -> bytes:
    """The content of an object, of which nothing is kept here. Raises DataError where it cannot be had."""
    with open_object(url) as file:
        return file.read()


def protocol_of(url: str) -> str:
    """The part before ``://``."""
    return url.partition("://")[0].lower()


def with_beside(listing: Listing, names: Iterable[str]) -> Listing:
    """An object with those of these names that lie beside it, as the listing of their folder.

    Raises DataError when the store fails.
    """
    files = dict(listing.files)
    for name in names:
        url = f"{listing.base}/{name}"
        path = open_store(url)[1]
        # What may not be looked at is not there: of what is missing, some stores say no more than that it is forbidden.
        with in_words(url, "looked for"), suppress(FileNotFoundError, PermissionError):
            about = listing.store.info(path)
            if about["type"] == "file":
                files[name] = _entry(about["name"], about)
    return Listing(listing.base, listing.base, listing.store, False, files)


def open_store(url: str) -> tuple[Any, str]:
    """The store of a URL, which forgets what it has listed before, and the path in it."""
    from fsspec.core import url_to_fs

    protocol = protocol_of(url)
    if protocol not in PROTOCOLS or "::" in url:
        raise RequestError(
            f"{scrubbed(url)} is no URL that is read here: use one of {', '.join(f'{name}://' for name in PROTOCOLS)}, "
            "or a path of this machine."
        )
    try:
        with in_words(url, "opened"):
            store, path = url_to_fs(url)
    except ImportError:
        raise RequestError(
            f"{scrubbed(url)} needs a package that is not installed. Install it with: pip install "
            f"'{PROTOCOLS[protocol]}'"
        ) from None
    store.invalidate_cache()
    return store, str(path)


@contextmanager
def in_words(url: str, done: str, kind: type[UnfreezeError] = DataError) -> Iterator[None]:
    """Errors of a store as sentences: each client raises types of its own."""
    shown = scrubbed(url)
    try:
        yield
    except (UnfreezeError, ImportError):
        raise
    except Exception as problem:
        raise kind(_told(shown, done, problem)) from None


def _told(shown: str, done: str, problem: BaseException) -> str:
    """What went wrong with a store, and what to do."""
    cause = problem.__cause__
    # Of whatever fails before a file is there, plain HTTP says that there is none.
    if (
        isinstance(problem, FileNotFoundError)
        and cause is not None
        and (isinstance(cause, OSError) or getattr(cause, "status", 404) not in (404, 410))
    ):
        problem = cause
    if isinstance(problem, OSError) and (problem.errno in FULL or _is_here(problem.filename)):
        return (
            f"{shown} cannot be {done}: {cache_root()} cannot be written ({problem.strerror}). Make room there, or "
            "name another folder in UNFREEZE_CACHE."
        )
    if isinstance(problem, FileNotFoundError):
        return f"{shown} does not exist, or its bucket does not. Check the name."
    text = scrubbed(first_line(problem)).rstrip(" .")
    if (
        isinstance(problem, PermissionError)
        or getattr(problem, "status", None) in (401, 403)
        or "credentials" in text.lower()
    ):
        return f"{shown} cannot be {done}: permission denied. Check the credentials for this store."
    return f"{shown} cannot be {done}: {text}. Check the name and the network, and try again."


def _is_here(name: object) -> bool:
    """Whether an error is about a file of the cache."""
    return isinstance(name, str) and Path(name).is_relative_to(cache_root())


def _entries(url: str, folder: str, found: Mapping[str, Any]) -> dict[str, Entry]:
    """The objects below a folder by their names in it. Raises DataError for none, or for a name that leads out."""
    root = folder.rstrip("/") + "/"
    files = {}
    for path, about in sorted(found.items()):
        # Some tools write an empty object for each folder.
        if about["type"] == "file" and not path.endswith("/"):
            if not path.startswith(root):
                raise DataError(f"{scrubbed(url)} lists {scrubbed(path)}, which lies outside: it is refused.")
            files[_checked(url, path.removeprefix(root))] = _entry(path, about)
    if not files:
        raise DataError(f"{scrubbed(url)} holds no files.")
    return files


def _checked(url: str, name: str) -> str:
    """The name, which must stay in the folder that the copy is made in."""
    if any(part in ("", ".", "..") for part in name.split("/")) or re.search(r"[\\\0]|^[A-Za-z]:", name):
        raise DataError(f"{scrubbed(url)} holds an object called {name!r}, which no file here can be called.")
    return name


def _entry(path: str, about: Mapping[str, Any]) -> Entry:
    version = next((f"{name}={about[name]}" for name in VERSIONS if about.get(name)), None)
    if version is None and about.get("created"):
        version = f"created={about['created']}"
    size = about.get("size")
    return Entry(path, version, int(size) if size is not None else None)


def _key(url: str, entry: Entry) -> str:
    # What has no version cannot be known again: it is fetched each time.
    version = entry.version or uuid.uuid4().hex
    return _digest([protocol_of(url), entry.path, version, entry.size])


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _place(key: str) -> Path:
    return cache_root() / "remote" / "objects" / key[:2] / key


def _unfinished() -> Path:
    """The folder of what is being fetched and planted, where what killed processes left is found again."""
    folder = cache_root() / "remote" / "unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_whole(place: Path, entry: Entry) -> bool:
    return place.is_file() and entry.size in (None, place.stat().st_size)


def _object(store: Any, entry: Entry, key: str) -> Path:
    """The cached object, fetched when it is not there or was cut short by a crash of the machine."""
    place = _place(key)
    if _is_whole(place, entry):
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = own_temporary(_unfinished(), key)
    try:
        store.get_file(entry.path, str(temporary))
        if entry.size not in (None, temporary.stat().st_size):
            raise DataError(f"{scrubbed(entry.path)} was changed while it was fetched: try again.")
        sync_file(temporary)
        # Trees share it by hard links: nobody may write into it.
        temporary.chmod(0o444)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
    return place


def _plant(place: Path, label: str, objects: Mapping[str, Path], entries: Mapping[str, Entry]) -> None:
    """Make the tree of these objects, which appears when it is whole; of one that is there, mend what is not."""
    temporary = own_temporary(_unfinished(), place.name)
    try:
        for name, source in objects.items():
            target = temporary / label / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(source)
            except FileExistsError:
                raise
            except OSError:  # a file system without links, or another one
                shutil.copyfile(source, target)
                sync_file(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.rename(place)
        except OSError:  # it was torn, or another process made the same tree meanwhile
            if not place.is_dir():
                raise
            for name, entry in entries.items():
                target = place / label / name
                if not _is_whole(target, entry):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    (temporary / label / name).replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
