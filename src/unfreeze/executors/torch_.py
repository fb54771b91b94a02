"""Stages run by PyTorch, on a processor or an accelerator."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from unfreeze.contracts import Backbone, Passed, State
from unfreeze.data.sending import send
from unfreeze.executors.allocator import keep_freed_memory
from unfreeze.executors.halving import in_halves, joined_states, joined_tensors

# Families whose convolutions run faster with channels last: 29 against 24 images a second for
# EfficientNet-Lite0 on two cores (bench/frozen_pass.py).
CONVOLUTIONAL = frozenset({"convnext", "efficientnet", "resnet"})


def run_boundaries(
    backbone: Backbone, batch: State, boundaries: tuple[int, ...], keep: tuple[int, ...]
) -> tuple[tuple[Tensor, ...], tuple[State, ...]]:
    """The float32 summaries at ``boundaries`` and the states at ``keep``, each stage run once."""
    state, done = batch, 0
    summaries, states = [], []
    for boundary in sorted({*boundaries, *keep}):
        state = backbone.run(state, done, boundary)
        done = boundary
        if boundary in boundaries:
            summaries.append(backbone.summary(state, boundary).float())
        if boundary in keep:
            states.append(state)
    return tuple(summaries), tuple(states)


class TorchExecutor:
    """Eager PyTorch: float32, or bfloat16 by autocast."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        precision: str,
        boundaries: tuple[int, ...],
        keep: tuple[int, ...] = (),
        threads: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name = f"torch-{precision}"
        self.precision = precision
        self.boundaries = boundaries
        self.device = str(device)
        self._device = torch.device(device)
        if self._device.type == "cpu":
            keep_freed_memory()
        self._backbone = _prepare(backbone, self._device)
        self._keep = keep
        self._threads = threads

    def __call__(self, batch: State) -> Passed:
        """The summaries and the kept states, on the CPU in float32."""
        return in_halves(self._pass, batch, _joined)

    def _pass(self, batch: State) -> Passed:
        # Not inference_mode: a stored state may be the input of a suffix that is trained.
        with torch.no_grad(), _evaluating(self._backbone.module), _limited(self._threads), self._arithmetic():
            moved = batch.map(lambda tensor: send(tensor, self._device))
            summaries, states = run_boundaries(self._backbone, moved, self.boundaries, self._keep)
            passed = Passed(tuple(map(_bring, summaries)), tuple(map(_bring_state, states)))
        if self._device.type == "cuda":
            # The copies into pinned memory run beside the program until here.
            torch.cuda.synchronize(self._device)
        return passed

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self.precision != "fp32":
            return torch.autocast(self._device.type, dtype=torch.bfloat16)
        if self._device.type == "cuda":
            # cuDNN convolves float32 with 10 bits of mantissa unless told otherwise: 3e-3 of Lite0's features.
            return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return nullcontext()


def _prepare(backbone: Backbone, device: torch.device) -> Backbone:
    """The backbone itself, or a copy of it in the layout and on the device that it runs on."""
    convolutional = backbone.family in CONVOLUTIONAL
    if device.type == "cpu" and not convolutional:
        return backbone
    prepared = copy.deepcopy(backbone)
    prepared.module.to(device)
    if convolutional:
        prepared.module.to(memory_format=torch.channels_last)
    return prepared


def _joined(first: Passed, second: Passed) -> Passed:
    states = map(joined_states, first.states, second.states)
    return Passed(tuple(joined_tensors(first.summaries, second.summaries)), tuple(states))


def _bring_state(state: State) -> State:
    return replace(state, h=state.h.float()).map(_bring)


def _bring(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Norm statistics and dropout must not take part; what was in training mode returns to it."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _limited(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
