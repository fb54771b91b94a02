"""Whose an output folder is: one process works in it, and what was begun there is known to be unfinished.

A folder in work holds two hidden files. ``.lock`` is locked while a process works there; the system gives the lock
back when that process ends, however it ends. ``.unfinished`` stays until all of the work is done: after a kill it tells
that what lies beside it may be taken up or begun anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import filelock

from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.runtime.files import remove_torn

LOCK, UNFINISHED = ".lock", ".unfinished"
# What a disk answers that is full, over its quota, read-only, not allowed or broken.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
MEND = "free some space, or mend the permissions"
# What becomes of a folder that a process left unfinished: an error says how to go on, or it goes on, or begins anew.
Left = Literal["refuse", "resume", "restart"]


@contextmanager
def claimed(folder: Path, *, left: Left = "refuse") -> Iterator[None]:
    """Make the folder of new work and keep other processes out of it while the block runs.

    The work is finished when the block ends without an error. After an error, a folder that nothing was written to is
    removed; after an interruption (KeyboardInterrupt) it stays, to be taken up.

    ``left``: what to do with a folder whose work was begun and not finished. Raises RequestError when the folder is
    taken, when another process works there, when there is nothing to resume, or when it cannot be written.
    """
    _check(folder, left)
    with locked(folder):
        # Again, now that nobody else can change the answer.
        _check(folder, left)
        (folder / UNFINISHED).touch()
        remove_torn(folder)
        try:
            yield
        except Exception:
            if not has_content(folder):
                (folder / UNFINISHED).unlink()
            raise
        (folder / UNFINISHED).unlink()


@contextmanager
def locked(folder: Path, *, flag: str = "--output-dir") -> Iterator[None]:
    """Make the folder where there is none, and keep other processes out of it while the block runs.

    What was made is removed again if nothing is written to it. ``flag``: the option that names another folder. Raises
    RequestError when another process works there or it cannot be made, UnfreezeError when the disk fails on the way.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = filelock.FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RequestError(
            f"Another process is working in {folder}: wait for it, or choose another {flag}."
        ) from None
    except OSError as problem:
        _remove_empty(made)
        raise RequestError(
            f"{folder} cannot be written ({problem.strerror or problem}). Choose another {flag}."
        ) from None
    try:
        yield
    except OSError as problem:
        raise _in_words(
            problem, folder, f"What was saved before is whole: {MEND}, and continue", flag
        ) from None
    finally:
        # Removed while it is held: whoever opened it meanwhile finds that it has no name any more.
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        _remove_empty(made)


@contextmanager
def whole_or_nothing(output: str | Path, *, flag: str) -> Iterator[None]:
    """For a block that leaves ``output`` as a whole or not at all: a disk that fails is an UnfreezeError that says so.

    ``flag``: the option that names another place.
    """
    try:
        yield
    except OSError as problem:
        raise _in_words(problem, output, f"Nothing was left there: {MEND}, and run it again", flag) from None


def _in_words(problem: OSError, place: str | Path, advice: str, flag: str) -> UnfreezeError:
    """The error for a disk that failed; what is no failure of a disk is raised as it is."""
    if problem.errno not in DISK_ERRORS:
        raise problem
    where = problem.filename2 or problem.filename or place
    return UnfreezeError(
        f"{where} could not be written ({os.strerror(problem.errno)}). {advice}; or choose another {flag}."
    )


def is_unfinished(folder: Path) -> bool:
    """Whether work was begun in the folder and not finished."""
    return (folder / UNFINISHED).exists()


def has_content(folder: Path) -> bool:
    """Whether the folder holds anything but the traces of a process at work."""
    return folder.is_dir() and any(path.name not in (LOCK, UNFINISHED) for path in folder.iterdir())


def check_free(folder: Path) -> None:
    """Raise RequestError when something lies in the folder, or is in its place."""
    if folder.exists() and (not folder.is_dir() or has_content(folder)):
        raise RequestError(
            f"{folder} exists already and is not empty. Choose another --output-dir, or remove it first."
        )


def _check(folder: Path, left: Left) -> None:
    if left == "resume":
        if not is_unfinished(folder):
            raise RequestError(_nothing_to_resume(folder))
    elif is_unfinished(folder):
        if left == "refuse":
            raise RequestError(
                f"{folder} holds what was begun and not finished. Continue it with --resume, choose another "
                "--output-dir, or remove it first."
            )
    else:
        check_free(folder)


def _nothing_to_resume(folder: Path) -> str:
    if has_content(folder):
        return f"--resume: the work in {folder} is finished, or was not begun there. Choose another --output-dir."
    return f"--resume: {folder} holds nothing to continue. Leave --resume out to start there."


def _remove_empty(made: list[Path]) -> None:
    """Remove those of the folders, the innermost first, that nothing was written to."""
    for path in made:
        try:
            path.rmdir()
        except OSError:
            return
