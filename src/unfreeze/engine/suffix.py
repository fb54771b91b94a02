"""The trained stages of a phase as one function of a batch, replayed as a captured graph where that is faster.

On a GPU the processor hands over a network's many small kernels more slowly than they run: a step of DINOv2 ViT-S at
batch 32 spent 36 of its 45 ms on launches (H100, bench/strategies.py). A captured graph is launched as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from unfreeze.contracts import Backbone, State
from unfreeze.engine.devices import Precision, autocast

if TYPE_CHECKING:
    from collections.abc import Callable

# Capturing costs about as much as this many steps save.
LEAST_STEPS = 50


class Suffix:
    """Runs the stages from ``boundary`` on in ``precision``; pooled features (batch, dim) in float32.

    ``steps``: how many batches are to come; with enough of them on a GPU, batches of the first one's shape are
    replayed. Only what is captured in training mode is replayed, so the modules must be in their modes by then.
    """

    def __init__(
        self, backbone: Backbone, boundary: int, device: torch.device, precision: Precision, *, steps: int
    ) -> None:
        self._eager = _Part(backbone, boundary, device, precision)
        self.precision = precision
        self._device = device
        self._wanted = device.type == "cuda" and steps >= LEAST_STEPS
        self._shape: torch.Size | None = None
        self._replay: Callable[[Tensor], Tensor] | None = None

    def __call__(self, state: State) -> Tensor:
        """The features, with their way back for gradients."""
        trained = any(parameter.requires_grad for parameter in self._eager.parameters())
        # Texts come in many lengths: a graph for each of them would not pay.
        if self._wanted and trained and state.mask is None and torch.is_grad_enabled():
            self._capture(state.h)
        if self._replay is not None and state.h.shape == self._shape:
            return self._replay(state.h)
        return self._eager.features(state)

    def _capture(self, h: Tensor) -> None:
        self._wanted = False
        buffers = {name: buffer.clone() for name, buffer in self._eager.named_buffers()}
        with torch.random.fork_rng(devices=[self._device]):
            try:
                replay = torch.cuda.make_graphed_callables(self._eager, (h.clone(),), allow_unused_input=True)
            except torch.OutOfMemoryError:
                # The eager pass may fit; if not, the batch is cut into parts.
                torch.cuda.empty_cache()
                return
            finally:
                # The trial runs have moved the statistics of norms.
                for name, buffer in self._eager.named_buffers():
                    buffer.copy_(buffers[name])
        self._replay, self._shape = cast("Callable[[Tensor], Tensor]", replay), h.shape


class _Part(nn.Module):
    """The stages as a module, as capturing wants it: its parameters are the backbone's."""

    def __init__(self, backbone: Backbone, boundary: int, device: torch.device, precision: Precision) -> None:
        super().__init__()
        self.module = backbone.module
        self._run = (backbone, boundary, device, precision)

    def forward(self, h: Tensor) -> Tensor:
        return self.features(State(h))

    def features(self, state: State) -> Tensor:
        backbone, boundary, device, precision = self._run
        with autocast(device, precision):
            return backbone.run(state, boundary, None).h.float()
