"""Transfer learning that chooses how much to thaw, computes nothing frozen twice, and proves its result.

The names below are loaded on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unfreeze.api import train
    from unfreeze.backbones import load_backbone
    from unfreeze.contracts import Backbone
    from unfreeze.engine.fit import fit
    from unfreeze.errors import DataError, RequestError, UnfreezeError
    from unfreeze.model import Model, load
    from unfreeze.plan import Phase, Plan, Thaw
    from unfreeze.run import Run

_HOMES = {
    "Backbone": "unfreeze.contracts",
    "DataError": "unfreeze.errors",
    "Model": "unfreeze.model",
    "Phase": "unfreeze.plan",
    "Plan": "unfreeze.plan",
    "RequestError": "unfreeze.errors",
    "Run": "unfreeze.run",
    "Thaw": "unfreeze.plan",
    "UnfreezeError": "unfreeze.errors",
    "fit": "unfreeze.engine.fit",
    "load": "unfreeze.model",
    "load_backbone": "unfreeze.backbones",
    "train": "unfreeze.api",
}
__all__ = [
    "Backbone",
    "DataError",
    "Model",
    "Phase",
    "Plan",
    "RequestError",
    "Run",
    "Thaw",
    "UnfreezeError",
    "fit",
    "load",
    "load_backbone",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'unfreeze' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
