"""What strategies build their plans from: the shape of the backbone, the size of the data, what the user said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from unfreeze.config import MOST_RATE
from unfreeze.contracts import Backbone, Modality
from unfreeze.errors import RequestError
from unfreeze.plan import AugmentName, NormPolicy, Schedule

# Peak rates of the backbone for AdamW. Convolutional networks 3e-4: best on 2,000 small pictures (1e-4 lost 0.3 points
# and 1e-3 1.2). On 1,000 pictures of small defects it fell below the probe with frozen norm statistics, where 1e-4
# gained 23 points: `auto` tries lower rates. Vision transformers 2e-5 (DINOv2). Text encoders 5e-5, the upper end of
# Devlin et al. 2018 (2e-4 lost 0.7 and 0.6 points and gained 0.9 on three sets of texts). The others are a choice.
BACKBONE_RATE: Mapping[str, float] = {
    "resnet": 3e-4, "efficientnet": 3e-4, "convnext": 5e-5, "vit": 2e-5, "swin": 2e-5,
    "encoder": 5e-5, "decoder": 2e-5, "opaque": 5e-5,
}  # fmt: skip
# The head starts fitted; it moves ten times as fast as the backbone (the classic guide's ratio).
HEAD_FACTOR = 10.0
# What is grafted starts at zero and learns faster than pretrained weights: 1e-3 for images is the one setting within
# two points of tuning every task of VTAB-1k, and 1e-2 the cliff (arXiv 2409.16434); on the solar cells, DINOv2, 1e-3
# gave 90.1 and 89.8 %, 5e-4 89.5 and 2e-4 88.3 with the first of these seeds (bench/RESULTS.md). Texts: ten times the
# rate of full fine-tuning (Hu et al.).
GRAFT_RATE: Mapping[str, float] = {
    "resnet": 1e-3, "efficientnet": 1e-3, "convnext": 1e-3, "vit": 1e-3, "swin": 1e-3,
    "encoder": 5e-4, "decoder": 2e-4, "opaque": 5e-4,
}  # fmt: skip
# Layer-wise decay a stage: 0.65 to 0.75 for vision transformers (BEiT, MAE), 0.8 to 0.9 for BERT-like encoders
# (ELECTRA). Those of convolutional networks, which have few and thick stages, are a choice.
LAYER_DECAY: Mapping[str, float] = {
    "vit": 0.75, "swin": 0.75, "encoder": 0.85, "decoder": 0.85, "convnext": 0.8, "resnet": 0.7, "efficientnet": 0.8,
    "opaque": 1.0,
}  # fmt: skip
# Few samples need more passes: at least this many optimizer steps, within bounds (few-sample BERT, Zhang et al. 2020).
# Texts reach it sooner: 500 of them gained ten points over the probe in 10 epochs of MiniLM (5e-5, batches of 32).
# For images 15 epochs of 2,000 are about as many.
LEAST_STEPS: Mapping[Modality, int] = {"image": 900, "text": 160}
EPOCHS_IMAGE, EPOCHS_TEXT, MOST_EPOCHS = 15, 5, 40
# Decay a step of the averaged weights, which are the ones that are judged and kept. On the solar cells 0.99 gave 0.2
# points on average over ten pairs of settings, between -1.5 and 2.0 (bench/RESULTS.md). In a short training the average
# looks back over a tenth of the steps. On 500 mails it changed nothing (-0.1 points, -0.4 to 0.2, three seeds of full).
EMA: Mapping[Modality, float | None] = {"image": 0.99, "text": None}
# Norm statistics stay those of pretraining: 88.9 % against 86.3 % on 2,000 images (EfficientNet-Lite0).
NORM: NormPolicy = "freeze"


@dataclass(frozen=True, kw_only=True)
class StrategySettings:
    """Everything a strategy may look at; None means that the user said nothing."""

    rows: int
    classes: int
    epochs: int | None = None
    rate: float | None = None
    batch_size: int | None = None
    freeze: int | None = None
    layer_decay: float | None = None
    norm: NormPolicy | None = None
    augment: AugmentName | None = None
    views: int | None = None
    pull: float | None = None
    label_smoothing: float | None = None
    mixup: float | None = None
    token_dropout: float | None = None
    schedule: Schedule | None = None
    ema: float | None = None
    interpolate: bool | None = None
    patience: int | None = None
    rank: int | None = None
    alpha: float | None = None
    lora_dropout: float | None = None
    targets: tuple[str, ...] | None = None
    lora_blocks: int | None = None
    reduction: int | None = None


def backbone_rate(backbone: Backbone, settings: StrategySettings) -> float:
    """The peak rate of the backbone: what was said, or the family's. RequestError when it can only do harm."""
    return _checked_rate(backbone, settings, usual=BACKBONE_RATE[backbone.family])


def graft_rate(backbone: Backbone, settings: StrategySettings) -> float:
    """The peak rate of LoRA or adapters, and of the head beside them: what was said, or the family's."""
    return _checked_rate(backbone, settings, usual=GRAFT_RATE[backbone.family])


def _checked_rate(backbone: Backbone, settings: StrategySettings, *, usual: float) -> float:
    if settings.rate is None:
        return usual
    if not 0 < settings.rate <= MOST_RATE:
        raise RequestError(
            f"--lr {settings.rate:g} is out of range: it must be above 0 and at most {MOST_RATE:g} "
            f"({usual:g} is usual for {backbone.name})."
        )
    return settings.rate


def epochs_for(backbone: Backbone, settings: StrategySettings) -> int:
    """Epochs: what was said, or enough for ``LEAST_STEPS`` steps between the usual number and ``MOST_EPOCHS``."""
    if settings.epochs is not None:
        if settings.epochs < 1:
            raise RequestError(f"--epochs {settings.epochs} trains nothing: give at least 1.")
        return settings.epochs
    usual = EPOCHS_TEXT if backbone.modality == "text" else EPOCHS_IMAGE
    steps_per_epoch = max(1, math.ceil(settings.rows / (settings.batch_size or 32)))
    return max(usual, min(MOST_EPOCHS, math.ceil(LEAST_STEPS[backbone.modality] / steps_per_epoch)))


def augment_for(backbone: Backbone, settings: StrategySettings) -> AugmentName:
    """The augmentation: what was said, or crops and mirror images for images and none for texts."""
    if settings.augment is not None:
        return settings.augment
    return "none" if backbone.modality == "text" else "light"


def ema_for(backbone: Backbone, settings: StrategySettings) -> float | None:
    """The decay of the averaged weights: what was said, where 0 is off, or that of the modality."""
    return EMA[backbone.modality] if settings.ema is None else settings.ema or None


def stages_with_parameters(backbone: Backbone, first: int) -> list[int]:
    """The stages from ``first`` on that have parameters to train."""
    trainable = {name for name, _ in backbone.module.named_parameters()}
    return [
        index
        for index, stage in enumerate(backbone.stages)
        if index >= first and any(name in trainable for name in stage.tensors)
    ]


def check_freeze(backbone: Backbone, freeze: int) -> None:
    """Raise RequestError when there are not that many stages to freeze and one more to train."""
    trainable = stages_with_parameters(backbone, 0)
    if not 0 <= freeze <= trainable[-1]:
        names = ", ".join(f"{index} {stage.name}" for index, stage in enumerate(backbone.stages))
        raise RequestError(
            f"--freeze {freeze} is out of range for {backbone.name}: it can keep 0 to {trainable[-1]} stages frozen. "
            f"Its stages from the input: {names}."
        )
