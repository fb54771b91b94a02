"""Reading regular files, of a bounded size, and no others: a pipe would be waited for, a device never ends."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

# Bytes of a record: a run of a million labels writes some 30 MB, a comparison on a million rows 10 MB for each cell.
MOST_RECORD = 128 * 2**20
# Bytes of a file that belongs to a network beside its weights: the largest tokenizers have some 35 MB.
MOST_ASSET = 256 * 2**20


def names_folder(path: str | Path) -> bool:
    """Whether a path names a folder; what no file can be called, such as a text of many words, names none."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for a name that is too long


def names_file(path: str | Path) -> bool:
    """Whether a path names a regular file; see ``names_folder``."""
    return os.path.isfile(path)  # noqa: PTH113 - see above


def names_anything(path: str | Path) -> bool:
    """Whether there is anything at a path; see ``names_folder``."""
    return os.path.exists(path)  # noqa: PTH110 - see above


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """A regular file to read. Raises OSError for anything else: a pipe or a device may never end."""
    # Without blocking: opening a pipe would wait for someone to write into it.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        file = os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
    with file:
        yield file


def read_file(path: Path, *, most: int | None = None) -> bytes:
    """The content of a regular file of up to ``most`` bytes. Raises OSError for anything else."""
    with open_file(path) as file:
        if most is None:
            return file.read()
        if os.fstat(file.fileno()).st_size <= most:
            # One more than allowed: what grows while it is read is found too.
            data = file.read(most + 1)
            if len(data) <= most:
                return data
    raise OSError(errno.EFBIG, f"larger than {most // 2**20} MiB", str(path))


def read_record(path: Path) -> str:
    """The text of a file in which the program keeps something: a regular one of at most ``MOST_RECORD`` bytes.

    Raises OSError, or UnicodeDecodeError, which is a ValueError.
    """
    return read_file(path, most=MOST_RECORD).decode("utf-8")
