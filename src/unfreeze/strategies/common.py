"""The parts that strategies share: thawing a run of stages, a phase, and the plan-wide settings."""

from __future__ import annotations

from dataclasses import replace

from unfreeze.contracts import Backbone
from unfreeze.plan import Graft, Objective, Phase, Plan, Thaw, check_modality
from unfreeze.strategies.settings import (
    HEAD_FACTOR,
    NORM,
    StrategySettings,
    augment_for,
    backbone_rate,
    ema_for,
    epochs_for,
    stages_with_parameters,
)

# A decay of 0.01 is what BERT fine-tuning and PyTorch's AdamW use.
WEIGHT_DECAY = 0.01
# Views kept for each sample when a frozen prefix is stored: each costs one pass and its share of the disk. A choice:
# on DINOv2 a thawing that averaged its answers over eight views gained a point on the solar cells.
VIEWS = 8


def thaw_from(backbone: Backbone, first: int, rate: float) -> tuple[Thaw, ...]:
    """All stages from ``first`` on that have parameters, at one rate."""
    return tuple(Thaw(stage, "weights", rate) for stage in stages_with_parameters(backbone, first))


def make_phase(
    settings: StrategySettings,
    name: str,
    *,
    epochs: int,
    thaw: tuple[Thaw, ...],
    head_rate: float | None,
    patience: int | None = None,
    objective: Objective = "classes",
) -> Phase:
    """A phase with what the user said about every phase; ``patience`` holds when nothing was said about it."""
    phase = Phase(
        name=name,
        epochs=epochs,
        thaw=thaw,
        head_rate=head_rate,
        weight_decay=WEIGHT_DECAY,
        norm=settings.norm or NORM,
        patience=patience if settings.patience is None else settings.patience,
        objective=objective,
    )
    return phase if settings.schedule is None else replace(phase, schedule=settings.schedule)


def tune_from(
    backbone: Backbone, settings: StrategySettings, *, strategy: str, first: int, rate: float | None = None
) -> Plan:
    """A plan of one phase that trains the head and all stages from ``first`` on at one rate."""
    peak = backbone_rate(backbone, settings) if rate is None else rate
    thaw = thaw_from(backbone, first, peak)
    return one_phase(backbone, settings, strategy=strategy, thaw=thaw, head_rate=peak * HEAD_FACTOR)


def one_phase(
    backbone: Backbone,
    settings: StrategySettings,
    *,
    strategy: str,
    thaw: tuple[Thaw, ...],
    head_rate: float,
    graft: Graft | None = None,
) -> Plan:
    """A plan of one phase, which has the strategy's name."""
    phase = make_phase(
        settings, strategy, epochs=epochs_for(backbone, settings), thaw=thaw, head_rate=head_rate
    )
    return finish(Plan(strategy=strategy, phases=(phase,), graft=graft), backbone, settings)


def finish(plan: Plan, backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan with the settings that hold for all its phases. RequestError for what its inputs cannot have."""
    finished = replace(
        plan,
        batch_size=settings.batch_size or plan.batch_size,
        augment=augment_for(backbone, settings),
        views=settings.views or VIEWS,
        label_smoothing=settings.label_smoothing or 0.0,
        mixup=settings.mixup or 0.0,
        token_dropout=settings.token_dropout or 0.0,
        ema=ema_for(backbone, settings),
        pull=settings.pull or 0.0,
        interpolate=bool(settings.interpolate),
    )
    check_modality(finished, backbone.modality)
    return finished
