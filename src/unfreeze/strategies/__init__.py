"""How much to thaw: each strategy is a file with a function from (backbone, settings) to a Plan.

Adding one means adding a file and a line in ``STRATEGIES``. ``feature-extraction`` has no plan: the fitted head is
the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unfreeze.contracts import Backbone
from unfreeze.plan import Plan
from unfreeze.strategies import adapters, contrastive, discriminative, full, gradual, lora, partial, scratch
from unfreeze.strategies.settings import StrategySettings

STRATEGIES: Mapping[str, Callable[[Backbone, StrategySettings], Plan]] = {
    "partial": partial.plan,
    "gradual": gradual.plan,
    "discriminative": discriminative.plan,
    "full": full.plan,
    "lora": lora.plan,
    "adapters": adapters.plan,
    "contrastive": contrastive.plan,
    "scratch": scratch.plan,
}
