"""The frozen prefix of a phase: computed once a (sample, view) and read by every epoch, or run every time.

With P the frozen and S the trained share of a forward pass, an epoch costs P + 3S without the store (a backward pass
is about two forward passes) and 3S with it; filling it costs P a view, and saves decoding and augmenting later.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.contracts import Backbone, Executor, State
from unfreeze.engine.inputs import LENGTH_MULTIPLE, Inputs
from unfreeze.plan import Phase

if TYPE_CHECKING:
    from unfreeze.engine.fit import Task

Use = Literal["auto", "on", "off"]
HALF_MAX = 65504.0


class Prefix(Protocol):
    """Where a phase gets its batches from, at its boundary."""

    boundary: int
    reason: str

    def train_batch(self, rows: NDArray[np.intp], round_: int) -> State:
        """The training rows at the boundary, as they look in this round (epoch of the phase)."""

    def val_batches(self, rows: NDArray[np.intp], batch_size: int) -> Iterator[State]:
        """The validation rows at the boundary, in order, without variation."""

    def close(self) -> None:
        """Give back what was stored."""


class PrefixMaker(Protocol):
    """Makes the prefix of a phase; a value that the loop is given, so that tests can give another."""

    def make(self, phase: Phase, boundary: int, *, rounds: int) -> Prefix:
        """The prefix below ``boundary``, which will be read in ``rounds`` rounds."""


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of a phase with and without the store, from measured stage times.

    ``frozen`` and ``trained`` are seconds a row of the forward pass below and above the boundary; ``input`` is
    decoding, augmenting and moving one row.
    """

    frozen: float
    trained: float
    input: float
    rows: int
    rounds: int
    views: int
    bytes: int

    @property
    def stored_seconds(self) -> float:
        """Filling, then epochs from the boundary."""
        return self.rows * (self.views * (self.frozen + self.input) + self.rounds * 3 * self.trained)

    @property
    def plain_seconds(self) -> float:
        """Epochs from the raw rows."""
        return self.rows * self.rounds * (self.input + self.frozen + 3 * self.trained)

    @property
    def epoch_speedup(self) -> float:
        """(P + 3S) / 3S, with the input's share added to P."""
        return (self.input + self.frozen + 3 * self.trained) / max(3 * self.trained, 1e-12)


@dataclass(eq=False)
class PlainPrefix:
    """Runs the frozen stages for every batch, without gradients."""

    backbone: Backbone
    task: Task
    boundary: int
    reason: str

    def train_batch(self, rows: NDArray[np.intp], round_: int) -> State:
        """See ``Prefix``."""
        return self._up(self.task.train.inputs.batch(rows, round_))

    def val_batches(self, rows: NDArray[np.intp], batch_size: int) -> Iterator[State]:
        """See ``Prefix``."""
        assert self.task.val is not None
        for start in range(0, len(rows), batch_size):
            yield self._up(self.task.val.inputs.batch(rows[start : start + batch_size], None))

    def close(self) -> None:
        """Nothing is stored."""

    def _up(self, state: State) -> State:
        if self.boundary == 0:
            return state
        with torch.no_grad():
            if self.task.autocast is None:
                return self.backbone.run(state, 0, self.boundary)
            with torch.autocast(self.task.device.type, dtype=self.task.autocast):
                return self.backbone.run(state, 0, self.boundary)


@dataclass(eq=False)
class StoredPrefix:
    """Reads activations of stored views; ``folder`` holds the mapped files."""

    train: list[_Activations]
    val: _Activations | None
    device: torch.device
    boundary: int
    reason: str
    folder: Path | None

    def train_batch(self, rows: NDArray[np.intp], round_: int) -> State:
        """See ``Prefix``; round r reads view r modulo the number of views."""
        return self.train[round_ % len(self.train)].read(rows, self.device)

    def val_batches(self, rows: NDArray[np.intp], batch_size: int) -> Iterator[State]:
        """See ``Prefix``."""
        assert self.val is not None
        for start in range(0, len(rows), batch_size):
            yield self.val.read(rows[start : start + batch_size], self.device)

    def close(self) -> None:
        """Remove the mapped files."""
        self.train, self.val = [], None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(eq=False)
