"""``contrastive``: texts of one class are drawn together and those of others apart, then the head is fitted anew.

For a few texts a class, where a head has little to learn from but pairs are many (SetFit, Tunstall et al. 2022). There,
pairs are drawn and each is run through the network; here every pair of a batch counts, at the cost of its rows alone.
"""

from __future__ import annotations

import math
from dataclasses import replace

from unfreeze.contracts import Backbone
from unfreeze.errors import RequestError
from unfreeze.plan import Plan
from unfreeze.strategies.common import finish, make_phase, thaw_from
from unfreeze.strategies.settings import StrategySettings, backbone_rate, epochs_for

# Ten steps at twice the usual rate, MiniLM on 8 mails a class: 87.4 % over three draws, `full` 86.5 % in 40 steps and
# 1.6 times the time, the probe 77.4 %; 20 and 40 steps were no better (bench/RESULTS.md).
STEPS, MOST_EPOCHS = 10, 10
RATE_FACTOR = 2.0


def plan(backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan; RequestError for images, for which nothing of it was measured."""
    if backbone.modality != "text":
        raise RequestError(
            f"--strategy contrastive is for texts, and {backbone.name} reads images: "
            "use --strategy lora, partial or full."
        )
    rate = backbone_rate(backbone, settings) * (RATE_FACTOR if settings.rate is None else 1.0)
    if settings.epochs is None:
        steps_an_epoch = math.ceil(settings.rows / (settings.batch_size or 32))
        settings = replace(
            settings, epochs=max(1, min(MOST_EPOCHS, math.ceil(STEPS / max(1, steps_an_epoch))))
        )
    phase = make_phase(
        settings,
        "contrastive",
        epochs=epochs_for(backbone, settings),
        thaw=thaw_from(backbone, 0, rate),
        head_rate=None,
        objective="pairs",
    )
    return finish(Plan(strategy="contrastive", phases=(phase,)), backbone, settings)
