"""How far a training moves the features that the backbone gave before it: the measure of forgetting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unfreeze.contracts import Backbone
from unfreeze.data.chance import order
from unfreeze.engine.inputs import Inputs

# Enough for a mean, and few enough to cost less than an epoch; in batches that fit wherever training does.
ROWS = 64
BATCH_ROWS = 32


class Drift:
    """The features of some rows as they were when this was made, at every boundary, to be compared with."""

    def __init__(self, backbone: Backbone, inputs: Inputs, *, seed: int) -> None:
        self._backbone, self._inputs = backbone, inputs
        self._rows = order(seed, 0, len(inputs))[:ROWS]
        self._start = self._features()

    def since_start(self) -> dict[str, float]:
        """Mean over rows of ‖f − f_start‖ / ‖f_start‖, by the name of the stage whose output f is.

        Exactly 0 on the processor where nothing below has changed. Leaves the backbone in evaluation mode.
        """
        return {
            stage.name: _relative(now, start)
            for stage, now, start in zip(self._backbone.stages, self._features(), self._start, strict=True)
        }

    def _features(self) -> list[list[Tensor]]:
        """Plain rows in full precision: for each boundary from 1 on its batches (rows, width), on the CPU."""
        stages = len(self._backbone.stages)
        found: list[list[Tensor]] = [[] for _ in range(stages)]
        self._backbone.module.eval()
        with torch.no_grad():
            for first in range(0, len(self._rows), BATCH_ROWS):
                state = self._inputs.batch(self._rows[first : first + BATCH_ROWS].astype(np.intp), None)
                for stage in range(stages):
                    state = self._backbone.run(state, stage, stage + 1)
                    found[stage].append(self._backbone.summary(state, stage + 1).float().cpu())
        return found


def _relative(now: list[Tensor], start: list[Tensor]) -> float:
    """The mean over the rows of all batches; where a feature was zero, how far it moved counts as it is."""
    parts = []
    for after, before in zip(now, start, strict=True):
        length = before.double().norm(dim=1)
        moved = (after.double() - before.double()).norm(dim=1)
        parts.append(moved / torch.where(length > 0, length, torch.ones_like(length)))
    return float(torch.cat(parts).mean())
