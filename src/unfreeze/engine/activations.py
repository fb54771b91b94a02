"""Activations of all rows of a part in one mapped file, written in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.contracts import State
from unfreeze.engine.batches import padded

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


def write_activations(
    path: Path, states: Iterable[tuple[NDArray[np.intp], State]], *, rows: int, half: bool
) -> Activations:
    """Write the states of batches of rows, on the CPU, and map the file.

    Raises HalfOverflowError for a value that float16 cannot hold, OSError when the disk is full (a file that is
    mapped before it is written would end the process instead).
    """
    kind = np.dtype(np.float16 if half else np.float32)
    starts = np.zeros(rows, dtype=np.int64)
    lengths: NDArray[np.int64] | None = None
    shape: tuple[int, ...] = ()
    place = 0
    with path.open("wb") as file:
        for chosen, state in states:
            block = state.h.numpy()
            ragged = state.mask is not None and block.ndim == 3
            if state.mask is not None and ragged:
                lengths = np.zeros(rows, dtype=np.int64) if lengths is None else lengths
                sizes = state.mask.sum(1).numpy().astype(np.int64)
                # Padding stands on the right, and what it holds has no meaning.
                block = block[state.mask.numpy()]
                lengths[chosen] = sizes
            else:
                sizes = np.ones(len(chosen), dtype=np.int64)
            if half and not float(np.abs(block).max()) <= HALF_MAX:
                raise HalfOverflowError
            starts[chosen] = place + np.cumsum(sizes) - sizes
            place += int(sizes.sum())
            shape = block.shape[1:]
            file.write(np.ascontiguousarray(block, dtype=kind).data)
    values = np.memmap(path, dtype=kind, mode="r", shape=(place, *shape))
    return Activations(values, starts, lengths)


def _floats(block: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(block).to(device, non_blocking=True).float()
