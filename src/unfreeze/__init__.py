"""Transfer learning that chooses how much to thaw, computes nothing frozen twice, and proves its result.

The names below are loaded on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unfreeze.adapting.adaptation import Adaptation
    from unfreeze.adapting.call import adapt
    from unfreeze.api import train
    from unfreeze.backbones import load_backbone
    from unfreeze.comparing.call import compare
    from unfreeze.comparing.comparison import Comparison
    from unfreeze.contracts import Backbone
    from unfreeze.engine.fit import Rows, Task, fit
    from unfreeze.engine.inputs import ImageInputs, TextInputs
    from unfreeze.errors import DataError, RequestError, UnfreezeError
    from unfreeze.exporting.run import export
    from unfreeze.model import Model, load
    from unfreeze.plan import Adapters, Lora, Phase, Plan, Thaw
    from unfreeze.run import Run

_HOMES = {
    "Adaptation": "unfreeze.adapting.adaptation",
    "Adapters": "unfreeze.plan",
    "Backbone": "unfreeze.contracts",
    "Comparison": "unfreeze.comparing.comparison",
    "DataError": "unfreeze.errors",
    "ImageInputs": "unfreeze.engine.inputs",
    "Lora": "unfreeze.plan",
    "Model": "unfreeze.model",
    "Phase": "unfreeze.plan",
    "Plan": "unfreeze.plan",
    "RequestError": "unfreeze.errors",
    "Rows": "unfreeze.engine.fit",
    "Run": "unfreeze.run",
    "Task": "unfreeze.engine.fit",
    "TextInputs": "unfreeze.engine.inputs",
    "Thaw": "unfreeze.plan",
    "UnfreezeError": "unfreeze.errors",
    "adapt": "unfreeze.adapting.call",
    "compare": "unfreeze.comparing.call",
    "export": "unfreeze.exporting.run",
    "fit": "unfreeze.engine.fit",
    "load": "unfreeze.model",
    "load_backbone": "unfreeze.backbones",
    "train": "unfreeze.api",
}
__all__ = [
    "Adaptation",
    "Adapters",
    "Backbone",
    "Comparison",
    "DataError",
    "ImageInputs",
    "Lora",
    "Model",
    "Phase",
    "Plan",
    "RequestError",
    "Rows",
    "Run",
    "Task",
    "TextInputs",
    "Thaw",
    "UnfreezeError",
    "adapt",
    "compare",
    "export",
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
