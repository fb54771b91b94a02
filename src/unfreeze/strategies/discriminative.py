"""``discriminative``: every stage, with rates that fall toward the input."""

from __future__ import annotations

from unfreeze.contracts import Backbone
from unfreeze.plan import Phase, Plan, Thaw
from unfreeze.strategies.common import WEIGHT_DECAY, finish
from unfreeze.strategies.settings import (
    HEAD_FACTOR,
    LAYER_DECAY,
    NORM,
    StrategySettings,
    backbone_rate,
    epochs_for,
    stages_with_parameters,
)


def plan(backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan: the last stage at the backbone's rate, each stage below it at ``layer_decay`` times the one above."""
    peak = backbone_rate(backbone, settings)
    decay = settings.layer_decay if settings.layer_decay is not None else LAYER_DECAY[backbone.family]
    last = len(backbone.stages) - 1
    thaw = tuple(
        Thaw(stage, "weights", peak * decay ** (last - stage))
        for stage in stages_with_parameters(backbone, 0)
    )
    phase = Phase(
        name="discriminative",
        epochs=epochs_for(backbone, settings),
        thaw=thaw,
        head_rate=peak * HEAD_FACTOR,
        norm=settings.norm or NORM,
        weight_decay=WEIGHT_DECAY,
        patience=settings.patience,
    )
    return finish(Plan(strategy="discriminative", phases=(phase,)), backbone, settings)
