"""``scratch``: random weights, to see what the pretraining is worth."""

from __future__ import annotations

from dataclasses import replace

from unfreeze.contracts import Backbone
from unfreeze.plan import Plan
from unfreeze.strategies.common import tune_from
from unfreeze.strategies.settings import StrategySettings, backbone_rate

# From random weights a network bears higher rates than pretrained ones, needs several times the epochs, and has its
# statistics to learn. Rate, epochs and decay (0.05 as for transformers from scratch, Touvron et al. 2021) are a choice.
RATE = 1e-3
EPOCHS = 60
WEIGHT_DECAY = 0.05


def plan(backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan; its head starts at zero, since there are no features to fit one on."""
    given = replace(
        settings,
        epochs=EPOCHS if settings.epochs is None else settings.epochs,
        norm=settings.norm or "train",
    )
    rate = RATE if settings.rate is None else backbone_rate(backbone, settings)
    made = tune_from(backbone, given, strategy="scratch", first=0, rate=rate)
    phase = replace(made.phases[0], weight_decay=WEIGHT_DECAY, head_rate=rate)
    return replace(made, start="random", head="linear", phases=(phase,))
