"""TorchScript traces that are gone when they were used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.jit import _recursive, _state


@contextmanager
def traced(module: nn.Module, example: tuple[Any, ...]) -> Iterator[torch.jit.ScriptModule]:
    """The module's trace on ``example``, in the mode that the module is in; it must not be used after the block.

    PyTorch keeps the types and graphs of every traced module in two places until the process ends: 12 MB for each
    conversion of EfficientNet-Lite0, so that twenty trainings in one process held half a gigabyte (bench/soak.py). For
    the time of a trace these are other places; what was scripted before stays in its own.
    """
    lasting = _state._python_cu, _recursive.concrete_type_store
    unit, store = torch._C.CompilationUnit(), _recursive.ConcreteTypeStore()
    _state._python_cu, _recursive.concrete_type_store = unit, store
    try:
        with warnings.catch_warnings():
            # Python values that follow from shapes become constants; what that breaks, the measured error shows.
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
            # Tracing looks at every attribute of a module, those its library has deprecated included; torch itself
            # announces that tracing gives way to export, which takes OpenVINO several times as long.
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category)
            trace = torch.jit.trace(module, example, check_trace=False, _compilation_unit=unit)  # type: ignore[no-untyped-call]
        yield trace
    finally:
        _state._python_cu, _recursive.concrete_type_store = lasting
