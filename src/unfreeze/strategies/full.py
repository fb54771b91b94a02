"""``full``: every stage at one rate, the head ten times faster."""

from __future__ import annotations

from unfreeze.contracts import Backbone
from unfreeze.plan import Plan
from unfreeze.strategies.common import tune_from
from unfreeze.strategies.settings import StrategySettings


def plan(backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan; see the module."""
    return tune_from(backbone, settings, strategy="full", first=0)
