"""What a training is made of, by name: who takes it up must share all of it.

What an option sets is named by that option, with a value that a person can read; the rest is told by a hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from os import PathLike

from unfreeze.config import READ_BY, TrainRequest, flag
from unfreeze.contracts import Backbone
from unfreeze.engine.checkpoints import DATA, SAID_OF_DATA
from unfreeze.plan import Adapters, Lora, Phase, Plan
from unfreeze.training.material import Material

NONE = "none"


def identify_choice(material: Material) -> dict[str, str]:
    """What a choice hangs on: the material, and what was said of the settings that strategies read."""
    given = material.decisions.request.given()
    names = ("batch_size", *READ_BY)
    return identify_material(material) | {flag(name): str(given.get(name, NONE)) for name in names}


def identify_training(material: Material, plan: Plan) -> dict[str, str]:
    """What a checkpoint hangs on: the material, and the plan that is run."""
    return identify_material(material) | _identify_plan(plan, material.backbone)


def identify_material(material: Material) -> dict[str, str]:
    """Of the data, the network and what holds for all plans on them. The seed, which draws the parts, stands first."""
    decisions, backbone = material.decisions, material.backbone
    rows, contents = DATA
    preprocess = backbone.preprocess.to_dict()
    height, width = (preprocess.pop(name, None) for name in ("height", "width"))
    return {
        "--seed": str(decisions.number("seed")),
        **_said_of_data(decisions.request),
        rows: material.dataset.fingerprint[:16],
        contents: material.features.contents[:16],
        "--backbone": backbone.name,
        "--image-size": NONE if height is None else f"{height} x {width}",
        "--fit": str(preprocess.pop("fit", NONE)),
        "--max-length": str(preprocess.pop("max_length", NONE)),
        "--truncation": str(preprocess.pop("truncation", NONE)),
        "--pooling": str(backbone.recipe.get("pooling", NONE)),
        "details of the preprocessing": _short_hash(preprocess),
        "weights of the backbone": backbone.weights_hash[:16],
        "--recipe": decisions.text("recipe"),
        "--head": decisions.text("head"),
        "--precision": decisions.text("precision"),
        "--store": decisions.text("store"),
    }


def _said_of_data(request: TrainRequest) -> dict[str, str]:
    """What was said of how the data are read and split; data in memory have no text."""
    given = request.given()
    values = {option: given.get(option.removeprefix("--").replace("-", "_"), NONE) for option in SAID_OF_DATA}
    return {
        option: str(value) if isinstance(value, int | float | str | PathLike) else "data in memory"
        for option, value in values.items()
    }


def _identify_plan(plan: Plan, backbone: Backbone) -> dict[str, str]:
    """The settings of a plan, those that others follow from first."""
    return {
        "--strategy": plan.strategy,
        **_identify_graft(plan),
        "--freeze": _by_phase(plan, lambda phase: _stages(phase, backbone)),
        "--epochs": _by_phase(plan, lambda phase: str(phase.epochs)),
        "--batch-size": str(plan.batch_size),
        "--augment": plan.augment,
        "--token-dropout": f"{plan.token_dropout:g}",
        "--views": str(plan.views),
        "--mixup": f"{plan.mixup:g}",
        "--label-smoothing": f"{plan.label_smoothing:g}",
        "--bn": _by_phase(plan, lambda phase: phase.norm),
        "--schedule": _by_phase(plan, lambda phase: phase.schedule),
        "--patience": _by_phase(plan, lambda phase: str(phase.patience or NONE)),
        "--ema": NONE if plan.ema is None else f"{plan.ema:g}",
        "--pull-to-start": f"{plan.pull:g}",
        "--interpolate": "yes" if plan.interpolate else "no",
        "--layer-decay": _by_phase(plan, _shares),
        "--lr": _by_phase(plan, _rates),
        "details of the plan": _short_hash(_without_rates(plan)),
    }


def _identify_graft(plan: Plan) -> dict[str, str]:
    """The settings of LoRA and of adapters; those of the other one, or of both, are none."""
    lora = plan.graft if isinstance(plan.graft, Lora) else None
    adapters = plan.graft if isinstance(plan.graft, Adapters) else None
    return {
        "--rank": NONE if lora is None else str(lora.rank),
        "--alpha": NONE if lora is None else f"{lora.alpha:g}",
        "--lora-dropout": NONE if lora is None else f"{lora.dropout:g}",
        # The same layer of each block counts once: how many blocks there are is the next setting's matter.
        "--targets": NONE
        if lora is None
        else ", ".join(dict.fromkeys(re.sub(r"\d+", "*", path) for path in lora.targets)),
        "--lora-blocks": NONE if lora is None else str(len(plan.phases[0].thaw)),
        "--reduction": NONE if adapters is None else str(adapters.reduction),
    }


def _by_phase(plan: Plan, tell: Callable[[Phase], str]) -> str:
    """What is told of each phase, once where it is the same for all."""
    told = {phase.name: tell(phase) for phase in plan.phases}
    if len(set(told.values())) == 1:
        return told[plan.phases[0].name]
    return "; ".join(f"{name}: {value}" for name, value in told.items())


def _stages(phase: Phase, backbone: Backbone) -> str:
    names = dict.fromkeys(backbone.stages[thaw.stage].name for thaw in phase.thaw)
    return ", ".join(names) or "the head alone"


def _rates(phase: Phase) -> str:
    """The highest rate of the network and that of the head."""
    highest = max((thaw.rate for thaw in phase.thaw), default=None)
    return ", ".join(
        f"{name} {NONE if rate is None else f'{rate:.6g}'}"
        for name, rate in (("network", highest), ("head", phase.head_rate))
    )


def _shares(phase: Phase) -> str:
    """Each rate of the network as a share of the highest, from the output on; one where all are the same."""
    rates = [thaw.rate for thaw in reversed(phase.thaw)]
    shares = [f"{rate / (max(rates) or 1.0):.4g}" for rate in rates]
    return ", ".join(shares if len(set(shares)) > 1 else shares[:1]) or NONE


def _without_rates(plan: Plan) -> dict[str, object]:
    values = asdict(plan)
    for phase in values["phases"]:
        phase["head_rate"] = None if phase["head_rate"] is None else 0.0
        for thaw in phase["thaw"]:
            thaw["rate"] = 0.0
    return values


def _short_hash(value: Mapping[str, object]) -> str:
    return sha256(json.dumps(value, default=str, sort_keys=True).encode()).hexdigest()[:16]
