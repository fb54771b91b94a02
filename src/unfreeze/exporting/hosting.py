"""What the classes of other libraries can hold: the rules, each with the sentence that refuses what breaks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from unfreeze.backbones.hf_loading import POOLER_TYPES
from unfreeze.bundle.classifier import Classifier
from unfreeze.grafts import can_be_merged

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unfreeze.contracts import Backbone

GraftKind = Literal["none", "lora", "adapters"]
LIBRARIES = ("transformers", "timm", "peft")
_ELSE = "export to onnx"


def graft_of(classifier: Classifier) -> GraftKind:
    """What was grafted onto the classifier's backbone."""
    if classifier.adapter is None:
        return "none"
    return "lora" if can_be_merged(classifier.adapter.files) else "adapters"


def graft_refusal(graft: GraftKind, format: str) -> str:
    """Why a format cannot hold a backbone with this graft; empty where it can."""
    if format not in LIBRARIES:
        return ""
    if graft == "adapters":
        return f"{format} has no class with bottleneck adapters between its layers: {_ELSE}."
    if format == "peft" and graft == "none":
        return (
            "The run has no LoRA, and a PEFT folder holds nothing else: train with --strategy lora, "
            "or export to transformers or timm."
        )
    return ""


def refusal(classifier: Classifier, format: str) -> str:
    """Why this format cannot hold this classifier; empty where nothing speaks against it."""
    told = graft_refusal(graft_of(classifier), format)
    if told or format not in LIBRARIES:
        return told
    backbone = classifier.backbone
    if format == "timm" and backbone.modality == "text":
        return "timm holds image models, and the run reads texts: choose --format transformers."
    if classifier.head.kind != "linear":
        return f"{format} has no class with an mlp head: train with --head linear, or {_ELSE}."
    last = len(backbone.stages)
    if classifier.head.boundaries != (last,):
        names = ", ".join(backbone.stages[boundary - 1].name for boundary in classifier.head.boundaries)
        return (
            f"The run's head reads {names}, and the classes of {format} read {backbone.stages[-1].name} alone: "
            f"train with --strategy partial, lora or full, whose heads do too, or {_ELSE}."
        )
    return _text_refusal(backbone) if format == "transformers" and backbone.modality == "text" else ""


def own_classifier(backbone: Backbone) -> bool:
    """Whether the library's own classification class reads the pooled feature of this text backbone.

    Of the classes of transformers, BERT's has its pooler, a dropout and one linear layer. RoBERTa, ELECTRA, DistilBERT,
    MPNet, DeBERTa and ModernBERT put a dense layer with an activation before the last one, which no checkpoint of the
    backbone holds; the classes of decoders have a last layer without a bias.
    """
    return backbone.recipe["pooling"] == "native" and model_type(backbone) in POOLER_TYPES


def model_type(backbone: Backbone) -> str:
    """The model type of transformers, such as ``bert``."""
    config = backbone.recipe["config"]
    assert isinstance(config, dict)
    return str(config["model_type"])


def calibrated_linear(classifier: Classifier) -> dict[str, Tensor]:
    """``weight`` (classes, width) and ``bias`` (classes,) of the linear head, divided by the temperature.

    Their softmax is the calibrated probability, also of two classes, for which the head holds two rows as for more.
    """
    return {
        name: torch.from_numpy(classifier.head.tensors[name] / classifier.temperature).float().contiguous()
        for name in ("weight", "bias")
    }


def takes_linear(module: nn.Module, name: str, linear: dict[str, Tensor]) -> bool:
    """Whether the layer of this name is a linear one with a bias, of the head's shape."""
    layer = module.get_submodule(name)
    return (
        isinstance(layer, torch.nn.Linear)
        and layer.bias is not None
        and layer.weight.shape == linear["weight"].shape
    )


def _text_refusal(backbone: Backbone) -> str:
    if own_classifier(backbone):
        return ""
    kind = model_type(backbone)
    if kind in POOLER_TYPES:
        return (
            f"transformers' class for {kind} reads the model's own pooler, and the run reads the pooling "
            f"{backbone.recipe['pooling']}: train with --pooling native."
        )
    if backbone.family == "decoder":
        return f"transformers' class for {kind} has a last layer without a bias, and the run's head has one: {_ELSE}."
    return (
        f"transformers' class for {kind} has an untrained layer before its last one, so that no pooling of the run "
        f"fits it: train a BERT with --pooling native, or {_ELSE}."
    )
