"""How far a training moves the features that the backbone gave before it: the measure of forgetting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.contracts import Backbone, State
from unfreeze.data.chance import order
from unfreeze.engine.inputs import Inputs
from unfreeze.engine.trainable import judge_mode
from unfreeze.executors.halving import in_halves, joined_states, joined_tensors

# Enough for a mean, and few enough to cost less than an epoch; in batches that fit wherever training does.
ROWS = 64
BATCH_ROWS = 32
# Larger states of all rows are not kept: 64 pictures behind the first convolution take up to half a gigabyte.
MOST_KEPT_BYTES = 1 << 27


class Drift:
    """The features of some rows as they were when this was made, to be compared with.

    ``lowest``: the boundary below which nothing is going to change. What stands there is kept, so that later looks run
    only what lies above it; without anything above it there is nothing to run.
    """

    def __init__(self, backbone: Backbone, inputs: Inputs, *, seed: int, lowest: int = 0) -> None:
        self._backbone, self._inputs, self._lowest = backbone, inputs, lowest
        self._rows = order(seed, 0, len(inputs))[:ROWS]
        self._kept: list[State] | None = None
        self._start = self._features(keep=True)

    def since_start(self) -> dict[str, float]:
        """Mean over rows of ‖f − f_start‖ / ‖f_start‖, by the name of the stage whose output f is.

        Exactly 0 below the lowest boundary, and on the processor where nothing below a stage has changed. Leaves the
        backbone in evaluation mode.
        """
        above = self._backbone.stages[self._lowest :]
        moved = {
            stage.name: _relative(now, start)
            for stage, now, start in zip(above, self._features(), self._start, strict=True)
        }
        return self.none() | moved

    def none(self) -> dict[str, float]:
        """What it is where nothing has moved."""
        return {stage.name: 0.0 for stage in self._backbone.stages}

    def _features(self, *, keep: bool = False) -> list[list[Tensor]]:
        """Plain rows in full precision: for each stage above the lowest boundary its batches (rows, width), on the CPU.

        ``keep``: what stands at the lowest boundary, where it is small enough.
        """
        found: list[list[Tensor]] = [[] for _ in self._backbone.stages[self._lowest :]]
        judge_mode(self._backbone.module)
        if not found:
            return found
        kept: list[State] = []
        for place, first in enumerate(range(0, len(self._rows), BATCH_ROWS)):
            state = self._at_lowest(place, self._rows[first : first + BATCH_ROWS].astype(np.intp))
            keep = keep and self._lowest > 0 and is_kept(state, rows=len(self._rows))
            if keep:
                kept.append(_copied(state, torch.device("cpu")))
            for features, summary in zip(
                found, in_halves(self._summaries, state, joined_tensors), strict=True
            ):
                features.append(summary)
        if keep:
            self._kept = kept
        return found

    def _summaries(self, state: State) -> list[Tensor]:
        return [summary for _, summary in passed(self._backbone, state, self._lowest)]

    @torch.no_grad()
    def _at_lowest(self, place: int, rows: NDArray[np.intp]) -> State:
        """The state at the lowest boundary of batch number ``place``, which holds these rows."""
        if self._kept is None:
            raw = self._inputs.batch(rows, None)
            return in_halves(lambda part: self._backbone.run(part, 0, self._lowest), raw, joined_states)
        # A copy on the processor too: a stage may write into what it is given.
        return _copied(self._kept[place], next(self._backbone.module.parameters()).device)


@torch.no_grad()
def passed(backbone: Backbone, state: State, start: int) -> Iterator[tuple[State, Tensor]]:
    """The state behind each stage from ``start`` on, and its features (rows, width) in float32 on the CPU."""
    for stage in range(start, len(backbone.stages)):
        state = backbone.run(state, stage, stage + 1)
        # A copy on the processor too: it may be a view of a state that the next stage writes into.
        yield state, backbone.summary(state, stage + 1).to("cpu", torch.float32, copy=True)


def is_kept(state: State, *, rows: int) -> bool:
    """Whether ``rows`` rows of such a batch are small enough to be kept."""
    return state.h[0].numel() * state.h.element_size() * rows <= MOST_KEPT_BYTES


def _copied(state: State, device: torch.device) -> State:
    return state.map(lambda tensor: tensor.to(device, copy=True))


def _relative(now: list[Tensor], start: list[Tensor]) -> float:
    """The mean over the rows of all batches; where a feature was zero, how far it moved counts as it is."""
    parts = []
    for after, before in zip(now, start, strict=True):
        length = before.double().norm(dim=1)
        moved = (after.double() - before.double()).norm(dim=1)
        parts.append(moved / torch.where(length > 0, length, torch.ones_like(length)))
    return float(torch.cat(parts).mean())
