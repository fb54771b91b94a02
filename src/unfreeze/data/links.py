"""Where the names in a table or a request lead: to files of this machine, or behind a URL."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from unfreeze.errors import UnfreezeError
from unfreeze.regular import read_file
from unfreeze.runtime.remote import fetch_file, is_remote, read_object, scrubbed

# Bytes of a picture or a text. A file of holes says any size, and takes all of it in memory.
MOST_INPUT = 2**30


@dataclass(frozen=True, eq=False)
class Links:
    """Files by name, fetched once when they are first read, or each time where nothing is to be ``kept`` here.

    ``folder``: where names that are no URL lie. ``base``: the URL of the folder of a remote table instead, whose names
    lead nowhere else: below that folder, or by URL into the same bucket.
    """

    folder: Path = Path()
    base: str | None = None
    kept: bool = True
    fetched: dict[str, Path] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> bytes:
        """What the file of a name holds. Raises OSError for one that leads out, or cannot be had."""
        url = self._url(name)
        if url is None:
            return read_file(self.folder / name, most=MOST_INPUT)
        try:
            if not self.kept:
                return read_object(url)
            found = self.fetched.get(url)
            if found is None:
                found = self.fetched[url] = fetch_file(url)
        except UnfreezeError as problem:
            raise OSError(str(problem).rstrip(".")) from None
        return read_file(found, most=MOST_INPUT)

    def _url(self, name: str) -> str | None:
        if self.base is None:
            return name if is_remote(name) else None
        if is_remote(name):
            ours, theirs = urlsplit(self.base), urlsplit(name)
            if (ours.scheme, ours.netloc) != (theirs.scheme.lower(), theirs.netloc):
                raise OSError(
                    f"{scrubbed(name)} is not in {ours.scheme}://{ours.netloc}, as its table is: refused"
                )
            return name
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise OSError(f"{name} leads out of the folder of its table, {self.base}: refused")
        return f"{self.base}/{name}"


def content_in(folder: Path | Links, name: str) -> bytes:
    """What the file of a name in a folder holds. Raises OSError when it cannot be read or had."""
    return folder.read(name) if isinstance(folder, Links) else read_file(folder / name, most=MOST_INPUT)
