"""Arrays of all rows, which may be more than memory has room for."""

from __future__ import annotations

import math
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Beyond this an array stays in a file of the system's temporary folder.
MEMORY_BYTES = 2**30


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros of this shape: in memory, or mapped from a nameless file where they would fill it."""
    if math.prod(shape) * np.dtype(dtype).itemsize <= MEMORY_BYTES:
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