class _Activations:
    """The states of all rows of one view: rows of one shape, or token rows of their own lengths laid end to end."""

    values: NDArray[np.generic]
    starts: NDArray[np.int64] | None

    def read(self, rows: NDArray[np.intp], device: torch.device) -> State:
        if self.starts is None:
            # Reading sorted positions walks the mapped file forwards.
            order = np.argsort(rows, kind="stable")
            block = np.empty((len(rows), *self.values.shape[1:]), dtype=self.values.dtype)
            block[order] = self.values[rows[order]]
            return State(_floats(block, device))
        lengths = self.starts[rows + 1] - self.starts[rows]
        width = int(-(-lengths.max() // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)
        block = np.zeros((len(rows), width, self.values.shape[1]), dtype=self.values.dtype)
        mask = np.zeros((len(rows), width), dtype=bool)
        for position, row in enumerate(rows):
            length = int(lengths[position])
            block[position, :length] = self.values[self.starts[row] : self.starts[row] + length]
            mask[position, :length] = True
        return State(_floats(block, device), torch.from_numpy(mask).to(device))


def _floats(block: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(block).to(device, non_blocking=True).float()


@dataclass(eq=False)
class StoringMaker:
    """Decides for each phase whether storing pays, from measured times, and fills the store when it does.

    ``build`` gives an executor for the stages below a boundary that keeps the state there. ``budget`` is in bytes.
    """

    backbone: Backbone
    task: Task
    views: int
    batch_size: int
    use: Use
    budget: int
    build: ExecutorBuilder
    folder: Path
    augmented: bool
    half: bool = True
    estimates: list[Estimate] | None = None

    def make(self, phase: Phase, boundary: int, *, rounds: int) -> Prefix:
        """See ``PrefixMaker``."""
        if boundary == 0:
            return self._plain(boundary, "Nothing is frozen below it.")
        if self.use == "off":
            return self._plain(boundary, "The store is off (--store off).")
        views = min(self.views, rounds) if self.augmented else 1
        estimate = self.measure(boundary, rounds=rounds, views=views)
        if self.estimates is not None:
            self.estimates.append(estimate)
        if estimate.bytes > self.budget:
            return self._plain(
                boundary,
                f"The store would take {estimate.bytes / 1e9:.2f} GB, more than --store-budget "
                f"({self.budget / 1e9:.2f} GB): the frozen part is run every epoch.",
            )
        told = (
            f"predicted {estimate.stored_seconds:.0f} s with the store, {estimate.plain_seconds:.0f} s without "
            f"(an epoch {estimate.epoch_speedup:.1f} times faster, {estimate.bytes / 1e6:.0f} MB, {views} views)"
        )
        if self.use == "auto" and estimate.stored_seconds >= estimate.plain_seconds:
            return self._plain(boundary, f"The store does not pay: {told}.")
        return self._fill(boundary, views, f"The frozen part is stored: {told}.")

    def measure(self, boundary: int, *, rounds: int, views: int) -> Estimate:
        """Seconds a row below and above the boundary, and bytes of the store, from one warm batch each."""
        rows = np.arange(min(self.batch_size, len(self.task.train.inputs)))
        started = time.perf_counter()
        raw = self.task.train.inputs.batch(rows, 0)
        _wait(self.task.device)
        loading = time.perf_counter() - started
        executor = self.build(boundary)
        executor(raw)
        started = time.perf_counter()
        state = executor(raw).state
        below = time.perf_counter() - started
        assert state is not None
        above = self._time_suffix(state, boundary)
        item = 2 if self.half else 4
        width = state.h[0].numel() * item
        total = len(self.task.train.inputs) * views + (
            0 if self.task.val is None else len(self.task.val.inputs)
        )
        n = len(rows)
        return Estimate(
            frozen=below / n,
            trained=above / n,
            input=loading / n,
            rows=len(self.task.train.inputs),
            rounds=rounds,
            views=views,
            bytes=total * width,
        )

    def _time_suffix(self, state: State, boundary: int) -> float:
        """A third of a forward and backward pass above the boundary: what the formula calls S."""
        moved = State(
            state.h.to(self.task.device), None if state.mask is None else state.mask.to(self.task.device)
        )
        parameters = [p for p in self.backbone.module.parameters() if p.requires_grad]
        best = float("inf")
        for _ in range(2):
            started = time.perf_counter()
            out = self.backbone.run(moved, boundary, None).h
            if parameters and out.requires_grad:
                torch.autograd.grad(out.square().sum(), parameters, allow_unused=True)
            _wait(self.task.device)
            best = min(best, time.perf_counter() - started)
        return best / 3

    def _plain(self, boundary: int, reason: str) -> PlainPrefix:
        return PlainPrefix(self.backbone, self.task, boundary, reason)

    def _fill(self, boundary: int, views: int, reason: str) -> Prefix:
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="prefix-", dir=self.folder))
        executor = self.build(boundary)
        try:
            train = [
                self._compute(
                    executor,
                    self.task.train.inputs,
                    view if self.augmented else None,
                    folder / f"train{view}",
                )
                for view in range(views)
            ]
            val = None
            if self.task.val is not None:
                val = self._compute(executor, self.task.val.inputs, None, folder / "val")
        except _OverflowError:
            shutil.rmtree(folder, ignore_errors=True)
            return self._plain(
                boundary,
                "An activation does not fit into half precision: the frozen part is run every epoch.",
            )
        except OSError as problem:
            shutil.rmtree(folder, ignore_errors=True)
            return self._plain(
                boundary,
                f"The store could not be written ({problem.strerror or problem}): the frozen part is run every epoch.",
            )
        return StoredPrefix(train, val, self.task.device, boundary, reason, folder)

    def _compute(self, executor: Executor, inputs: Inputs, view: int | None, path: Path) -> _Activations:
        kind = np.float16 if self.half else np.float32
        # An epoch's batches are those of least padding, so the fill uses them too.
        batches = inputs.batches(0, 0, self.batch_size)
        values: NDArray[np.generic] | None = None
        starts: NDArray[np.int64] | None = None
        ragged: dict[int, NDArray[np.generic]] = {}
        for rows in batches:
            state = executor(inputs.batch(rows, view)).state
            assert state is not None
            block = state.h.numpy()
            if self.half and not float(np.abs(block).max()) <= HALF_MAX:
                raise _OverflowError
            if state.mask is not None and block.ndim == 3:
                sizes = state.mask.sum(1).tolist()
                for position, row in enumerate(rows):
                    ragged[int(row)] = block[position, : sizes[position]].astype(kind)
                continue
            if values is None:
                values = np.memmap(path, dtype=kind, mode="w+", shape=(len(inputs), *block.shape[1:]))
            values[rows] = block.astype(kind)
        if ragged:
            lengths = np.array([len(ragged[row]) for row in range(len(inputs))])
            starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            values = np.memmap(path, dtype=kind, mode="w+", shape=(int(starts[-1]), ragged[0].shape[1]))
            for row, block in ragged.items():
                values[starts[row] : starts[row + 1]] = block
        assert values is not None
        return _Activations(values, starts)


class ExecutorBuilder(Protocol):
    """Gives the executor of the stages below a boundary, which keeps the state there."""

    def __call__(self, boundary: int) -> Executor:
        """The executor; its states come on the CPU in float32."""


class _OverflowError(Exception):
    """A value that half precision cannot hold."""


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
