"""Transfer learning that chooses how much to thaw, computes nothing frozen twice, and proves its result.

The names below are loaded on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unfreeze.api import train
    from unfreeze.backbones import load_backbone
    from unfreeze.errors import DataError, RequestError, UnfreezeError
    from unfreeze.model import Model, load
    from unfreeze.run import Run

_HOMES = {
    "DataError": "unfreeze.errors",
    "Model": "unfreeze.model",
    "RequestError": "unfreeze.errors",
    "Run": "unfreeze.run",
    "UnfreezeError": "unfreeze.errors",
    "load": "unfreeze.model",
    "load_backbone": "unfreeze.backbones",
    "train": "unfreeze.api",
}
__all__ = ["DataError", "Model", "RequestError", "Run", "UnfreezeError", "load", "load_backbone", "train"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'unfreeze' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
