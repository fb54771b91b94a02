"""From what was asked for to the plan that is run, with its schedule noted among the decisions."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, cast

from unfreeze.amounts import counted
from unfreeze.choose.candidates import Candidate, has_batch_norm
from unfreeze.choose.settings import Decisions
from unfreeze.config import AUTO, Origin, TrainRequest, target_patterns
from unfreeze.contracts import Backbone
from unfreeze.errors import RequestError
from unfreeze.plan import Adapters, AugmentName, Lora, NormPolicy, Plan, Schedule
from unfreeze.strategies import STRATEGIES, classic
from unfreeze.strategies.settings import StrategySettings

if TYPE_CHECKING:
    from unfreeze.heads.head import HeadKind


def make_plan(backbone: Backbone, rows: int, classes: int, decisions: Decisions) -> Plan:
    """The plan of the strategy that was asked for; raises RequestError when it does not fit the backbone."""
    request = decisions.request
    plans = classic.PLANS if decisions.text("recipe") == "classic" else STRATEGIES
    strategy = decisions.text("strategy")
    if strategy not in plans:
        raise RequestError(
            f"The classic guide has no {strategy}: choose another --strategy, or leave --recipe classic out."
        )
    plan = plans[strategy](backbone, _settings(request, rows, classes))
    if plan.head != "fitted" and request.head is not None:
        plan = replace(plan, head=cast("HeadKind", request.head))
    record_plan(plan, backbone, decisions)
    return plan


def follow_guide(decisions: Decisions, rows: int) -> None:
    """With ``--recipe classic`` and no strategy named, take the one of its table for so many rows."""
    if decisions.text("strategy") == AUTO and decisions.text("recipe") == "classic":
        strategy = classic.by_rows(rows)
        decisions.record("strategy", strategy, "data", f"the classic guide's table says so for {rows:,} rows")


def plan_candidate(
    candidate: Candidate, backbone: Backbone, rows: int, classes: int, request: TrainRequest
) -> Plan:
    """The plan of a candidate, whose settings stand where nothing was asked for."""
    settings = replace(_settings(request, rows, classes), **candidate.changes)  # type: ignore[arg-type]
    return STRATEGIES[candidate.strategy](backbone, settings)


def said_settings(request: TrainRequest) -> dict[str, object]:
    """What was asked for among the settings that strategies look at."""
    settings = _settings(request, 1, 2)
    named = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {
        name: value for name, value in named.items() if value is not None and name not in ("rows", "classes")
    }


def shorten(plan: Plan, share: float) -> Plan:
    """The plan with this share of its epochs, at least one a phase."""
    phases = tuple(replace(phase, epochs=max(1, round(phase.epochs * share))) for phase in plan.phases)
    return replace(plan, phases=phases)


def lower_rates(plan: Plan, share: float) -> Plan:
    """The plan at this share of its rates."""
    phases = tuple(
        replace(
            phase,
            thaw=tuple(replace(thaw, rate=thaw.rate * share) for thaw in phase.thaw),
            head_rate=None if phase.head_rate is None else phase.head_rate * share,
        )
        for phase in plan.phases
    )
    return replace(plan, phases=phases)


def describe_plan(plan: Plan, backbone: Backbone) -> str:
    """The whole plan in a sentence or two, before anything of it is run."""
    head = "the fitted head" if plan.head == "fitted" else f"a new {plan.head} head"
    phases = []
    for phase in plan.phases:
        stages = [backbone.stages[thaw.stage].name for thaw in phase.thaw]
        ends = dict.fromkeys((stages[0], stages[-1])) if stages else ["the head alone"]
        phases.append(f"{phase.name} ({counted(phase.epochs, 'epoch')}: {' to '.join(ends)})")
    if plan.ends_in_pairs:
        head = "pairs of one class, with a head that is fitted anew in the end"
    batch = f"batches of {plan.batch_size}, augmentation {plan.augment}"
    return f"Plan {plan.strategy}, from {head}, {batch}: {', then '.join(phases)}."


def idle_settings(plan: Plan | None, backbone: Backbone, request: TrainRequest) -> list[str]:
    """A sentence for each setting that was said and has no effect on this plan of this backbone.

    ``plan`` is None where the head alone is fitted, on features that are computed once.
    """
    if plan is None:
        if request.store_budget is None:
            return []
        return [
            f"--store-budget {request.store_budget} changes nothing here: it bounds what is stored for epochs, and no "
            "stage is trained."
        ]
    bounds = [phase.boundary(len(backbone.stages)) for phase in plan.phases]
    varied = plan.augment != "none" or plan.token_dropout > 0
    idle = []
    if not any(bounds):
        stored = {
            "--views": request.views,
            "--store": "on" if request.store == "on" else None,
            "--store-budget": request.store_budget,
        }
        idle += [
            f"{name} {value} changes nothing here: every stage is trained, so that there is nothing to store."
            for name, value in stored.items()
            if value is not None
        ]
    elif request.views is not None and not varied:
        idle.append(
            f"--views {request.views} changes nothing here: nothing varies the rows, and all views are alike."
        )
    if request.bn == "train" and not has_batch_norm(backbone):
        idle.append(f"--bn train changes nothing here: {backbone.name} has no norms with running statistics.")
    return idle


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


def record_plan(plan: Plan, backbone: Backbone, decisions: Decisions) -> None:
    """Note the plan among the decisions: its phases, and all that holds for the whole of it."""
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
            "schedule": f"{phase.schedule} after {phase.warmup:.0%} of warm-up",
            "weight decay": phase.weight_decay,
            "norm statistics": phase.norm,
            "ends early after epochs without gain": phase.patience,
        }
        origin: Origin = "user" if request.lr is not None or request.epochs is not None else "default"
        decisions.record(f"phase {phase.name}", value, origin, whose)
    given: Origin = "user" if request.augment is not None else "default"
    decisions.record("augment", plan.augment, given, "per sample, seeded")
    started = "the one fitted on the training rows" if plan.head == "fitted" else f"a new {plan.head} one"
    beside = "; head, regularisation and head_reads are those of the probe that stands beside"
    decisions.record("trained_head", started, "default", whose + beside)
    for name, setting in _wide(plan, backbone).items():
        if name not in request.given():
            decisions.record(name, setting, "default", whose)


def _wide(plan: Plan, backbone: Backbone) -> dict[str, object]:
    """What holds in all phases, by the names of the options where there are some."""
    found: dict[str, object] = {
        "ema": plan.ema or 0.0,
        "views": plan.views,
        "label_smoothing": plan.label_smoothing,
        **({"mixup": plan.mixup} if backbone.modality == "image" else {"token_dropout": plan.token_dropout}),
        "interpolate": plan.interpolate,
        "pull_to_start": plan.pull,
        "gradient_norm": plan.clip,
        "head_dropout": plan.dropout,
    }
    graft = plan.graft
    if isinstance(graft, Lora):
        kinds = ", ".join(sorted({path.rpartition(".")[2] for path in graft.targets}))
        found |= {"rank": graft.rank, "alpha": graft.alpha, "lora_dropout": graft.dropout}
        found["targets"] = f"{len(graft.targets)} layers: {kinds}"
    elif isinstance(graft, Adapters):
        found |= {"reduction": graft.reduction, "blocks": len(graft.blocks)}
    return found
