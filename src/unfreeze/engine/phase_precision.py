"""Which precision a phase computes in: the lower one only where a step is measurably faster in it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unfreeze.amounts import counted, duration
from unfreeze.contracts import Backbone
from unfreeze.engine.devices import Precision, wait_for
from unfreeze.engine.suffix import Suffix
from unfreeze.engine.trainable import set_modes
from unfreeze.executors.halving import is_out_of_memory
from unfreeze.plan import Phase

if TYPE_CHECKING:
    from unfreeze.engine.prefix import Prefix
    from unfreeze.engine.task import Task

TIMES = 3
# Seconds of a step in both precisions after which one time is enough: what disturbs a step is far below a tenth of it.
LONG = 2.0
# The same where one is ahead beyond doubt: the lower precision below this share of the other's time, or above it.
FAIRLY_LONG, CLEAR = 0.2, 0.75
# Of fewer steps than this half would be gone before it is known how to take them.
FEW_STEPS = 16
# Rounding costs accuracy, so a gain that could be noise does not pay for it.
LEAST_GAIN = 0.1


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision of a phase, and why, as a sentence; empty where there was one alone.

    ``step_seconds``: what a step was measured to take in it, where one was.
    """

    precision: Precision
    reason: str = ""
    step_seconds: float | None = None


def choose_precision(
    backbone: Backbone,
    head: nn.Module,
    *,
    task: Task,
    prefix: Prefix,
    phase: Phase,
    rows: NDArray[np.intp],
    steps: int,
) -> PrecisionChoice:
    """The task's first precision, or its second where a step on ``rows`` takes at least 10 % less time in it.

    ``steps``: how many are to come, 0 where that is not known; for a few nothing is measured. What an earlier run of
    the same training has measured is not measured again.

    Weights, statistics of norms, gradients and generators are as before; the backbone is left in evaluation mode.
    """
    first = task.precisions[0]
    if len(task.precisions) == 1:
        return PrecisionChoice(first)
    if 0 < steps < FEW_STEPS:
        return PrecisionChoice(
            first, f"Phase {phase.name} computes in {first}: of so few steps none is measured."
        )
    if prefix.stored and prefix.boundary == len(backbone.stages):
        return PrecisionChoice(first, f"Phase {phase.name} computes in {first}: it runs the head alone.")
    name = f"precision of phase {phase.name}"
    if (settled := task.settled.find(name, task.precisions)) is not None:
        return PrecisionChoice(settled, f"Phase {phase.name} computes in {settled}, as in an earlier run.")
    high, low = task.precisions
    # Dropout costs what it costs in training, but no statistic may move.
    set_modes(backbone, head, replace(phase, norm="freeze"))
    seconds, whole = None, len(rows)
    with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
        while seconds is None and len(rows):
            seconds, measured = _time_steps(backbone, head, task, prefix, rows, steps), len(rows)
            if seconds is None and prefix.give_room():
                continue
            rows = rows[: len(rows) // 2]
    backbone.module.eval()
    head.eval()
    if seconds is None:
        return PrecisionChoice(low, f"Phase {phase.name} computes in {low}: memory allows no measurement.")
    before, after = seconds
    if after <= (1 - LEAST_GAIN) * before:
        taken, each = low, after
        reason = f"a step takes {after * 1e3:.1f} ms, {before * 1e3:.1f} ms in {high}"
    else:
        taken, each = high, before
        reason = f"a step takes {before * 1e3:.1f} ms, {after * 1e3:.1f} ms in {low}, which is not 10 % less"
    task.settled.keep(name, taken)
    # Of a part of a batch nobody knows what all of it takes.
    step = each if measured == whole else None
    if steps and step is not None:
        reason += f"; its {counted(steps, 'step')} are to take {duration(step * steps)}"
    return PrecisionChoice(taken, f"Phase {phase.name} computes in {taken}: {reason}.", step)


def choosing_seconds(before: float, after: float) -> float:
    """What ``choose_precision`` takes where a step takes so many seconds in the two precisions."""
    return (before + after) * (1 + _measurements(before, after))


def _measurements(before: float, after: float) -> int:
    """How many steps are measured in each precision where one takes so many seconds in the two."""
    both, doubtful = before + after, CLEAR * before <= after <= before
    return 1 if both >= (LONG if doubtful else FAIRLY_LONG) else TIMES


def _time_steps(
    backbone: Backbone, head: nn.Module, task: Task, prefix: Prefix, rows: NDArray[np.intp], steps: int
) -> tuple[float, float] | None:
    """Seconds of a step in each of the two precisions, the best of up to three; None when memory ran out."""
    best = [float("inf"), float("inf")]
    # As the steps will be run: captured where there are enough of them to come.
    suffixes = [
        Suffix(backbone, prefix.boundary, task.device, precision, steps=steps)
        for precision in task.precisions
    ]
    try:
        # In turns, so that a busy moment does not fall on one of them alone; the first of each warms up.
        for attempt in range(1 + TIMES):
            for place, precision in enumerate(task.precisions):
                prefix.precision = precision
                seconds = _time_step(backbone, head, task, prefix, rows, suffixes[place])
                if attempt:
                    best[place] = min(best[place], seconds)
            if attempt >= _measurements(*best):
                break
    except RuntimeError as problem:
        if not is_out_of_memory(problem):
            raise
        return None
    finally:
        for suffix in suffixes:
            suffix.close()
    return best[0], best[1]


def _time_step(
    backbone: Backbone,
    head: nn.Module,
    task: Task,
    prefix: Prefix,
    rows: NDArray[np.intp],
    suffix: Suffix,
) -> float:
    """Seconds of reading a batch, with the frozen stages where they are not stored, and of both passes above."""
    parameters = [
        parameter
        for module in (backbone.module, head)
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    started = time.perf_counter()
    loss = head(suffix(prefix.train_batch(rows, 0))).square().sum()
    if loss.requires_grad:
        torch.autograd.grad(loss, parameters, allow_unused=True)
    wait_for(task.device)
    return time.perf_counter() - started
