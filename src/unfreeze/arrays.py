"""Arrays of all rows, which may be more than memory has room for."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unfreeze.amounts import size
from unfreeze.errors import UnfreezeError

# Beyond this an array stays in a file of the system's temporary folder.
MEMORY_BYTES = 2**30


def allocate(shape: tuple[int, ...], dtype: DTypeLike, *, most: int | None = None) -> NDArray[Any]:
    """Zeros of this shape: in memory, or mapped from a nameless file where they would fill it.

    ``most``: bytes that may be taken of memory, ``MEMORY_BYTES`` without it. Raises UnfreezeError where that file has
    no room on its disk.
    """
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    if needed <= (MEMORY_BYTES if most is None else most):
        return np.zeros(shape, dtype=dtype)
    try:
        with tempfile.TemporaryFile() as file:
            # A disk that is found full only when a page is written would end the program without a word.
            if hasattr(os, "posix_fallocate"):
                _reserve(file.fileno(), needed)
            return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
    except OSError as problem:
        raise UnfreezeError(
            f"{tempfile.gettempdir()} has no room for {size(needed)} of rows ({problem.strerror or problem}): set "
            "TMPDIR to a folder on a disk that has."
        ) from None


def _reserve(file: int, size: int) -> None:
    """Raises OSError where the disk has no room; some file systems cannot say."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as problem:
        if problem.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
