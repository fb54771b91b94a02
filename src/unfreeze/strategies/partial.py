"""``partial``: the head and the last stages; what lies below stays frozen and is computed once."""

from __future__ import annotations

from unfreeze.contracts import Backbone
from unfreeze.plan import Plan
from unfreeze.strategies.common import tune_from
from unfreeze.strategies.settings import StrategySettings, check_freeze


def plan(backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan; ``freeze`` counts frozen stages from the input. Raises RequestError when there are not so many."""
    freeze = default_freeze(backbone) if settings.freeze is None else settings.freeze
    check_freeze(backbone, freeze)
    return tune_from(backbone, settings, strategy="partial", first=freeze)


def default_freeze(backbone: Backbone) -> int:
    """Stages that stay frozen by default.

    Of a transformer the embedding and two thirds of its blocks (the classic 8 of 12); of a ResNet everything below
    ``layer4``; of other convolutional networks everything below the last third of their stages.
    """
    stages = len(backbone.stages)
    if backbone.family in ("vit", "encoder", "decoder"):
        blocks = stages - 2
        return 1 + blocks * 2 // 3
    if backbone.family in ("resnet", "convnext", "swin"):
        return max(0, stages - 2)
    return max(0, stages - max(2, stages // 3))
