"""The frozen prefix of a phase: computed once a (sample, view) and read by every epoch, or run every time.

With P the frozen and S the trained share of a forward pass, an epoch costs P + 3S without the store (a backward pass
is about two forward passes) and 3S with it; filling it costs P a view, and saves decoding and augmenting later.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.contracts import Backbone, Executor, State
from unfreeze.engine.activations import Activations, HalfOverflowError, write_activations
from unfreeze.engine.devices import Precision, autocast, wait_for
from unfreeze.engine.inputs import Inputs
from unfreeze.engine.suffix import Suffix
from unfreeze.plan import Phase

if TYPE_CHECKING:
    from unfreeze.engine.task import Task

Use = Literal["auto", "on", "off"]
# The head and the optimizer take at least this for a batch, however little of the backbone is trained (two cores).
LEAST_STEP_SECONDS = 2.5e-3


class Prefix(Protocol):
    """Where a phase gets its batches from, at its boundary.

    ``precision``: what the phase computes in, here and above; the loop sets it when the phase has chosen.
    """

    boundary: int
    reason: str
    stored: bool
    precision: Precision

    def train_batch(self, rows: NDArray[np.intp], round_: int) -> State:
        """The training rows at the boundary, as they look in this round (epochs of all phases are counted)."""

    def val_batches(self, rows: NDArray[np.intp], batch_size: int) -> Iterator[State]:
        """The validation rows at the boundary, in order, without variation."""

    def close(self) -> None:
        """Give back what was stored."""


class PrefixMaker(Protocol):
    """Makes the prefix of a phase; a value that the loop is given, so that tests can give another."""

    def make(self, phase: Phase, boundary: int, *, rounds: int, stored: bool | None = None) -> Prefix:
        """The prefix below ``boundary``, which will be read in ``rounds`` rounds.

        ``stored``: what was decided when this phase was begun, or None to decide now.
        """


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of a phase with and without the store, from measured stage times.

    ``frozen`` and ``trained`` are seconds a row of the forward pass below and above the boundary; ``input`` is
    decoding, augmenting and moving one row; ``preparing`` are the seconds that building the executor and measuring
    took, either way.
    """

    frozen: float
    trained: float
    input: float
    rows: int
    rounds: int
    views: int
    bytes: int
    preparing: float = 0.0

    @property
    def stored_seconds(self) -> float:
        """Filling, then epochs from the boundary."""
        return self.preparing + self.rows * (
            self.views * (self.frozen + self.input) + self.rounds * 3 * self.trained
        )

    @property
    def plain_seconds(self) -> float:
        """Epochs from the raw rows."""
        return self.preparing + self.rows * self.rounds * (self.input + self.frozen + 3 * self.trained)

    @property
    def epoch_speedup(self) -> float:
        """(P + 3S) / 3S, with the input's share added to P."""
        return (self.input + self.frozen + 3 * self.trained) / max(3 * self.trained, 1e-12)


def weigh_store(estimate: Estimate, *, use: Use, budget: int) -> Literal["pays", "too large", "does not pay"]:
    """Whether a store that may be used (``auto`` or ``on``) is worth filling; ``budget`` in bytes."""
    if estimate.bytes > budget:
        return "too large"
    if use == "auto" and estimate.stored_seconds >= estimate.plain_seconds:
        return "does not pay"
    return "pays"


@dataclass(eq=False)
class PlainPrefix:
    """Runs the frozen stages for every batch, without gradients: by ``executor``, or where there is none by PyTorch."""

    backbone: Backbone
    task: Task
    boundary: int
    reason: str
    executor: Executor | None = None
    stored: bool = False
    precision: Precision = "fp32"

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
        if self.executor is not None:
            below = self.executor(state).state
            assert below is not None
            return below
        with torch.no_grad(), autocast(self.task.device, self.precision):
            return self.backbone.run(state, 0, self.boundary)


@dataclass(frozen=True, eq=False)
class PlainMaker:
    """Makes prefixes that are run by PyTorch for every batch."""

    backbone: Backbone
    task: Task

    def make(self, phase: Phase, boundary: int, *, rounds: int, stored: bool | None = None) -> Prefix:
        """See ``PrefixMaker``."""
        return PlainPrefix(self.backbone, self.task, boundary, "The frozen part is run for every batch.")


