"""What a training is given, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.engine.inputs import Inputs
from unfreeze.engine.ledger import PhaseRecord
from unfreeze.errors import UnfreezeError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one part: raw inputs, and class indices (rows,)."""

    inputs: Inputs
    y: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a plan is run on. ``val`` may be None: then the last weights are taken. ``class_weight`` (classes,)."""

    train: Rows
    val: Rows | None
    seed: int
    device: torch.device
    class_weight: NDArray[np.float32] | None = None
    autocast: torch.dtype | None = None
    checkpoint_epochs: int = 1


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history; rates by group, log-loss in nats (after the best temperature), shares in 0..1."""

    phase: str
    epoch: int
    train_loss: float
    val_log_loss: float | None
    val_accuracy: float | None
    seconds: float
    rows_per_second: float
    wait_share: float
    peak_bytes: int
    rates: Mapping[str, float]


@dataclass
class Fit:
    """What a plan came to: the history, the ledger, and which weights were taken. The backbone was trained in place."""

    history: list[EpochRecord] = field(default_factory=list)
    ledger: list[PhaseRecord] = field(default_factory=list)
    taken: str = "start"
    mix: float = 1.0
    seconds: float = 0.0


class StoppedError(UnfreezeError):
    """Training was asked to stop; it is saved and continues with --resume."""

    exit_status = 75


def autocast(task: Task) -> AbstractContextManager[object]:
    """The precision that a task computes in on its own device."""
    import torch

    return nullcontext() if task.autocast is None else torch.autocast(task.device.type, dtype=task.autocast)
