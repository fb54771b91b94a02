"""Where the names in a table or a request lead: to files of this machine, or behind a URL."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from unfreeze.errors import UnfreezeError
from unfreeze.runtime.remote import fetch_file, is_remote, scrubbed


@dataclass(frozen=True, eq=False)
class Links:
    """Files by name, fetched once when they are first read.

    ``folder``: where names that are no URL lie. ``base``: the URL of the folder of a remote table instead, whose names
    lead nowhere else: below that folder, or by URL into the same bucket.
    """

    folder: Path = Path()
    base: str | None = None
    fetched: dict[str, Path] = field(default_factory=dict, repr=False)

    def file(self, name: str) -> Path:
        """The local file of a name. Raises OSError for one that leads out, or cannot be fetched."""
        url = self._url(name)
        if url is None:
            return self.folder / name
        found = self.fetched.get(url)
        if found is None:
            try:
                found = fetch_file(url)
            except UnfreezeError as problem:
                raise OSError(str(problem).rstrip(".")) from None
            self.fetched[url] = found
        return found

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


def file_in(folder: Path | Links, name: str) -> Path:
    """The local file that a name in a folder means. Raises OSError when ``folder`` is remote and it cannot be had."""
    return folder.file(name) if isinstance(folder, Links) else folder / name
