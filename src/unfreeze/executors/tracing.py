"""TorchScript traces that are gone when they were used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def traced(module: nn.Module, example: tuple[Any, ...]) -> Iterator[torch.jit.ScriptModule]:
    """The module's trace on ``example``, in evaluation mode as the module is; what tracing has noted goes afterwards.

    PyTorch keeps the types and graphs of every traced module until the process ends: 12 MB for each conversion of
    EfficientNet-Lite0, so that twenty trainings in one process held half a gigabyte (bench/soak.py).
    """
    try:
        with warnings.catch_warnings():
            # Python values that follow from shapes become constants; what that breaks, the measured error shows.
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
            # Tracing looks at every attribute of a module, those its library has deprecated included; torch itself
            # announces that tracing gives way to export, which takes OpenVINO several times as long.
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category)
            trace = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        yield trace
    finally:
        _forget()


def _forget() -> None:
    """What PyTorch's own tests do between two of them; modules that were scripted before stay usable."""
    from torch.jit import _recursive, _state

    torch._C._jit_clear_class_registry()
    _recursive.concrete_type_store = _recursive.ConcreteTypeStore()
    _state._clear_class_state()
