"""Activations of all rows of a part in one mapped file, written in the order in which they are computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.contracts import State
from unfreeze.runtime.padding import padded

HALF_MAX = 65504.0


@dataclass(frozen=True, eq=False)
class Activations:
    """The states of all rows: of one shape, or token rows of their own lengths laid end to end.

    ``values`` (places, ...): a row's states begin at place ``starts[row]``; ``lengths`` (rows,) holds its tokens,
    or is None where every row is one place.
    """

    values: NDArray[np.generic]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64] | None

    def read(self, rows: NDArray[np.intp], device: torch.device) -> State:
        """The state of these rows in float32, padded as a batch of raw texts is."""
        # Places in ascending order walk the mapped file forwards.
        order = np.argsort(self.starts[rows], kind="stable")
        if self.lengths is None:
            block = np.empty((len(rows), *self.values.shape[1:]), dtype=self.values.dtype)
            block[order] = self.values[self.starts[rows[order]]]
            return State(_floats(block, device))
        lengths = self.lengths[rows]
        width = padded(int(lengths.max()), most=int(self.lengths.max()))
        block = np.zeros((len(rows), width, self.values.shape[1]), dtype=self.values.dtype)
        for position in order:
            start, length = self.starts[rows[position]], lengths[position]
            block[position, :length] = self.values[start : start + length]
        mask = np.arange(width)[None, :] < lengths[:, None]
        return State(_floats(block, device), torch.from_numpy(mask).to(device))


class HalfOverflowError(Exception):
    """A value that half precision cannot hold."""


class ActivationWriter:
    """Writes the states of batches of rows, on the CPU, to one file; ``mapped`` gives them back when it is whole.

    Raises OSError when the disk is full (a file that is mapped before it is written would end the process instead).
    """

    def __init__(self, path: Path, *, rows: int, half: bool) -> None:
        self._path = path
        self._kind = np.dtype(np.float16 if half else np.float32)
        self._starts = np.zeros(rows, dtype=np.int64)
        self._lengths: NDArray[np.int64] | None = None
        self._shape: tuple[int, ...] = ()
        self._place = 0

    def __enter__(self) -> ActivationWriter:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: NDArray[np.intp], state: State) -> None:
        """The states of these rows. Raises HalfOverflowError for a value that float16 cannot hold."""
        block = state.h.numpy()
        if state.mask is not None and block.ndim == 3:
            if self._lengths is None:
                self._lengths = np.zeros(len(self._starts), dtype=np.int64)
            sizes = state.mask.sum(1).numpy().astype(np.int64)
            # Padding stands on the right, and what it holds has no meaning.
            block = block[state.mask.numpy()]
            self._lengths[rows] = sizes
        else:
            sizes = np.ones(len(rows), dtype=np.int64)
        if self._kind == np.float16 and not float(np.abs(block).max()) <= HALF_MAX:
            raise HalfOverflowError
        self._starts[rows] = self._place + np.cumsum(sizes) - sizes
        self._place += int(sizes.sum())
        self._shape = block.shape[1:]
        self._file.write(np.ascontiguousarray(block, dtype=self._kind).data)

    def mapped(self) -> Activations:
        """All that was written, mapped; for a file that is closed."""
        values = np.memmap(self._path, dtype=self._kind, mode="r", shape=(self._place, *self._shape))
        return Activations(values, self._starts, self._lengths)


def _floats(block: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(block).to(device, non_blocking=True).float()
