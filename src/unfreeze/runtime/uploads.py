"""What is written behind a URL: whole objects, since a store shows nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.runtime.remote import in_words, open_object, open_store, protocol_of, scrubbed

READ_ONLY = ("http", "https")
UNFINISHED = ".unfinished"


def check_writable(url: str) -> None:
    """Raise RequestError when nothing can be written to a URL, as far as can be seen without writing."""
    store, path = open_store(url)
    protocol = protocol_of(url)
    if protocol in READ_ONLY:
        raise RequestError(
            f"{scrubbed(url)}: {protocol}:// can be read, not written. Give s3:// or another store."
        )
    with in_words(url, "written", RequestError):
        if protocol in ("s3", "gs", "gcs", "az"):
            # A bucket may be closed to everything but writing: that is no reason to refuse.
            with suppress(PermissionError):
                store.info(path.partition("/")[0])


def claim(url: str, *, resume: bool = False) -> None:
    """Mark a folder as begun, which proves that it can be written; ``upload`` takes the mark away.

    Raises RequestError where it cannot, and where it holds anything: with ``resume``, anything that has no such mark.
    """
    check_writable(url)
    store, path = open_store(url)
    mark = f"{path.rstrip('/')}/{UNFINISHED}"
    with in_words(url, "written", RequestError):
        there = _names(store, path)
        begun = any(name.endswith(f"/{UNFINISHED}") for name in there)
        if len(there) > begun and not (begun and resume):
            raise RequestError(
                f"{scrubbed(url)} exists already and is not empty. Choose another --output-dir, or remove it first."
            )
        store.pipe_file(mark, b"")


def upload(folder: Path, url: str, names: Sequence[str]) -> None:
    """Write these files of a folder below a URL, in this order, and take the mark of ``claim`` away.

    Raises UnfreezeError when the store refuses.
    """
    store, path = open_store(url)
    root = path.rstrip("/")
    with in_words(url, "written", UnfreezeError):
        for name in names:
            store.put_file(str(folder / name), f"{root}/{name}")
        store.rm_file(f"{root}/{UNFINISHED}")


def upload_file(file: Path, url: str) -> None:
    """Write one file to a URL; a store shows it when it is whole. Raises UnfreezeError when the store refuses."""
    store, path = open_store(url)
    with in_words(url, "written", UnfreezeError):
        store.put_file(str(file), path)


def _names(store: Any, path: str) -> list[str]:
    """The paths of all objects below a path; none where there is nothing."""
    return list(store.find(path)) if store.exists(path) else []


@dataclass(frozen=True)
class Objects:
    """The objects below a URL by their names in it. What a store refuses is an UnfreezeError."""

    url: str

    def names(self) -> set[str]:
        """All of them; none where nothing was written yet."""
        store, path = open_store(self.url)
        with in_words(self.url, "listed", UnfreezeError):
            root = path.rstrip("/") + "/"
            return {name.removeprefix(root) for name in _names(store, path)}

    def write(self, name: str, content: bytes) -> None:
        """Write an object in one piece, in place of one of that name."""
        store, path = open_store(self._url(name))
        with in_words(self.url, "written", UnfreezeError):
            store.pipe_file(path, content)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        store, path = open_store(self._url(name))
        with in_words(self.url, "written", UnfreezeError), suppress(FileNotFoundError):
            store.rm_file(path)

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """An object to read parts of."""
        return open_object(self._url(name))

    def _url(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"
