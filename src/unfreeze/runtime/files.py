"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unfreeze.regular import open_file

TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")
# A temporary that is this process's alone; a cache or an output folder may be shared with other machines.
OWN = re.compile(r"\..+\.([0-9a-f]{8})-[0-9a-f]{8}\.([0-9]{1,9})\.tmp")
# Nobody writes one file for so long without a byte of it reaching the disk.
ABANDONED_SECONDS = 86_400
# Objects and lists in a record: an empty object of three characters takes 72 bytes, so that the longest record took
# 3.3 GB. What we write of a million rows or labels are flat lists.
MOST_PARTS = 4_000_000


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


def own_temporary(folder: Path, name: str) -> Path:
    """Where ``name`` can be written before it is whole: a place in the folder that no one else writes to."""
    return folder / f".{name}.{_machine()}-{uuid.uuid4().hex[:8]}.{os.getpid()}.tmp"


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove those of the paths that ``own_temporary`` gave to processes that were killed.

    A process of another machine, or container, counts as killed when it has written nothing for a day.
    """
    for path in paths:
        if (named := OWN.fullmatch(path.name)) is None:
            continue
        machine, process = named.groups()
        try:
            idle_seconds = time.time() - path.lstat().st_mtime
        except OSError:  # another process has removed it
            continue
        if idle_seconds < ABANDONED_SECONDS and (machine != _machine() or is_running(int(process))):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _machine() -> str:
    """What sees the same processes: containers may share a name and a folder, and do not see each other's."""
    try:
        processes = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        processes = ""
    return hashlib.sha256(f"{platform.node()} {processes}".encode()).hexdigest()[:8]


def is_running(process: int) -> bool:
    """Whether this machine has such a process, as far as can be asked."""
    if os.name == "nt":
        # Asking would be a signal there.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds. Raises ValueError, for nesting that is too deep to follow and for too many parts too."""
    opening: tuple[Any, Any] = ("{", "[") if isinstance(text, str) else (b"{", b"[")
    if sum(map(text.count, opening)) > MOST_PARTS:
        raise ValueError("too many objects and lists")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sync_file(path: Path) -> None:
    """Make a file's content durable, before it takes the name under which it is believed."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


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
    """SHA-256 of a regular file, as hexadecimal digits. Raises OSError for anything else."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
