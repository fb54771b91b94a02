"""Storing the frozen prefix: decided for each phase from measured times, filled once for all phases that can share it.

With P the frozen and S the trained share of a forward pass, an epoch costs P + 3S without the store (a backward pass
is about two forward passes) and 3S with it; filling it costs P a view, and saves decoding and augmenting later. Phases
whose boundary moves toward the input meet each other's boundaries in one pass: nothing frozen is computed twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from unfreeze.amounts import counted, duration, size
from unfreeze.contracts import Backbone, Executor, State
from unfreeze.engine.devices import wait_for
from unfreeze.engine.estimate import Estimate, Use, Verdict, served_together, views_of, weigh_store
from unfreeze.engine.prefix import PlainPrefix, Prefix
from unfreeze.engine.shelf import Shelf, StoredPrefix, UnstoredError, fill_shelf
from unfreeze.engine.suffix import Suffix
from unfreeze.executors.halving import is_out_of_memory
from unfreeze.plan import Phase

if TYPE_CHECKING:
    from unfreeze.engine.task import Task

# The head and the optimizer take at least this for a batch, however little of the backbone is trained (two cores).
LEAST_STEP_SECONDS = 2.5e-3


class ExecutorBuilder(Protocol):
    """Gives the executor of the stages below boundaries."""

    def __call__(self, keep: tuple[int, ...]) -> Executor:
        """The executor that keeps the states at ``keep``; they come on the CPU in float32."""


@dataclass(frozen=True)
class _Reading:
    """A phase as a reader of the store: so many rounds at its boundary."""

    name: str
    boundary: int
    rounds: int


@dataclass(frozen=True)
class _Decision:
    """The boundaries that one pass is to store for these readings; none where the prefix is run every time."""

    passed: tuple[int, ...]
    group: tuple[_Reading, ...]
    reason: str


@dataclass(eq=False)
class StoringMaker:
    """Decides for each phase whether storing pays, from measured times, and fills the store when it does.

    ``phases``: those of the plan, in order, of which a later one may share an earlier one's pass. ``budget`` is in
    bytes. ``estimates`` notes what was expected. ``should_stop`` ends a pass that is under way.
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
    phases: Sequence[Phase] = ()
    half: bool = True
    estimates: list[Estimate] | None = None
    should_stop: Callable[[], bool] = lambda: False
    _shelf: Shelf | None = None
    _expected: dict[_Reading, Estimate] = field(default_factory=dict)
    # The executor that was built last, and what it keeps.
    _built: tuple[tuple[int, ...], Executor] | None = None

    def make(
        self, phase: Phase, boundary: int, *, rounds: int, stored: tuple[int, ...] | None = None
    ) -> Prefix:
        """See ``PrefixMaker``."""
        if self._built is not None and boundary < max(self._built[0]):
            # What it holds a copy of is trained now.
            self._built = None
        if boundary == 0:
            return self._plain(boundary, "Nothing is frozen below it.")
        if self.use == "off":
            return self._plain(boundary, "The store is off (--store off).")
        if stored == ():
            return self._plain(boundary, "The frozen part is run every time.")
        reading = _Reading(phase.name, boundary, rounds)
        if self._shelf is not None and boundary in self._shelf.train:
            return self._read(reading, self._shelf)
        group = [reading, *self._followers(phase)]
        if stored:
            group = [one for one in group if one.boundary in stored]
            return self._fill(stored, group, "The frozen part is stored, as before.")
        # Every process would measure something else: the first decides.
        decision = self.task.ranks.lead(lambda: self._decide(group))
        if not decision.passed:
            return self._plain(boundary, decision.reason)
        return self._fill(decision.passed, list(decision.group), decision.reason)

    def close(self) -> None:
        """See ``PrefixMaker``."""
        self._built = None
        if self._shelf is not None:
            self._shelf.remove()
            self._shelf = None

    def measure(self, executor: Executor, boundary: int, *, rounds: int, views: int) -> Estimate:
        """Seconds a row below and above the boundary, and bytes of the store, from one warm batch each.

        ``executor`` keeps the state at ``boundary`` alone.
        """
        below, state = self._measure_below(executor, rounds=rounds, views=views)
        return replace(below, trained=self._time_suffix(state, boundary, rounds=rounds))

    def _executor(self, keep: tuple[int, ...]) -> Executor:
        if self._built is None or self._built[0] != keep:
            self._built = keep, self.build(keep)
        return self._built[1]

    def _decide(self, group: list[_Reading]) -> _Decision:
        """Whether to fill the store for the first of these, and for those that can share its pass."""
        first, boundary = group[0], group[0].boundary
        started = time.perf_counter()
        executor = self.build((boundary,))
        mine = self.measure(executor, boundary, rounds=first.rounds, views=self._views(first))
        self._expected = {later: self._expect(later) for later in group[1:]}
        mine = replace(mine, preparing=time.perf_counter() - started)
        # One pass gives each phase its views.
        most = max(self._views(one) for one in group)
        estimates = [replace(mine, views=most), *self._expected.values()]
        verdict, whose = self._weigh(group, estimates)
        if verdict != "pays" and len(group) > 1:
            group, estimates = [first], [mine]
            verdict, whose = self._weigh(group, estimates)
        self._note(estimates[0])
        self._built = (boundary,), executor
        if verdict == "too large":
            return _Decision(
                (),
                (first,),
                f"The store would take {size(mine.bytes)}, more than --store-budget "
                f"({size(self.budget)}): the frozen part is run every epoch.",
            )
        told = _tell(estimates, names=[one.name for one in group])
        if verdict == "does not pay":
            return _Decision((), (first,), f"The store does not pay{whose}: {told}.")
        passed = tuple(sorted({one.boundary for one in group}))
        return _Decision(passed, tuple(group), f"The frozen part is stored{whose}: {told}.")

    def _weigh(self, group: list[_Reading], estimates: list[Estimate]) -> tuple[Verdict, str]:
        """Whether the store pays for these phases, and words that say so where an earlier run has decided it."""
        verdict = weigh_store(estimates, use=self.use, budget=self.budget)
        if verdict == "too large" or self.use == "on":
            return verdict, ""
        name = f"store of {', '.join(one.name for one in group)}"
        ways: tuple[Verdict, ...] = ("pays", "does not pay")
        if (settled := self.task.settled.find(name, ways)) is not None:
            return settled, ", as in an earlier run"
        self.task.settled.keep(name, verdict)
        return verdict, ""

    def _read(self, reading: _Reading, shelf: Shelf) -> Prefix:
        """What an earlier phase's pass has stored for this one."""
        boundary, reason = reading.boundary, "The frozen part was stored in an earlier phase's pass"
        if reading in self._expected:
            reason += f": {_tell([self._measure_shelf(reading, shelf)], names=[])}"
        return StoredPrefix(shelf, self._views(reading), self.task.device, boundary, f"{reason}.")

    def _measure_shelf(self, reading: _Reading, shelf: Shelf) -> Estimate:
        """What was expected of a later phase, with what it trains, which can be timed now."""
        boundary = reading.boundary
        started = time.perf_counter()
        rows = np.arange(min(self.batch_size, len(self.task.train.inputs)))
        state = shelf.train[boundary][0].read(rows, torch.device("cpu"))
        trained = self._time_suffix(state, boundary, rounds=reading.rounds)
        preparing = time.perf_counter() - started
        estimate = replace(self._expected[reading], trained=trained, preparing=preparing)
        self._note(estimate)
        return estimate

    def _expect(self, reading: _Reading) -> Estimate:
        """What is known of a later phase that an earlier pass would serve; what it trains cannot be timed yet."""
        executor = self.build((reading.boundary,))
        below, _ = self._measure_below(executor, rounds=reading.rounds, views=self._views(reading))
        return replace(below, views=0)

    def _followers(self, phase: Phase) -> list[_Reading]:
        """The phases after this one that its pass can serve too."""
        if phase not in self.phases:
            return []
        stages, coming = len(self.backbone.stages), self.phases[self.phases.index(phase) :]
        served = coming[1 : served_together(coming, stages)]
        return [_Reading(one.name, one.boundary(stages), one.epochs) for one in served]

    def _views(self, reading: _Reading) -> int:
        return views_of(self.views, reading.rounds, varied=self.augmented)

    def _note(self, estimate: Estimate) -> None:
        if self.estimates is not None:
            self.estimates.append(estimate)

    def _measure_below(self, executor: Executor, *, rounds: int, views: int) -> tuple[Estimate, State]:
        """All but the trained part, and the state of one batch there."""
        train, val = self.task.train.inputs, self.task.val
        rows = np.arange(min(self.batch_size, len(train)))
        # The first one also loads what varies it.
        train.batch(rows, 0)
        wait_for(self.task.device)
        started = time.perf_counter()
        raw = train.batch(rows, 0)
        wait_for(self.task.device)
        loading = time.perf_counter() - started
        executor(raw)
        started = time.perf_counter()
        (state,) = executor(raw).states
        below = time.perf_counter() - started
        if state.mask is not None and state.h.ndim == 3:
            # Padding is not stored.
            numbers = int(state.mask.sum()) * state.h.shape[2] / len(rows)
        else:
            numbers = state.h[0].numel()
        stored = len(train) * views + (0 if val is None else len(val.inputs))
        estimate = Estimate(
            frozen=below / len(rows),
            trained=0.0,
            input=loading / len(rows),
            rows=len(train),
            rounds=rounds,
            views=views,
            bytes=round(stored * numbers) * (2 if self.half else 4),
        )
        return estimate, state

    def _time_suffix(self, state: State, boundary: int, *, rounds: int) -> float:
        """Seconds a row of a third of a forward and backward pass above the boundary: what the formula calls S.

        Run as in ``rounds`` epochs to come; of the precisions that the phase will choose from, the faster one counts.
        """
        parameters = [p for p in self.backbone.module.parameters() if p.requires_grad]
        steps = rounds * -(-len(self.task.train.inputs) // self.batch_size)
        if self.task.ranks.sharding is not None:
            # Steps on weights that are cut are not captured as a graph.
            steps = 0
        rows = len(state.h)
        best = float("inf")
        # Measuring must not change the statistics of norms.
        self.backbone.module.eval()
        for precision in self.task.precisions:
            suffix = Suffix(self.backbone, boundary, self.task.device, precision, steps=steps)
            for _ in range(2):
                while (seconds := self._try_suffix(suffix, state, rows, parameters)) is None:
                    rows = max(1, rows // 2)
                best = min(best, seconds / rows)
            suffix.close()
        return max(best, LEAST_STEP_SECONDS / self.batch_size) / 3

    def _try_suffix(
        self, suffix: Suffix, state: State, rows: int, parameters: Sequence[Tensor]
    ) -> float | None:
        """Seconds of one pass over the first rows; None when the device has no memory for so many."""
        device = self.task.device
        try:
            # The executor hands over in the processor's memory; a step finds its batch on the device.
            first = state.map(lambda tensor: tensor[:rows].to(device))
            wait_for(device)
            started = time.perf_counter()
            out = suffix(first)
            if parameters and out.requires_grad:
                torch.autograd.grad(out.square().sum(), parameters, allow_unused=True)
            wait_for(device)
            return time.perf_counter() - started
        except RuntimeError as problem:
            if rows == 1 or not is_out_of_memory(problem):
                raise
            return None

    def _plain(self, boundary: int, reason: str) -> PlainPrefix:
        # It hands its states over in the processor's memory: beside an accelerator that would be a detour.
        if self.task.device.type != "cpu" or boundary == 0:
            # What the store was weighed with would fill the accelerator's memory all through the phase.
            self._built = None
            return PlainPrefix(self.backbone, self.task, boundary, reason)
        return PlainPrefix(self.backbone, self.task, boundary, reason, self._executor((boundary,)))

    def _fill(self, passed: tuple[int, ...], group: list[_Reading], reason: str) -> Prefix:
        """``group``: the phases to store for, the first of them now."""
        executor = self._executor(passed)
        self.close()
        boundary = group[0].boundary
        views: dict[int, int] = {}
        for one in group:
            views[one.boundary] = max(views.get(one.boundary, 0), self._views(one))
        val = self.task.val
        try:
            self._shelf = fill_shelf(
                self.folder,
                executor,
                passed,
                train=self.task.train.inputs,
                val=None if val is None else val.inputs,
                views=views,
                varied=self.augmented,
                batch_size=self.batch_size,
                half=self.half,
                readers=len(group),
                ranks=self.task.ranks,
                should_stop=self.should_stop,
            )
        except UnstoredError as problem:
            return self._plain(boundary, f"{problem}: the frozen part is run every epoch.")
        return StoredPrefix(self._shelf, self._views(group[0]), self.task.device, boundary, reason)


def _tell(estimates: list[Estimate], *, names: list[str]) -> str:
    """What is expected of a store; ``names``: the phases that one pass fills it for."""
    first = estimates[0]
    room, views = size(sum(one.bytes for one in estimates)), counted(first.views, "view")
    if len(estimates) == 1:
        held = f"{room}, {views}" if first.views else room
        return (
            f"predicted {duration(first.stored_seconds)} with the store, {duration(first.plain_seconds)} without "
            f"(an epoch {first.epoch_speedup:.1f} times faster, {held})"
        )
    filling = first.rows * first.views * (first.frozen + first.input)
    running = sum(one.rows * one.rounds * (one.frozen + one.input) for one in estimates)
    return (
        f"one pass for the phases {', '.join(names)} is predicted to take {duration(filling)}, and running it for each "
        f"of their epochs {duration(running)} ({room}, {views})"
    )
