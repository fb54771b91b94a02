"""The frozen prefix of a phase, as the loop sees it, and the one that is run for every batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.contracts import Backbone, Executor, State
from unfreeze.engine.devices import Precision, autocast
from unfreeze.executors.halving import in_halves, joined_states
from unfreeze.plan import Phase

if TYPE_CHECKING:
    from unfreeze.engine.task import Task


class Prefix(Protocol):
    """Where a phase gets its batches from, at its boundary.

    ``precision``: what the phase computes in, here and above; the loop sets it when the phase has chosen.
    """

    boundary: int
    reason: str
    precision: Precision

    @property
    def stored(self) -> tuple[int, ...]:
        """The boundaries, this one among them, whose activations one pass has stored; empty where nothing is."""

    def train_batch(self, rows: NDArray[np.intp], round_: int) -> State:
        """The training rows at the boundary, as they look in this round (epochs of all phases are counted)."""

    def val_batches(self, rows: NDArray[np.intp], batch_size: int) -> Iterator[State]:
        """These validation rows at the boundary, in this order, without variation."""

    def give_room(self) -> bool:
        """Let go of what is held on the device for speed alone, and get by without; whether there was any."""

    def close(self) -> None:
        """Give back what was stored."""


class PrefixMaker(Protocol):
    """Makes the prefix of a phase; a value that the loop is given, so that tests can give another."""

    def make(
        self, phase: Phase, boundary: int, *, rounds: int, stored: tuple[int, ...] | None = None
    ) -> Prefix:
        """The prefix below ``boundary``, which will be read in ``rounds`` rounds.

        ``stored``: what ``Prefix.stored`` was when this phase was begun, or None to decide now. Raises StoppedError
        where it was asked to stop meanwhile.
        """

    def close(self) -> None:
        """Give back what is kept for phases to come."""


@dataclass(eq=False)
class PlainPrefix:
    """Runs the frozen stages for every batch, without gradients: by ``executor``, or where there is none by PyTorch."""

    backbone: Backbone
    task: Task
    boundary: int
    reason: str
    executor: Executor | None = None
    stored: tuple[int, ...] = ()
    precision: Precision = "fp32"

    def train_batch(self, rows: NDArray[np.intp], round_: int) -> State:
        """See ``Prefix``."""
        return self._up(self.task.train.inputs.batch(rows, round_))

    def val_batches(self, rows: NDArray[np.intp], batch_size: int) -> Iterator[State]:
        """See ``Prefix``."""
        assert self.task.val is not None
        for start in range(0, len(rows), batch_size):
            yield self._up(self.task.val.inputs.batch(rows[start : start + batch_size], None))

    def give_room(self) -> bool:
        """Nothing is held."""
        return False

    def close(self) -> None:
        """Nothing is stored."""

    def _up(self, state: State) -> State:
        if self.boundary == 0:
            return state
        if self.executor is not None:
            return self.executor(state).states[0]
        with torch.no_grad(), autocast(self.task.device, self.precision):
            return in_halves(lambda part: self.backbone.run(part, 0, self.boundary), state, joined_states)


@dataclass(frozen=True, eq=False)
class PlainMaker:
    """Makes prefixes that are run by PyTorch for every batch."""

    backbone: Backbone
    task: Task

    def make(
        self, phase: Phase, boundary: int, *, rounds: int, stored: tuple[int, ...] | None = None
    ) -> Prefix:
        """See ``PrefixMaker``."""
        return PlainPrefix(self.backbone, self.task, boundary, "The frozen part is run for every batch.")

    def close(self) -> None:
        """Nothing is kept."""
