"""``lora``: low-rank updates of frozen layers (Hu et al. 2021), through PEFT."""

from __future__ import annotations

from unfreeze.contracts import Backbone
from unfreeze.grafts.targets import LINEAR, resolve_targets
from unfreeze.plan import Lora, Plan, Thaw
from unfreeze.strategies.common import one_phase
from unfreeze.strategies.settings import StrategySettings, graft_rate

# All linear layers at rank 8, alpha equal to the rank: within two points of tuning every task of VTAB-1k
# (arXiv 2409.16434), and what RoBERTa needs to reach full fine-tuning.
RANK = 8
TARGETS = (LINEAR,)
DROPOUT = 0.0


def plan(backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan; raises RequestError when the targets cannot be found in the backbone."""
    rank = settings.rank or RANK
    found = resolve_targets(backbone, settings.targets or TARGETS, settings.lora_blocks)
    rate = graft_rate(backbone, settings)
    graft = Lora(
        rank=rank,
        alpha=float(rank) if settings.alpha is None else settings.alpha,
        dropout=DROPOUT if settings.lora_dropout is None else settings.lora_dropout,
        targets=found.paths,
    )
    thaw = tuple(Thaw(stage, "graft", rate) for stage in found.stages)
    return one_phase(backbone, settings, strategy="lora", thaw=thaw, head_rate=rate, graft=graft)
