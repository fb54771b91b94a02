"""Walking through a data folder: what is left out, and which links are followed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unfreeze.data.rows import NOT_UTF8, IgnoredLog, escaped, has_utf8
from unfreeze.errors import DataError

# Whoever hands a folder on could otherwise have any file of this machine read as data.
LEADS_OUT = "a link that leads out of the data folder"
JUNK = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin", "__pycache__"}
    # Thumbnails, bins and copies of Synology's and QNAP's storage, which show in every shared folder.
    | {"@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@recently-snapshot"}
)


@dataclass(eq=False)
class Walker:
    """Lists files below folders of one root; notes what it leaves out."""

    root: Path
    log: IgnoredLog
    entered: set[tuple[int, int]] = field(default_factory=set)
    leading_out: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._real_root = os.path.realpath(self.root)
        self._enter("")

    def entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Entries of a folder, by name, that a data set may hold.

        Without hidden and junk ones, those whose name is not UTF-8, and links to what lies outside of the root.
        """
        with os.scandir(self.root / folder) as scan:
            found = sorted(scan, key=lambda entry: entry.name)
        for entry in found:
            if entry.name.startswith("."):
                self.log.add(joined(folder, entry.name), "hidden")
            elif entry.name.lower() in JUNK:
                self.log.add(joined(folder, entry.name), "written by an operating system, not data")
            elif not has_utf8(entry.name):
                self.log.add(escaped(joined(folder, entry.name)), NOT_UTF8)
                self.unnamed.append(joined(folder, entry.name))
            elif entry.is_symlink() and self._leads_out(joined(folder, entry.name)):
                self.log.add(joined(folder, entry.name), LEADS_OUT)
                self.leading_out.append(joined(folder, entry.name))
            else:
                yield entry

    def files(self, folders: Sequence[str]) -> Iterator[tuple[str, str]]:
        """All files below these folders: the folder, and the path of the file; both are relative to the root.

        A link to a folder is followed once, and after all else: only then is it known what was read without it. What
        it leads to belongs to the folder that it lies in; a folder to which a link leads is itself a link.
        """
        links: list[tuple[str, str]] = []
        for folder in folders:
            if self._is_linked(folder):
                links.append((folder, folder))
            else:
                yield from self._files(folder, folder, links)
        for folder, link in links:
            if not self._is_repeated(link):
                yield from self._files(folder, link, links)

    def _files(self, top: str, folder: str, links: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Files below a folder; what links to folders there are is added to ``links``; both after their ``top``."""
        self._enter(folder)
        # A list and no recursion: folders may lie deeper in each other than Python calls may.
        opened = [(folder, self.entries(folder))]
        while opened:
            above, entries = opened[-1]
            entry = next(entries, None)
            if entry is None:
                opened.pop()
                continue
            path = joined(above, entry.name)
            if not is_folder(entry):
                yield top, path
            elif entry.is_symlink():
                links.append((top, path))
            elif not self._is_repeated(path):
                self._enter(path)
                opened.append((path, self.entries(path)))

    def _is_linked(self, folder: str) -> bool:
        """Whether a folder, or one above it, is a link."""
        return Path(os.path.realpath(self.root / folder)) != Path(self._real_root, folder)

    def _is_repeated(self, folder: str) -> bool:
        """Whether a folder was read by another name; it is noted then."""
        if self._identity(folder) not in self.entered:
            return False
        self.log.add(folder, "a folder that is read already by another name")
        self.repeated.append(folder)
        return True

    def _leads_out(self, path: str) -> bool:
        return _leads_out(self.root / path, self._real_root)

    def _enter(self, folder: str) -> None:
        self.entered.add(self._identity(folder))

    def _identity(self, folder: str) -> tuple[int, int]:
        status = (self.root / folder).stat()
        return status.st_dev, status.st_ino


def refuse_links_out(root: Path, names: Iterable[str]) -> None:
    """Raise DataError for files of a folder, relative to it, that are links to what lies outside of it.

    For the files of one table, where none may be left out.
    """
    real_root = os.path.realpath(root)
    for name in names:
        path = root / name
        if path.is_symlink() and _leads_out(path, real_root):
            raise DataError(
                f"{path} is {LEADS_OUT}: put a copy there, or name the files themselves by a pattern."
            )


def _leads_out(path: Path, real_root: str) -> bool:
    return not Path(os.path.realpath(path)).is_relative_to(real_root)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def unreadable(error: OSError) -> DataError:
    """What to say of a folder that cannot be walked through."""
    return DataError(f"{error.filename} cannot be read: {(error.strerror or str(error)).lower()}.")


def joined(folder: str, name: str) -> str:
    """The path of a name in a folder, both relative to the root, which is the empty path."""
    return f"{folder}/{name}" if folder else name
