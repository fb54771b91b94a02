"""The trained stages of a phase as one function of a batch, replayed as a captured graph where that is faster.

On a GPU the processor hands over a network's many small kernels more slowly than they run: a step of DINOv2 ViT-S at
batch 32 took 45 ms when each was launched by itself and 13 ms as a graph (H100), which is launched as a whole.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from unfreeze.contracts import Backbone, State
from unfreeze.engine.devices import Precision, autocast
from unfreeze.engine.kernels import ProcessorKernels
from unfreeze.engine.trainable import moving_statistics
from unfreeze.executors.allocator import keep_freed_memory

# Capturing costs about as much as this many steps save.
LEAST_STEPS = 50


class Suffix:
    """Runs the stages from ``boundary`` on in ``precision``; pooled features (batch, dim) in float32.

    ``steps``: how many batches are to come; with enough of them on a GPU the first replayable batch is captured, in the
    modes that its modules are in, and batches of its shape are replayed. ``say`` is told that, or that it fails.
    """

    def __init__(
        self,
        backbone: Backbone,
        boundary: int,
        device: torch.device,
        precision: Precision,
        *,
        steps: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.precision = precision
        if device.type == "cpu":
            keep_freed_memory()
        self._eager = _Part(backbone, boundary, device, precision)
        self._device, self._say, self._steps = device, say, steps
        self._wanted = device.type == "cuda" and steps >= LEAST_STEPS
        self._captured: tuple[torch.Size, torch.dtype] | None = None
        self._replay: Callable[[Tensor], Tensor] | None = None
        self._tried = False

    def __call__(self, state: State, *, replayable: bool = True) -> Tensor:
        """The features, with their way back for gradients.

        ``replayable``: whether a graph may be captured and replayed here. Gradients of a replay lie where the next one
        writes its own, so what is added up over parts of a batch must not be replayed.
        """
        # Texts come in many lengths: a graph for each of them would not pay.
        if not replayable or state.mask is not None or not torch.is_grad_enabled():
            return self._eager.features(state)
        if self._wanted and any(parameter.requires_grad for parameter in self._eager.parameters()):
            self._capture(state.h)
        if self._replay is not None and (state.h.shape, state.h.dtype) == self._captured:
            return self._replay(state.h)
        return self._eager.features(state)

    def moving_statistics(self) -> list[Tensor]:
        """What a pass in the present modes changes beside its gradients."""
        return moving_statistics(self._eager)

    @property
    def captures(self) -> bool:
        """Whether the first replayable batch will be captured, if it is not of texts."""
        return self._wanted

    def close(self) -> None:
        """Give the graph's memory back; what follows is run step by step."""
        self._wanted, self._replay = False, None
        # Capturing replaces the method by one that holds the module, and so the graph.
        self._eager.__dict__.pop("forward", None)
        if self._tried:
            # What holds a graph is a class that is made for it, and a class is never freed by its last reference.
            gc.collect()
            torch.cuda.empty_cache()
            self._tried = False

    def _capture(self, h: Tensor) -> None:
        self._wanted, self._tried = False, True
        # The captured pass holds the nodes that add up gradients, so that PyTorch meets them on the stream of the
        # capture ever after. It waits for that stream, and from 2.10 on also warns.
        warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if warn is not None:
            warn(False)
        buffers = {name: buffer.clone() for name, buffer in self._eager.named_buffers()}
        problem = None
        with torch.random.fork_rng(devices=[self._device]):
            try:
                # PyTorch does not come back from the stream of a capture whose end raises.
                with torch.cuda.stream(torch.cuda.current_stream(self._device)):
                    self._rehearse(h)
                    # Two of the three runs that it warms up by are done.
                    replay = torch.cuda.make_graphed_callables(
                        self._eager, (h.clone(),), num_warmup_iters=1, allow_unused_input=True
                    )
                self._replay = cast("Callable[[Tensor], Tensor]", replay)
                self._captured = h.shape, h.dtype
            except RuntimeError as raised:
                # Memory ran out, or the network does something that a graph cannot hold.
                problem = str(raised).splitlines()[0]
        if problem is not None:
            # Outside of the handler, which keeps the failed pass in memory.
            torch.cuda.synchronize(self._device)
            self.close()
            self._say(f"The trained part is run kernel by kernel: it could not be captured ({problem}).")
        else:
            self._say(
                f"The trained part is captured as a graph: {self._steps:,} steps are to come, and it pays from "
                f"{LEAST_STEPS} on."
            )
        # The trial runs have moved the statistics of norms.
        for name, buffer in self._eager.named_buffers():
            buffer.copy_(buffers[name])

    def _rehearse(self, h: Tensor) -> None:
        """Run both passes twice; RuntimeError where the second time the program would wait for the device.

        That breaks a capture off, after which PyTorch's allocator, and in some versions its generator, goes on as
        within one (``CUDAGraph::capture_end``). What a first pass brings to the device may be waited for.
        """
        trained = [parameter for parameter in self._eager.parameters() if parameter.requires_grad]

        def run() -> None:
            features = self._eager(h)
            if features.requires_grad:
                torch.autograd.grad(features, trained, torch.ones_like(features), allow_unused=True)

        run()
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            # That not all waiting is found is no news for whoever trains.
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            try:
                torch.cuda.set_sync_debug_mode("error")
                run()
            finally:
                torch.cuda.set_sync_debug_mode(before)


class _Part(nn.Module):
    """The stages as a module, as capturing wants it: its parameters are the backbone's."""

    def __init__(self, backbone: Backbone, boundary: int, device: torch.device, precision: Precision) -> None:
        super().__init__()
        self.module = backbone.module
        self._run = (backbone, boundary, device, precision)
        self._channels_last = any(
            isinstance(module, nn.Conv2d) for module in _modules_from(backbone, boundary)
        )

    def forward(self, h: Tensor) -> Tensor:
        return self.features(State(h))

    def features(self, state: State) -> Tensor:
        backbone, boundary, device, precision = self._run
        if self._channels_last and boundary and state.h.dim() == 4:
            # As pictures come. A step from Lite0's blocks.5 on: 10.8 ms a row so, 16.5 as stored (EPYC, 2 cores).
            state = replace(state, h=state.h.contiguous(memory_format=torch.channels_last))
        quick = device.type == "cpu" and torch.is_grad_enabled()
        with autocast(device, precision), ProcessorKernels() if quick else nullcontext():
            return backbone.run(state, boundary, None).h.float()


def _modules_from(backbone: Backbone, boundary: int) -> Iterator[nn.Module]:
    """The modules that hold parameters or buffers of the stages from ``boundary`` on."""
    held = {tensor.rpartition(".")[0] for stage in backbone.stages[boundary:] for tensor in stage.tensors}
    return (module for name, module in backbone.module.named_modules() if name in held)
