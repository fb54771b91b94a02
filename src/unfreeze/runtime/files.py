"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")


def cache_root() -> Path:
    """The folder for what can be computed again.

    $UNFREEZE_CACHE, else $XDG_CACHE_HOME/unfreeze, else ~/.cache/unfreeze.
    """
    own, shared = os.environ.get("UNFREEZE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    return (Path(shared) if shared else Path.home() / ".cache") / "unfreeze"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path``: temporary file, fsync, rename, fsync of the folder."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_torn(folder: Path) -> None:
    """Remove what ``write_atomically`` was writing below ``folder`` when its process was killed.

    For a folder that no other process writes to.
    """
    for path in folder.rglob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def read_file(path: Path) -> bytes:
    """The content of a regular file. Raises OSError for anything else: a pipe or a device may never end."""
    # Without blocking: opening a pipe would wait for someone to write into it.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds. Raises ValueError, for nesting that is too deep to follow too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system lets a folder be opened."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
