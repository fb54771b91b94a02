"""Whose a shelf of stored activations is: a folder that goes with the processes that fill and read it.

Beside a shelf lies a file for each of its processes, which that process keeps locked; the system gives the lock back
when it ends, however it ends. A shelf without a process that lives is left over, and whoever fills another one removes
it.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

import filelock

PREFIX = "prefix-"


def claim_shelf(folder: Path, rank: int) -> filelock.BaseFileLock:
    """This process's lock on a shelf, to be taken before the folder is made. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Held by the process, whichever of its threads lets go of it.
    lock = filelock.FileLock(folder.parent / f"{folder.name}.{rank}.lock", thread_local=False)
    lock.acquire()
    return lock


def let_go(lock: filelock.BaseFileLock) -> None:
    """Give a lock back, and remove its file."""
    # While it is held: whoever opened it meanwhile finds that it has no name any more.
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def sweep_shelves(root: Path, *, but: Path) -> None:
    """Remove the shelves in ``root`` whose processes have all ended; ``but``: a shelf that is about to be filled."""
    for name in {path.name.partition(".")[0] for path in root.glob(f"{PREFIX}*")} - {but.name}:
        with ExitStack() as held, suppress(filelock.Timeout, OSError):
            locks = [filelock.FileLock(path, timeout=0) for path in root.glob(f"{name}.*.lock")]
            for lock in locks:
                held.enter_context(lock)
            shutil.rmtree(root / name, ignore_errors=True)
            for lock in locks:
                let_go(lock)
