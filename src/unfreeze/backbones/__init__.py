"""Pretrained networks behind one contract; see ``unfreeze.contracts.Backbone``.

Importing this package loads neither torch, timm nor transformers: each function imports what it needs.
"""

from unfreeze.backbones.catalog import BackboneEntry, default_backbone, list_backbones, published_as
from unfreeze.backbones.names import load_backbone, rebuild
from unfreeze.backbones.staging import randomise, rehash, stage_parameters, with_fit, with_truncation

__all__ = [
    "BackboneEntry",
    "default_backbone",
    "list_backbones",
    "load_backbone",
    "published_as",
    "randomise",
    "rebuild",
    "rehash",
    "stage_parameters",
    "with_fit",
    "with_truncation",
]
