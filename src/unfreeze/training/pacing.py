"""How long the batches of a phase take: measured by running a few of them, on a copy of the network."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unfreeze.choose.cost import Line, Pace, line_through
from unfreeze.contracts import Backbone, Executor, State
from unfreeze.engine.activations import Activations, ActivationWriter, HalfOverflowError
from unfreeze.engine.devices import Precision, peak_bytes, wait_for
from unfreeze.engine.pairing import batches_of
from unfreeze.engine.phase_precision import FEW_STEPS, LEAST_GAIN, choosing_seconds
from unfreeze.engine.scaling import first_scale
from unfreeze.engine.sharding import Shards
from unfreeze.engine.state import Standing, copied, trainable
from unfreeze.engine.stepping import Stepper, build_optimizer
from unfreeze.engine.suffix import Suffix
from unfreeze.engine.trainable import Group, select, set_modes
from unfreeze.plan import Phase, Plan

if TYPE_CHECKING:
    from unfreeze.engine.inputs import Inputs
    from unfreeze.engine.storing import StoringMaker
    from unfreeze.engine.task import Task

# A batch is timed twice, and once more where that fits into so many seconds.
REPEATS, REPEAT_SECONDS = 3, 1.0
# A batch that would take longer is cut, and its rows counted in proportion.
SLOW_SECONDS = 3.0
# Steps are taken at this share of their rates: the weights of a copy must not run away while it is timed.
TINY = 1e-6
# Batches of an epoch that are looked at for their length.
LOOKED_AT = 8
# A small batch has this share of the rows of a large one.
SMALL = 4


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of a task with their raw state, and the state at the boundary where there is one."""

    rows: NDArray[np.intp]
    raw: State
    below: State | None = None

    @property
    def units(self) -> float:
        """Images, or tokens with padding."""
        return float(self.raw.h.shape[0] * (1 if self.raw.mask is None else self.raw.h.shape[1]))

    @property
    def state(self) -> State:
        """What a step of the phase begins with."""
        return self.raw if self.below is None else self.below

    def sent(self, device: torch.device) -> Batch:
        """The same, with that on the device."""
        state = self.state.map(lambda tensor: tensor.to(device))
        return replace(self, raw=state) if self.below is None else replace(self, below=state)

    def cut(self, rows: int) -> Batch:
        """The first rows."""
        below = None if self.below is None else self.below.rows(slice(rows))
        return Batch(self.rows[:rows], self.raw.rows(slice(rows)), below)