@dataclass(eq=False)
class StoredPrefix:
    """Reads activations of stored views; ``folder`` holds the mapped files."""

    train: list[Activations]
    val: Activations | None
    device: torch.device
    boundary: int
    reason: str
    folder: Path | None
    stored: bool = True
    precision: Precision = "fp32"

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

    def make(self, phase: Phase, boundary: int, *, rounds: int, stored: bool | None = None) -> Prefix:
        """See ``PrefixMaker``."""
        if boundary == 0:
            return self._plain(boundary, "Nothing is frozen below it.")
        if self.use == "off":
            return self._plain(boundary, "The store is off (--store off).")
        if stored is False:
            return self._plain(boundary, "The frozen part is run every time.")
        views = min(self.views, rounds) if self.augmented else 1
        started = time.perf_counter()
        executor = self.build(boundary)
        if stored:
            return self._fill(executor, boundary, views, "The frozen part is stored, as before.")
        estimate = self.measure(executor, boundary, rounds=rounds, views=views)
        estimate = replace(estimate, preparing=time.perf_counter() - started)
        if self.estimates is not None:
            self.estimates.append(estimate)
        verdict = weigh_store(estimate, use=self.use, budget=self.budget)
        if verdict == "too large":
            return self._plain(
                boundary,
                f"The store would take {estimate.bytes / 1e9:.2f} GB, more than --store-budget "
                f"({self.budget / 1e9:.2f} GB): the frozen part is run every epoch.",
                executor,
            )
        told = (
            f"predicted {estimate.stored_seconds:.0f} s with the store, {estimate.plain_seconds:.0f} s without "
            f"(an epoch {estimate.epoch_speedup:.1f} times faster, {estimate.bytes / 1e6:.0f} MB, {views} views)"
        )
        if verdict == "does not pay":
            return self._plain(boundary, f"The store does not pay: {told}.", executor)
        return self._fill(executor, boundary, views, f"The frozen part is stored: {told}.")

    def measure(self, executor: Executor, boundary: int, *, rounds: int, views: int) -> Estimate:
        """Seconds a row below and above the boundary, and bytes of the store, from one warm batch each."""
        train, val = self.task.train.inputs, self.task.val
        rows = np.arange(min(self.batch_size, len(train)))
        started = time.perf_counter()
        raw = train.batch(rows, 0)
        wait_for(self.task.device)
        loading = time.perf_counter() - started
        executor(raw)
        started = time.perf_counter()
        state = executor(raw).state
        below = time.perf_counter() - started
        assert state is not None
        if state.mask is not None and state.h.ndim == 3:
            # Padding is not stored.
            numbers = int(state.mask.sum()) * state.h.shape[2] / len(rows)
        else:
            numbers = state.h[0].numel()
        return Estimate(
            frozen=below / len(rows),
            trained=self._time_suffix(state, boundary, steps=rounds * -(-len(train) // self.batch_size)),
            input=loading / len(rows),
            rows=len(train),
            rounds=rounds,
            views=views,
            bytes=round((len(train) * views + (0 if val is None else len(val.inputs))) * numbers)
            * (2 if self.half else 4),
        )

    def _time_suffix(self, state: State, boundary: int, *, steps: int) -> float:
        """Seconds a row of a third of a forward and backward pass above the boundary: what the formula calls S.

        Run as the ``steps`` to come will be; of the precisions that the phase will choose from, the faster one counts.
        """
        parameters = [p for p in self.backbone.module.parameters() if p.requires_grad]
        rows = len(state.h)
        best = float("inf")
        # Measuring must not change the statistics of norms.
        self.backbone.module.eval()
        for precision in self.task.precisions:
            suffix = Suffix(self.backbone, boundary, self.task.device, precision, steps=steps)
            for _ in range(2):
                started = time.perf_counter()
                while not self._try_suffix(suffix, state, rows, parameters):
                    rows = max(1, rows // 2)
                    started = time.perf_counter()
                best = min(best, (time.perf_counter() - started) / rows)
            suffix.close()
        return max(best, LEAST_STEP_SECONDS / self.batch_size) / 3

    def _try_suffix(self, suffix: Suffix, state: State, rows: int, parameters: Sequence[Tensor]) -> bool:
        """One pass over the first rows; False when the device has no memory for so many."""
        device = self.task.device
        mask = None if state.mask is None else state.mask[:rows].to(device)
        try:
            out = suffix(State(state.h[:rows].to(device), mask))
            if parameters and out.requires_grad:
                torch.autograd.grad(out.square().sum(), parameters, allow_unused=True)
            wait_for(device)
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
            return False
        return True

    def _plain(self, boundary: int, reason: str, executor: Executor | None = None) -> PlainPrefix:
        """``executor``: the one at hand, if any."""
        # It hands its states over in the processor's memory: beside an accelerator that would be a detour.
        if self.task.device.type != "cpu" or boundary == 0:
            return PlainPrefix(self.backbone, self.task, boundary, reason)
        fast = self.build(boundary) if executor is None else executor
        return PlainPrefix(self.backbone, self.task, boundary, reason, fast)

    def _fill(self, executor: Executor, boundary: int, views: int, reason: str) -> Prefix:
        folder: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="prefix-", dir=self.folder))
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
            return StoredPrefix(train, val, self.task.device, boundary, reason, folder)
        except HalfOverflowError:
            why = "An activation does not fit into half precision"
        except OSError as problem:
            why = f"The store could not be written ({problem.strerror or problem})"
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return self._plain(boundary, f"{why}: the frozen part is run every epoch.", executor)

    def _compute(self, executor: Executor, inputs: Inputs, view: int | None, path: Path) -> Activations:
        def states() -> Iterator[tuple[NDArray[np.intp], State]]:
            # An epoch's batches are those of least padding, so the fill uses them too.
            for rows in inputs.batches(0, 0, self.batch_size):
                state = executor(inputs.batch(rows, view)).state
                assert state is not None
                yield rows, state

        return write_activations(path, states(), rows=len(inputs), half=self.half)


class ExecutorBuilder(Protocol):
    """Gives the executor of the stages below a boundary, which keeps the state there."""

    def __call__(self, boundary: int) -> Executor:
        """The executor; its states come on the CPU in float32."""
