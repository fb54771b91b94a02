"""What a training is given, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from unfreeze.engine.devices import Precision
from unfreeze.engine.inputs import Inputs
from unfreeze.engine.ledger import PhaseRecord
from unfreeze.engine.ranks import ALONE, Ranks
from unfreeze.engine.settled import Settled
from unfreeze.errors import RequestError

if TYPE_CHECKING:
    import torch


# What a killed training loses at most, beside the epoch it was in. Saving 86 MB of weights, their averages and moments
# after every epoch took 40 % of the time of a fine-tuning on an H100.
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one part: raw inputs, and class indices (rows,), counted from 0. RequestError for other ones."""

    inputs: Inputs
    y: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not (isinstance(self.y, np.ndarray) and self.y.dtype == np.int64 and self.y.ndim == 1):
            kind = (
                f"{self.y.dtype} {self.y.shape}" if isinstance(self.y, np.ndarray) else type(self.y).__name__
            )
            raise RequestError(
                f"Rows: y must be an int64 array (rows,) of class indices, and {kind} is none: "
                "number the classes, then use numpy.asarray(y, dtype=numpy.int64)."
            )
        if len(self.y) != len(self.inputs):
            raise RequestError(
                f"Rows: {len(self.inputs)} inputs have {len(self.y)} labels: give each its own."
            )
        if len(self.y) and self.y.min() < 0:
            raise RequestError(f"Rows: y holds {self.y.min()}: number the classes from 0 on.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a plan is run on. ``val`` may be None: then the last weights are taken. ``class_weight`` (classes,).

    ``precisions``: one for all phases, or two (the exact one first) of which each phase takes what it measures.
    ``ranks``: the processes that run the plan together, each of which was given the same. ``settled``: what measuring
    has decided before.
    """

    train: Rows
    val: Rows | None
    seed: int
    device: torch.device
    class_weight: NDArray[np.float32] | None = None
    precisions: tuple[Precision, ...] = ("fp32",)
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    ranks: Ranks = ALONE
    settled: Settled = field(default_factory=Settled)


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


@dataclass(frozen=True, eq=False)
class Judged:
    """What weights are worth on validation rows.

    ``losses``: in nats after the best temperature, each times its class's weight, whose mean is 1; and accuracy.
    """

    losses: NDArray[np.float64]
    accuracy: float

    @property
    def log_loss(self) -> float:
        """The mean of the losses."""
        return float(self.losses.mean())


@dataclass(frozen=True, eq=False)
class Kept:
    """Weights that were not taken: the ``best`` or the ``last`` ones, and what they are worth.

    ``tensors``: by name, for ``engine.state.Weights`` to put in place.
    """

    name: Literal["best", "last"]
    judged: Judged
    tensors: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Decided:
    """What a phase decided when it began, and why, as sentences: what it measured then is not measured again.

    ``stored``: whether its frozen prefix was, and ``store`` why; ``precision``: why it computes in the one that the
    ledger has.
    """

    stored: bool
    store: str
    precision: str


@dataclass
class Fit:
    """What a plan came to: the history, the ledger, and which weights were taken. The backbone was trained in place.

    ``decided``: by phase, of those that have begun.
    ``kept``: the best weights where the last ones were taken, or the other way round; None where they are the same,
    or only what was taken is wanted.
    """

    history: list[EpochRecord] = field(default_factory=list)
    ledger: list[PhaseRecord] = field(default_factory=list)
    decided: dict[str, Decided] = field(default_factory=dict)
    taken: str = "start"
    mix: float = 1.0
    seconds: float = 0.0
    kept: Kept | None = None
