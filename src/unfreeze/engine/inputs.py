"""Raw training inputs, decoded or tokenised once: batches at boundary 0 for any rows and any round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from unfreeze.contracts import State
from unfreeze.data.augment import Name as AugmentName
from unfreeze.data.augment import augment
from unfreeze.data.chance import order, uniforms
from unfreeze.data.sending import send
from unfreeze.data.tokens import TokenRows
from unfreeze.engine.batches import pad_texts
from unfreeze.engine.devices import has_room

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Texts of similar length share a batch: windows of this many batches are sorted by length, and of a quarter of an
# epoch's at most, as in transformers. Sorted as a whole, 500 texts of 8 to 200 tokens met the same ones in every epoch
# (94 % of the pairs of a batch again in the next; 20 % so, 6 % by chance alone) for 13 % fewer tokens.
WINDOW_BATCHES, WINDOW_SHARE = 32, 4
# Separates the chance that drops tokens from the chance that orders rows.
_TOKEN_ROUND = 1 << 32


class Inputs(Protocol):
    """The rows of one part, ready to be batched."""

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.intp], round_: int | None) -> State:
        """The raw batch of these rows; varied by augmentation in a round, plain when it is None."""

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[NDArray[np.intp]]:
        """The rows of every batch of an epoch: a function of seed and epoch, each row once."""

    def by_length(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """The places of these rows in the order in which batches of them are padded least."""


@dataclass(frozen=True, eq=False)
class Resident:
    """Squares that an accelerator may hold as a whole: once, for all inputs that are made of them."""

    squares: NDArray[np.uint8]
    device: torch.device

    @cached_property
    def pixels(self) -> Tensor | None:
        """All of them on the accelerator, where they take a quarter of its free memory at most."""
        import torch

        if not has_room(self.device, self.squares.nbytes):
            return None
        # Not pinned: that would be a second copy of all of them in the program's memory.
        return torch.from_numpy(self.squares).to(self.device)


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """Decoded squares, uint8 (rows, height, width, 3), in memory or mapped; ``keys`` (rows,) identify contents.

    ``held``: what other inputs of the same squares have put on the device already.
    """

    squares: NDArray[np.uint8]
    keys: NDArray[np.uint64]
    augment: AugmentName
    seed: int
    device: torch.device
    held: Resident | None = None

    def __len__(self) -> int:
        return len(self.squares)

    def batch(self, rows: NDArray[np.intp], round_: int | None) -> State:
        """See ``Inputs``; the variation is computed on the device."""
        resident = self._resident.pixels
        if resident is None:
            pixels = send(np.ascontiguousarray(self.squares[rows]), self.device)
        else:
            pixels = resident[send(rows, self.device)]
        if round_ is None:
            return State(pixels)
        return State(augment(pixels, self.augment, seed=self.seed, round_=round_, keys=self.keys[rows]))

    def varied(self, augment: AugmentName) -> ImageInputs:
        """The same squares, varied in another way; an accelerator holds them once for both."""
        return replace(self, augment=augment, held=self._resident)

    def select(self, rows: NDArray[np.intp]) -> SelectedImages:
        """These rows in this order, without a copy of their pixels."""
        return SelectedImages(self, rows)

    @cached_property
    def _resident(self) -> Resident:
        return Resident(self.squares, self.device) if self.held is None else self.held

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[NDArray[np.intp]]:
        """See ``Inputs``."""
        return cut(order(seed, epoch, len(self)), batch_size)

    def by_length(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """See ``Inputs``; pictures are all of one size."""
        return np.arange(len(rows))


@dataclass(frozen=True, eq=False)
class SelectedImages:
    """Some rows of other inputs, counted from 0 in the order of ``rows``."""

    whole: ImageInputs
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: NDArray[np.intp], round_: int | None) -> State:
        """See ``Inputs``."""
        return self.whole.batch(self.rows[rows], round_)

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[NDArray[np.intp]]:
        """See ``Inputs``."""
        return cut(order(seed, epoch, len(self)), batch_size)

    def by_length(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """See ``Inputs``."""
        return self.whole.by_length(rows)


@dataclass(frozen=True, eq=False)
class TextInputs:
    """Token ids, one array a row; ``token_dropout`` is the share of inner tokens left out in a round."""

    ids: Sequence[NDArray[np.int64]]
    keys: NDArray[np.uint64]
    pad_id: int
    seed: int
    device: torch.device
    token_dropout: float = 0.0

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        if isinstance(self.ids, TokenRows):
            return self.ids.lengths
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def batch(self, rows: NDArray[np.intp], round_: int | None) -> State:
        """See ``Inputs``; padded on the right to the longest row, rounded up."""
        chosen = [self.ids[row] for row in rows]
        if round_ is not None and self.token_dropout:
            chosen = [self._thinned(row, ids, round_) for row, ids in zip(rows, chosen, strict=True)]
        state = pad_texts(chosen, self.pad_id, most=int(self.lengths.max()))
        assert state.mask is not None
        return State(send(state.h, self.device), send(state.mask, self.device), full=state.full)

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[NDArray[np.intp]]:
        """See ``Inputs``; rows of similar length stand together."""
        shuffled = order(seed, epoch, len(self))
        window = batch_size * max(1, min(WINDOW_BATCHES, len(shuffled) // batch_size // WINDOW_SHARE))
        parts: list[NDArray[np.intp]] = []
        # A last row alone would be a batch: it joins the window before.
        for rows in cut(shuffled, window):
            parts += cut(rows[self.by_length(rows)], batch_size)
        return [parts[index] for index in order(seed + 1, epoch, len(parts))]

    def by_length(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """See ``Inputs``."""
        return np.argsort(self.lengths[rows], kind="stable")

    def select(self, rows: NDArray[np.intp]) -> TextInputs:
        """These rows in this order."""
        ids = self.ids.select(rows) if isinstance(self.ids, TokenRows) else [self.ids[row] for row in rows]
        return replace(self, ids=ids, keys=self.keys[rows])

    def _thinned(self, row: int, ids: NDArray[np.int64], round_: int) -> NDArray[np.int64]:
        """The ids with some inner tokens left out; the first and the last, which are special, stay."""
        chance = uniforms(self.seed, round_ + _TOKEN_ROUND, self.keys[row : row + 1], len(ids))[0]
        keep = chance >= self.token_dropout
        keep[0] = keep[-1] = True
        thinned: NDArray[np.int64] = ids[keep]
        return thinned


def cut(rows: NDArray[np.intp], batch_size: int) -> list[NDArray[np.intp]]:
    """Consecutive batches; a last batch of one row joins the one before, since batch statistics need two."""
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        last = parts.pop()
        parts[-1] = np.concatenate([parts[-1], last])
    return parts
