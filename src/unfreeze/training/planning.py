"""From what was asked for to the plan that is run, with its schedule noted among the decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from unfreeze.choose.settings import Decisions
from unfreeze.config import Origin, TrainRequest, target_patterns
from unfreeze.contracts import Backbone
from unfreeze.plan import AugmentName, NormPolicy, Plan, Schedule
from unfreeze.strategies import STRATEGIES, classic
from unfreeze.strategies.settings import StrategySettings

if TYPE_CHECKING:
    from unfreeze.heads.head import HeadKind


def make_plan(backbone: Backbone, rows: int, classes: int, decisions: Decisions) -> Plan:
    """The plan of the strategy that was asked for; raises RequestError when it does not fit the backbone."""
    request = decisions.request
    plans = classic.PLANS if decisions.text("recipe") == "classic" else STRATEGIES
    plan = plans[decisions.text("strategy")](backbone, _settings(request, rows, classes))
    if plan.head != "fitted" and request.head is not None:
        plan = replace(plan, head=cast("HeadKind", request.head))
    _record(plan, backbone, decisions)
    return plan


def describe_plan(plan: Plan, backbone: Backbone) -> str:
    """The whole plan in a sentence or two, before anything of it is run."""
    head = "the fitted head" if plan.head == "fitted" else f"a new {plan.head} head"
    phases = []
    for phase in plan.phases:
        stages = [backbone.stages[thaw.stage].name for thaw in phase.thaw]
        ends = dict.fromkeys((stages[0], stages[-1])) if stages else ["the head alone"]
        phases.append(f"{phase.name} ({phase.epochs} epochs: {' to '.join(ends)})")
    batch = f"batches of {plan.batch_size}, augmentation {plan.augment}"
    return f"Plan {plan.strategy}, from {head}, {batch}: {', then '.join(phases)}."


def _settings(request: TrainRequest, rows: int, classes: int) -> StrategySettings:
    return StrategySettings(
        rows=rows,
        classes=classes,
        epochs=request.epochs,
        rate=request.lr,
        batch_size=request.batch_size,
        freeze=request.freeze,
        layer_decay=request.layer_decay,
        norm=cast("NormPolicy | None", request.bn),
        augment=cast("AugmentName | None", request.augment),
        views=request.views,
        pull=request.pull_to_start,
        label_smoothing=request.label_smoothing,
        mixup=request.mixup,
        token_dropout=request.token_dropout,
        schedule=cast("Schedule | None", request.schedule),
        ema=request.ema,
        interpolate=request.interpolate,
        patience=request.patience,
        rank=request.rank,
        alpha=request.alpha,
        lora_dropout=request.lora_dropout,
        targets=None if request.targets is None else target_patterns(request.targets),
        lora_blocks=request.lora_blocks,
        reduction=request.reduction,
    )


def _record(plan: Plan, backbone: Backbone, decisions: Decisions) -> None:
    request, whose = decisions.request, "the strategy's plan"
    if decisions.text("recipe") == "classic":
        whose = "the classic guide's schedule"
        decisions.record("recipe", "classic", "user", " ".join(("asked for", *plan.notes)))
    if plan.batch_size != decisions.number("batch_size"):
        decisions.record("batch_size", plan.batch_size, "default", whose)
    for phase in plan.phases:
        value = {
            "epochs": phase.epochs,
            "stages": ", ".join(backbone.stages[thaw.stage].name for thaw in phase.thaw) or "the head alone",
            "rates": sorted({thaw.rate for thaw in phase.thaw}),
            "head rate": phase.head_rate,
            "norm statistics": phase.norm,
        }
        origin: Origin = "user" if request.lr is not None or request.epochs is not None else "default"
        decisions.record(f"phase {phase.name}", value, origin, whose)
    given: Origin = "user" if request.augment is not None else "default"
    decisions.record("augment", plan.augment, given, "per sample, seeded")
