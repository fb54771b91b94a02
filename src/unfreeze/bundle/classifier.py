"""The classifier: a backbone and a head as one function from raw batches to logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unfreeze.contracts import Backbone, State
from unfreeze.heads.head import Head
from unfreeze.runtime.labels import Labels

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Threshold:
    """Below ``probability`` the classifier abstains.

    At or above it the answers on the rows that set it were right with ``precision`` (a lower 95 % bound), for the
    share ``coverage`` of the rows.
    """

    probability: float
    precision: float
    coverage: float


@dataclass(frozen=True)
class Base:
    """The frozen network that an adapter was trained on: where it came from, as ``load_backbone`` reads it.

    ``weights_hash`` is that of its own tensors, before anything was grafted.
    """

    source: str
    weights_hash: str
    image_size: int | None = None
    pooling: str | None = None
    max_length: int | None = None


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that ships without the network below it: its files by name, in PEFT's layout for LoRA."""

    base: Base
    files: Mapping[str, bytes]


@dataclass(frozen=True, eq=False)
class Classifier:
    """What a run ships. ``temperature`` divides the logits before the softmax.

    ``adapter`` where the run keeps that and the head alone; ``backbone`` holds it merged all the same.
    """

    backbone: Backbone
    head: Head
    labels: Labels
    temperature: float = 1.0
    threshold: Threshold | None = None
    adapter: Adapter | None = None

    def logits(self, batch: State) -> Tensor:
        """Raw logits (batch, classes) in fp32 through PyTorch; no gradients."""
        import torch

        with torch.inference_mode():
            return torch.from_numpy(self.head.logits(self.features(batch).cpu().numpy()))

    def features(self, state: State, start: int = 0) -> Tensor:
        """What the head reads, float32 (batch, width), from the state at boundary ``start``; with gradients.

        ValueError when the head reads a boundary below ``start``.
        """
        import torch

        if min(self.head.boundaries) < start:
            raise ValueError(f"the head reads boundaries {self.head.boundaries}, some of them below {start}")
        done, summaries = start, {}
        for boundary in sorted(self.head.boundaries):
            if boundary > done:
                state = self.backbone.run(state, done, boundary)
                done = boundary
            summaries[boundary] = self.backbone.summary(state, boundary).float()
        return torch.cat([summaries[boundary] for boundary in self.head.boundaries], dim=1)
