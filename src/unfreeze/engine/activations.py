"""Activations of all rows of a part in mapped files, written in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.contracts import State
from unfreeze.data.sending import send
from unfreeze.runtime.padding import padded

HALF_MAX = 65504.0
# What is copied to a device at a time: there is no second copy of all of it on the way.
PIECE_BYTES = 64 * 2**20
_KINDS = {np.dtype(np.float16).str: torch.float16, np.dtype(np.float32).str: torch.float32}


class Readable(Protocol):
    """The states of all rows of a part, wherever they lie."""

    def read(self, rows: NDArray[np.intp], device: torch.device) -> State:
        """The state of these rows in float32 on the device, padded as a batch of raw texts is."""


@dataclass(frozen=True, eq=False)
class Activations:
    """The states of all rows: of one shape, or token rows of their own lengths laid end to end.

    ``values``, one (places, ...) for each writer: a row's states begin at place ``starts[row]`` of what its writer
    ``owners[row]`` has written; ``lengths`` (rows,) holds its tokens, or is None where every row is one place.
    """

    values: tuple[NDArray[np.generic], ...]
    owners: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64] | None

    @classmethod
    def joined(cls, parts: Sequence[Activations]) -> Activations:
        """What several writers have each written some of the rows of, as one."""
        if len(parts) == 1:
            return parts[0]
        written = np.stack([part.owners >= 0 for part in parts])
        owners = written.argmax(axis=0)
        rows = np.arange(len(owners))
        lengths = None
        if any(part.lengths is not None for part in parts):
            # A writer that met no row does not know whether rows have lengths.
            known = [
                np.zeros(len(rows), np.int64) if part.lengths is None else part.lengths for part in parts
            ]
            lengths = np.stack(known)[owners, rows]
        starts = np.stack([part.starts for part in parts])[owners, rows]
        return cls(tuple(part.values[0] for part in parts), owners, starts, lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of all that was written."""
        return sum(values.nbytes for values in self.values)

    def held_on(self, device: torch.device) -> Held:
        """The same, copied into the memory of a device."""
        sizes = np.array([len(values) for values in self.values])
        firsts = np.cumsum(sizes) - sizes
        # One that has written nothing does not know what shape states have.
        like = next((values for values in self.values if len(values)), self.values[0])
        held = torch.empty((int(sizes.sum()), *like.shape[1:]), dtype=_KINDS[like.dtype.str], device=device)
        for values, first in zip(self.values, firsts.tolist(), strict=True):
            step = max(1, PIECE_BYTES * len(values) // max(1, values.nbytes))
            for start in range(0, len(values), step):
                piece = torch.from_numpy(np.array(values[start : start + step]))
                held[first + start : first + start + len(piece)] = piece
        return Held(held, firsts[self.owners] + self.starts, self.lengths)

    def read(self, rows: NDArray[np.intp], device: torch.device) -> State:
        """See ``Readable``."""
        # Places in ascending order walk the mapped files forwards.
        order = np.argsort(self.starts[rows], kind="stable")
        owners = self.owners[rows]
        # One that has written nothing does not know what shape states have.
        like = self.values[int(owners[0])]
        if self.lengths is None:
            block = np.empty((len(rows), *like.shape[1:]), dtype=like.dtype)
            for owner, values in enumerate(self.values):
                mine = order[owners[order] == owner]
                if len(mine):
                    block[mine] = values[self.starts[rows[mine]]]
            return State(_floats(block, device))
        lengths = self.lengths[rows]
        mask = _tokens(lengths, self.lengths)
        block = np.zeros((*mask.shape, like.shape[1]), dtype=like.dtype)
        for position in order:
            start, length = self.starts[rows[position]], lengths[position]
            block[position, :length] = self.values[owners[position]][start : start + length]
        return State(_floats(block, device), send(mask, device), full=bool(mask.all()))


@dataclass(frozen=True, eq=False)
class Held:
    """The states of all rows in the memory of a device: ``Activations`` whose writers' places are counted through."""

    values: Tensor
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64] | None

    def read(self, rows: NDArray[np.intp], device: torch.device) -> State:
        """See ``Readable``."""
        starts = self.starts[rows]
        if self.lengths is None:
            return State(self.values[send(starts, device)].float())
        lengths = self.lengths[rows]
        mask = _tokens(lengths, self.lengths)
        # Padding reads a place that is there, and is cleared.
        places = np.where(mask, starts[:, None] + np.arange(mask.shape[1]), 0)
        given = send(mask, device)
        h = self.values[send(places, device)].float().masked_fill_(~given[..., None], 0.0)
        return State(h, given, full=bool(mask.all()))


class HalfOverflowError(Exception):
    """A value that half precision cannot hold."""


class ActivationWriter:
    """Writes the states of batches of rows, on the CPU, to one file; ``mapped`` gives them back when it is whole.

    Of several writers each writes some of the rows.
    Raises OSError when the disk is full (a file that is mapped before it is written would end the process instead).
    """

    def __init__(self, path: Path, *, rows: int, half: bool) -> None:
        self._path = path
        self._kind = np.dtype(np.float16 if half else np.float32)
        self._starts = np.zeros(rows, dtype=np.int64)
        self._owners = np.full(rows, -1, dtype=np.int64)
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
        self._owners[rows] = 0
        self._place += int(sizes.sum())
        self._shape = block.shape[1:]
        self._file.write(np.ascontiguousarray(block, dtype=self._kind).data)

    def mapped(self) -> Activations:
        """All that was written, mapped; for a file that is closed."""
        return self.index().mapped()

    def index(self) -> Written:
        """Where which rows lie in the file, for another process to map it."""
        shape = (self._place, *self._shape)
        return Written(self._path, self._kind.str, shape, self._owners, self._starts, self._lengths)


@dataclass(frozen=True, eq=False)
class Written:
    """What one writer has written: the file, its numbers' kind and shape, and where which rows lie in it.

    ``owners`` (rows,) is 0 for the rows that are there and -1 for others.
    """

    path: Path
    kind: str
    shape: tuple[int, ...]
    owners: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64] | None

    def mapped(self) -> Activations:
        """The file, mapped."""
        if not self.shape[0]:
            # No file of no bytes can be mapped.
            empty = np.zeros(self.shape, dtype=self.kind)
            return Activations((empty,), self.owners, self.starts, self.lengths)
        values = np.memmap(self.path, dtype=self.kind, mode="r", shape=self.shape)
        return Activations((values,), self.owners, self.starts, self.lengths)


def _tokens(lengths: NDArray[np.int64], every: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which places of a padded batch hold tokens (rows, tokens); ``every``: the lengths of all rows."""
    mask: NDArray[np.bool_] = np.arange(padded(int(lengths.max()), most=int(every.max()))) < lengths[:, None]
    return mask


def _floats(block: NDArray[np.generic], device: torch.device) -> Tensor:
    return send(block, device).float()