@dataclass(frozen=True, eq=False)
class Pacer:
    """Measures phases of a plan on a network, which is a copy: its weights and modes change."""

    plan: Plan
    network: Backbone
    head: nn.Module
    task: Task
    maker: StoringMaker

    def measure(self, phase: Phase, *, steps: int) -> Pace:
        """The pace of the phase, of which ``steps`` steps are to come."""
        boundary = phase.boundary(len(self.network.stages))
        device = self.task.device
        self.network.module.to(device).eval()
        self.head.to(device)
        groups = select(self.network, self.head, phase)
        train, size, pairs = self.task.train, self.plan.batch_size, phase.objective == "pairs"
        found = batches_of(train.inputs, train.y, pairs=pairs, seed=0, epoch=0, batch_size=size)
        batches = some_batches(train.inputs, found)
        small, large = two_batches(batches)
        # The batch with the most units, of those that are looked at, decides the memory.
        longest = batches[-1]
        few = a_few(longest)
        inputs = time_line(lambda batch: self._load(batch.rows), small, large)
        frozen, read, write = Line(), Line(), Line()
        building = unit_bytes = 0.0
        if boundary:
            began = time.perf_counter()
            executor = self.maker.build((boundary,))
            building = time.perf_counter() - began
            small, large, few = (_below(executor, batch) for batch in (small, large, few))
            frozen = time_line(lambda batch: executor(batch.raw), small, large)
            read, write = self._store(small, large)
            unit_bytes = _numbers(large) / large.units * (2 if self.maker.half else 4)
        # A step finds its batch on the device. What sending it takes is counted where it is read from the store; what
        # runs the frozen part for every batch has it there.
        small, large, few = (batch.sent(device) for batch in (small, large, few))
        step, choosing = self._steps(phase, groups, boundary, small, large, steps)
        # Before it stores, a training measures the same in its own way, on one batch.
        measuring = 0.0
        if boundary and self.maker.use != "off":
            measuring = inputs.batch(large.units) + 2 * frozen.batch(large.units)
            measuring += 2 * len(self.task.precisions) * step.batch(large.units)
        return Pace(
            input=inputs,
            step=step,
            judged=self._judged(boundary, small, large),
            frozen=frozen,
            read=read,
            write=write,
            preparing=building + measuring + choosing,
            unit_bytes=unit_bytes,
            memory_bytes=self._memory(phase, groups, boundary, few, longest.units),
        )

    def _load(self, rows: NDArray[np.intp]) -> None:
        self.task.train.inputs.batch(rows, 0)
        wait_for(self.task.device)

    def _store(self, small: Batch, large: Batch) -> tuple[Line, Line]:
        """Reading and writing stored activations; zero where they cannot be stored at all."""
        self.maker.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="pace-", dir=self.maker.folder))
        written: dict[str, Activations] = {}

        def name(batch: Batch) -> str:
            return f"{batch.rows[0]}-{len(batch.rows)}"

        def write(batch: Batch) -> None:
            places, count = np.arange(len(batch.rows)), len(batch.rows)
            assert batch.below is not None
            with ActivationWriter(folder / name(batch), rows=count, half=self.maker.half) as writer:
                writer.add(places, batch.below)
            written[name(batch)] = writer.mapped()

        def read(batch: Batch) -> None:
            # Where one of the two is slow and the other is not, they are timed on other parts of a batch.
            if name(batch) not in written:
                write(batch)
            written[name(batch)].read(np.arange(len(batch.rows)), self.task.device)
            wait_for(self.task.device)

        try:
            writing = time_line(write, small, large)
            return time_line(read, small, large), writing
        except (HalfOverflowError, OSError):
            return Line(), Line()
        finally:
            written.clear()
            shutil.rmtree(folder, ignore_errors=True)

    def _steps(
        self, phase: Phase, groups: Sequence[Group], boundary: int, small: Batch, large: Batch, steps: int
    ) -> tuple[Line, float]:
        """A step in the precision that the phase would choose, and what choosing it takes."""
        candidates = self.task.precisions[: 1 if 0 < steps < FEW_STEPS else 2]
        lines = [
            self._step(phase, groups, boundary, small, large, precision, steps) for precision in candidates
        ]
        if len(lines) == 1:
            return lines[0], 0.0
        high, low = (line.batch(large.units) for line in lines)
        taken = lines[1] if low <= (1 - LEAST_GAIN) * high else lines[0]
        return taken, choosing_seconds(high, low)

    def _step(
        self,
        phase: Phase,
        groups: Sequence[Group],
        boundary: int,
        small: Batch,
        large: Batch,
        precision: Precision,
        steps: int,
    ) -> Line:
        optimizer = build_optimizer(groups, self.task.device)
        live = trainable(groups)
        suffix = Suffix(self.network, boundary, self.task.device, precision, steps=steps)
        stepper = Stepper(
            plan=self.plan,
            suffix=suffix,
            head=self.head,
            task=self.task,
            index=self.plan.phases.index(phase),
            groups=groups,
            optimizer=optimizer,
            standing=Standing(
                ema=copied(live) if self.plan.ema is not None else {},
                scale=first_scale(precision, self.task.device),
            ),
            start=copied(live) if self.plan.pull else {},
            shards=Shards(self.network.module),
            make_room=lambda: False,
            say=lambda _: None,
        )
        set_modes(self.network, self.head, phase)

        def step(batch: Batch) -> None:
            # On an accelerator the loss is not looked at: nothing would wait for it.
            stepper.take(batch.state, batch.rows, factor=TINY)
            wait_for(self.task.device)

        try:
            # A part of a batch is never replayed, and would not tell what a replayed one takes.
            replayed = suffix.captures and large.raw.mask is None
            return time_line(step, large if replayed else small, large)
        finally:
            suffix.close()
            self.network.module.eval()
            self.head.eval()

    def _judged(self, boundary: int, small: Batch, large: Batch) -> Line:
        suffix = Suffix(self.network, boundary, self.task.device, self.task.precisions[0], steps=0)

        def judge(batch: Batch) -> None:
            with torch.no_grad():
                self.head(suffix(batch.state))
            wait_for(self.task.device)

        return time_line(judge, small, large)

    def _memory(self, phase: Phase, groups: Sequence[Group], boundary: int, few: Batch, units: float) -> int:
        """Bytes of gradients, moments, kept weights, and what the passes of the longest batch hold, by its first rows.

        In the first of the precisions, which holds most: a phase that chooses between two tries both.
        """
        parameters = trainable(groups)
        fewer = few.cut(max(min(2, len(few.rows)), len(few.rows) // 2))
        set_modes(self.network, self.head, phase)
        precision = self.task.precisions[0]
        kept = [(batch.units, self._kept(batch, boundary, precision)) for batch in (fewer, few)]
        self.network.module.eval()
        self.head.eval()
        weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())
        # A gradient, two moments, the weights before the phase and the best ones; averages and a start on request.
        copies = 5 + (self.plan.ema is not None) + bool(self.plan.pull or self.plan.interpolate)
        held = line_through([(units, sum(sizes)) for units, sizes in kept])
        # The backward pass holds a gradient or two of the largest activation beside what was kept.
        largest = line_through([(units, max(sizes, default=0)) for units, sizes in kept])
        return round(copies * weights + held.batch(units) + 2 * largest.batch(units))

    def _kept(self, batch: Batch, boundary: int, precision: Precision) -> list[int]:
        """Bytes of each tensor that a forward pass keeps for the backward pass, but for the network's own."""
        own = {parameter.untyped_storage().data_ptr() for parameter in self.network.module.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        suffix = Suffix(self.network, boundary, self.task.device, precision, steps=1)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            # Held until all are counted: what is freed in between leaves its address to another.
            loss = self.head(suffix(batch.state)).sum()
        del loss
        return list(kept.values())


def time_line(run: Callable[[Batch], object], small: Batch, large: Batch) -> Line:
    """Seconds of a batch by its units; the first run of all warms up and does not count."""
    few = a_few(small)
    _once(run, few)
    # A busy moment must not make a batch look so slow that next to nothing of it is run.
    expected = min(_once(run, few), _once(run, few)) * large.units / few.units
    if expected > SLOW_SECONDS:
        least = len(a_few(large).rows)
        some = large.cut(max(least, int(len(large.rows) * SLOW_SECONDS / expected)))
        return line_through([(some.units, _usual(run, some))])
    if expected < REPEAT_SECONDS / 2:
        _once(run, large)
    if large.units <= small.units:
        return line_through([(large.units, _usual(run, large))])
    return line_through([(batch.units, _usual(run, batch)) for batch in (small, large)])


def _usual(run: Callable[[Batch], object], batch: Batch) -> float:
    """The middle of three runs, or the shorter of two slow ones."""
    found = [_once(run, batch), _once(run, batch)]
    while len(found) < REPEATS and sum(found) < REPEAT_SECONDS:
        found.append(_once(run, batch))
    return statistics.median_low(found)


def _once(run: Callable[[Batch], object], batch: Batch) -> float:
    began = time.perf_counter()
    run(batch)
    return time.perf_counter() - began


def some_batches(inputs: Inputs, found: Sequence[NDArray[np.intp]]) -> list[Batch]:
    """Batches evenly spread over those of an epoch, the most units last; all of a large one take long."""
    places = np.linspace(0, len(found) - 1, min(LOOKED_AT, len(found))).astype(int)
    batches = [Batch(found[place], inputs.batch(found[place], 0)) for place in places]
    return sorted(batches, key=lambda batch: batch.units)


def two_batches(batches: Sequence[Batch]) -> tuple[Batch, Batch]:
    """A small and a large one of these, by rising units; of texts a batch of short ones and one of long ones."""
    if batches[0].raw.mask is not None and len(batches) > 1:
        return batches[len(batches) // 4], batches[3 * len(batches) // 4]
    return a_few(batches[-1]), batches[-1]


def a_few(batch: Batch) -> Batch:
    """The first quarter of a batch; norms that learn need two rows."""
    return batch.cut(max(min(2, len(batch.rows)), len(batch.rows) // SMALL))


def _below(executor: Executor, batch: Batch) -> Batch:
    return Batch(batch.rows, batch.raw, executor(batch.raw).states[0])


def _numbers(batch: Batch) -> float:
    """Numbers of a batch that are stored; padding is not."""
    assert batch.below is not None
    h, mask = batch.below.h, batch.below.mask
    if mask is not None and h.ndim == 3:
        return float(mask.sum()) * h.shape[2]
    return float(h.numel())


def resident_bytes(device: torch.device) -> int:
    """What this process holds now: of the device, or of the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return peak_bytes(device)
    return pages * int(os.sysconf("SC_PAGE_SIZE"))
