"""``adapters``: a bottleneck behind every transformer block (Houlsby et al. 2019), everything else frozen."""

from __future__ import annotations

from unfreeze.contracts import Backbone
from unfreeze.errors import RequestError
from unfreeze.plan import Adapters, Plan, Thaw
from unfreeze.strategies.common import one_phase
from unfreeze.strategies.settings import StrategySettings, graft_rate

# Houlsby et al. 2019: 1.1 % of a small vision transformer's parameters (bench/RESULTS.md).
REDUCTION = 16


def plan(backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan; raises RequestError for a network without transformer blocks."""
    if not backbone.blocks:
        raise RequestError(
            "--strategy adapters puts bottlenecks behind the blocks of a transformer that keeps one width (ViT, BERT "
            f"and their like), and {backbone.name} has none: use --strategy lora, partial or full, or such a backbone."
        )
    rate = graft_rate(backbone, settings)
    graft = Adapters(reduction=settings.reduction or REDUCTION, blocks=backbone.blocks)
    thaw = tuple(Thaw(stage, "graft", rate) for stage in range(1, len(backbone.blocks) + 1))
    return one_phase(backbone, settings, strategy="adapters", thaw=thaw, head_rate=rate, graft=graft)
