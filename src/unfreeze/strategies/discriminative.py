"""``discriminative``: every stage, with rates that fall toward the input."""

from __future__ import annotations

from unfreeze.contracts import Backbone
from unfreeze.errors import RequestError
from unfreeze.plan import Plan, Thaw
from unfreeze.strategies.common import one_phase
from unfreeze.strategies.settings import (
    HEAD_FACTOR,
    LAYER_DECAY,
    StrategySettings,
    backbone_rate,
    stages_with_parameters,
)


def plan(backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan: the last stage with weights at the backbone's rate, each below at ``layer_decay`` times the next.

    Raises RequestError for a decay outside (0, 1].
    """
    peak = backbone_rate(backbone, settings)
    decay = settings.layer_decay if settings.layer_decay is not None else LAYER_DECAY[backbone.family]
    if not 0 < decay <= 1:
        raise RequestError(f"--layer-decay {decay:g} is out of range: it must be above 0 and at most 1.")
    stages = stages_with_parameters(backbone, 0)
    thaw = tuple(Thaw(stage, "weights", peak * decay ** (stages[-1] - stage)) for stage in stages)
    return one_phase(backbone, settings, strategy="discriminative", thaw=thaw, head_rate=peak * HEAD_FACTOR)
