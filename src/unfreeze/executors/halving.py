"""Passes without gradients over as many rows as memory has room for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from unfreeze.contracts import State
from unfreeze.errors import LoneError

T = TypeVar("T")

ONE_ROW = "One row alone does not fit into the device's memory: take a smaller backbone or --image-size."


# How memory is refused by what has no error type of its own: a processor's allocator, libraries of NVIDIA, drivers.
# cuDNN says it in other words since version 9.
REFUSALS = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDA error: out of memory",
    "MPS backend out of memory",
)


def is_out_of_memory(problem: RuntimeError) -> bool:
    """Whether it says that memory was refused."""
    return isinstance(problem, torch.OutOfMemoryError) or any(words in str(problem) for words in REFUSALS)


def in_halves(run: Callable[[State], T], state: State, join: Callable[[T, T], T]) -> T:
    """What ``run`` makes of the rows of a state; joined of two halves, cut again as often as needed, where memory ends.

    Raises LoneError where one row alone does not fit.
    """
    rows = len(state.h)
    try:
        return run(state)
    except RuntimeError as problem:
        if not is_out_of_memory(problem):
            raise
    # Outside of the handler, which keeps the failed pass in memory.
    if rows < 2:
        raise LoneError(ONE_ROW)
    torch.cuda.empty_cache()
    upper, lower = state.rows(slice(None, rows // 2)), state.rows(slice(rows // 2, None))
    return join(in_halves(run, upper, join), in_halves(run, lower, join))


def joined_states(first: State, second: State) -> State:
    """The rows of both, which are padded alike."""
    mask = None if first.mask is None or second.mask is None else torch.cat([first.mask, second.mask])
    # To take them for padded is never wrong.
    full = first.full if first.full == second.full else False
    return State(torch.cat([first.h, second.h]), mask, full=full)


def joined_tensors(first: Iterable[Tensor], second: Iterable[Tensor]) -> list[Tensor]:
    """The rows of each two that stand in the same place."""
    return [torch.cat(pair) for pair in zip(first, second, strict=True)]
