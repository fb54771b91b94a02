"""``--recipe classic``: the schedules that transfer-learning guides print, unchanged, as the baseline to beat.

Every plan starts from a new head, holds its rates without warm-up on images, and nothing in it depends on the data.
Texts warm up for 10 % of the steps and then fall in a straight line. As in every plan, the last epoch is the one
that is kept, unless validation speaks for an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from unfreeze.contracts import Backbone
from unfreeze.errors import RequestError
from unfreeze.grafts.targets import resolve_targets
from unfreeze.plan import Adapters, AugmentName, Lora, Phase, Plan, Schedule, Thaw
from unfreeze.strategies.common import thaw_from
from unfreeze.strategies.partial import default_freeze
from unfreeze.strategies.settings import StrategySettings, stages_with_parameters

WEIGHT_DECAY = 0.01
# The guides' one complete schedule, gradual unfreezing, has 5 + 5 + 10 epochs; texts have 3.
EPOCHS, TEXT_EPOCHS = 20, 3
# Name, blocks thawed from the top, epochs, and the rate of all that the phase trains, the head too.
GRADUAL = (("head", 0, 5, 1e-3), ("last-block", 1, 5, 1e-4), ("two-more-blocks", 3, 10, 1e-5))
PARTIAL_RATE, PARTIAL_HEAD_RATE = 1e-5, 1e-4
# The share of the base rate for early, middle and late stages, and for the head.
BASE_RATE = 1e-4
THIRDS, HEAD_SHARE = (0.01, 0.1, 1.0), 10.0
FULL_RATE, FULL_TEXT_RATE = 1e-4, 2e-5
# The guides ask for rates 10 to 100 times smaller than from scratch.
SCRATCH_RATE = 1e-3
GRAFT_RATE = 1e-4
RANK, ALPHA, LORA_DROPOUT = 8, 32.0, 0.05
REDUCTION = 16
# The guides' table: below the first number the head alone, below the second gradual unfreezing, then everything with
# rates that fall toward the input.
BY_ROWS = ((1_000, "feature-extraction"), (10_000, "gradual"))
MORE_ROWS = "discriminative"
# How networks name the projections that make queries and values; in the first ones the keys are fused with them.
FUSED = ("qkv", "Wqkv")
PAIRS = (
    ("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("q", "v"), ("query_proj", "value_proj"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Manner:
    """What all classic plans for one kind of input share."""

    head: Literal["linear", "mlp"]
    dropout: float
    batch_size: int
    augment: AugmentName
    schedule: Schedule
    warmup: float
    clip: float


IMAGES = Manner(
    head="mlp", dropout=0.2, batch_size=32, augment="light", schedule="constant", warmup=0.0, clip=0.0
)
# The head is that of AutoModelForSequenceClassification; clipping at 1 is the default of its trainer.
TEXTS = Manner(
    head="linear", dropout=0.1, batch_size=16, augment="none", schedule="linear", warmup=0.1, clip=1.0
)


def by_rows(rows: int) -> str:
    """The strategy that the guides' table names for so many rows."""
    return next((strategy for limit, strategy in BY_ROWS if rows < limit), MORE_ROWS)


def plan_head(backbone: Backbone, settings: StrategySettings) -> Plan:
    """``feature-extraction``: the new head alone, which is the first phase of gradual unfreezing."""
    name, _, epochs, rate = GRADUAL[0]
    phase = _phase(backbone, name, epochs=epochs, thaw=(), head_rate=rate)
    return _plan(backbone, settings, "feature-extraction", phase)


def plan_partial(backbone: Backbone, settings: StrategySettings) -> Plan:
    """``partial``: what is not frozen by default (of a 12-block transformer the embedding and 8 blocks are)."""
    thaw = thaw_from(backbone, default_freeze(backbone), PARTIAL_RATE)
    phase = _phase(backbone, "partial", epochs=_epochs(backbone), thaw=thaw, head_rate=PARTIAL_HEAD_RATE)
    return _plan(backbone, settings, "partial", phase)


def plan_gradual(backbone: Backbone, settings: StrategySettings) -> Plan:
    """``gradual``: the head, then the last block (and the norm above it), then two more, each phase ten times slower.

    A network with fewer blocks has fewer phases.
    """
    stages = stages_with_parameters(backbone, 0)
    # A network in one stage is its own last block.
    blocks = [stage for stage in stages if stage < len(backbone.stages) - 1] or stages
    phases: list[Phase] = []
    lowest = None
    for name, count, epochs, rate in GRADUAL:
        first = blocks[max(0, len(blocks) - count)] if count else len(backbone.stages)
        if first != lowest:
            thaw = thaw_from(backbone, first, rate)
            phases.append(_phase(backbone, name, epochs=epochs, thaw=thaw, head_rate=rate))
        lowest = first
    return _plan(backbone, settings, "gradual", *phases)


def plan_discriminative(backbone: Backbone, settings: StrategySettings) -> Plan:
    """``discriminative``: thirds of the stages at 1/100, 1/10 and 1 of the base rate, the head at 10 times it."""
    stages = stages_with_parameters(backbone, 0)
    # Counted from the top, so that the late third is never the smallest one.
    thirds = {stage: 2 - place * 3 // len(stages) for place, stage in enumerate(reversed(stages))}
    thaw = tuple(Thaw(stage, "weights", BASE_RATE * THIRDS[thirds[stage]]) for stage in stages)
    phase = _phase(
        backbone, "discriminative", epochs=_epochs(backbone), thaw=thaw, head_rate=BASE_RATE * HEAD_SHARE
    )
    return _plan(backbone, settings, "discriminative", phase)


def plan_full(backbone: Backbone, settings: StrategySettings) -> Plan:
    """``full``: one rate for everything, the head too."""
    rate = FULL_TEXT_RATE if backbone.modality == "text" else FULL_RATE
    epochs = _epochs(backbone)
    phase = _phase(backbone, "full", epochs=epochs, thaw=thaw_from(backbone, 0, rate), head_rate=rate)
    return _plan(backbone, settings, "full", phase)


def plan_lora(backbone: Backbone, settings: StrategySettings) -> Plan:
    """``lora``: updates of the query and value projections; of the keys too where one layer makes all three.

    Raises RequestError for a network without such projections.
    """
    names = _query_value_names(backbone)
    try:
        found = resolve_targets(backbone, names, None)
    except RequestError as problem:
        reason = "its query and value projections cannot be updated"
        raise RequestError(_no_recipe(backbone, "lora", reason)) from problem
    graft = Lora(rank=RANK, alpha=ALPHA, dropout=LORA_DROPOUT, targets=found.paths)
    notes: tuple[str, ...] = ()
    if names[0] in FUSED:
        notes = (f"One layer, {names[0]}, makes queries, keys and values: the keys are updated too.",)
    return _graft_plan(backbone, settings, "lora", graft, found.stages, notes=notes)


def plan_adapters(backbone: Backbone, settings: StrategySettings) -> Plan:
    """``adapters``: a bottleneck behind every block, x + up(GELU(down(x))), without the norm that ours reads through.

    Raises RequestError for a network without blocks.
    """
    if not backbone.blocks:
        raise RequestError(_no_recipe(backbone, "adapters", "it has no transformer blocks"))
    graft = Adapters(reduction=REDUCTION, blocks=backbone.blocks, norm=False)
    return _graft_plan(backbone, settings, "adapters", graft, range(1, len(backbone.blocks) + 1))


def plan_scratch(backbone: Backbone, settings: StrategySettings) -> Plan:
    """``scratch``: random weights, at a rate that pretrained ones would not survive."""
    thaw = thaw_from(backbone, 0, SCRATCH_RATE)
    phase = _phase(backbone, "scratch", epochs=_epochs(backbone), thaw=thaw, head_rate=SCRATCH_RATE)
    phase = replace(phase, norm="train")
    return replace(_plan(backbone, settings, "scratch", phase), start="random")


PLANS: Mapping[str, Callable[[Backbone, StrategySettings], Plan]] = {
    "feature-extraction": plan_head,
    "partial": plan_partial,
    "gradual": plan_gradual,
    "discriminative": plan_discriminative,
    "full": plan_full,
    "lora": plan_lora,
    "adapters": plan_adapters,
    "scratch": plan_scratch,
}


def _query_value_names(backbone: Backbone) -> tuple[str, ...]:
    """How this network names what makes its queries and values."""
    names = {path.rpartition(".")[2] for path, _ in backbone.module.named_modules()}
    for wanted in (*((name,) for name in FUSED), *PAIRS):
        if names.issuperset(wanted):
            return wanted
    raise RequestError(_no_recipe(backbone, "lora", "no query and value projections were found in it"))


def _no_recipe(backbone: Backbone, strategy: str, reason: str) -> str:
    return (
        f"The classic guide has no {strategy} for {backbone.name}: {reason}. "
        "Choose another --strategy, or leave --recipe classic out."
    )


def _graft_plan(
    backbone: Backbone,
    settings: StrategySettings,
    strategy: str,
    graft: Lora | Adapters,
    stages: Sequence[int],
    *,
    notes: tuple[str, ...] = (),
) -> Plan:
    thaw = tuple(Thaw(stage, "graft", GRAFT_RATE) for stage in stages)
    phase = _phase(backbone, strategy, epochs=_epochs(backbone), thaw=thaw, head_rate=GRAFT_RATE)
    return replace(_plan(backbone, settings, strategy, phase), graft=graft, notes=notes)


def _epochs(backbone: Backbone) -> int:
    return TEXT_EPOCHS if backbone.modality == "text" else EPOCHS


def _manner(backbone: Backbone) -> Manner:
    return TEXTS if backbone.modality == "text" else IMAGES


def _phase(backbone: Backbone, name: str, *, epochs: int, thaw: tuple[Thaw, ...], head_rate: float) -> Phase:
    manner = _manner(backbone)
    return Phase(
        name=name,
        epochs=epochs,
        thaw=thaw,
        head_rate=head_rate,
        warmup=manner.warmup,
        schedule=manner.schedule,
        weight_decay=WEIGHT_DECAY,
    )


def _plan(backbone: Backbone, settings: StrategySettings, strategy: str, *phases: Phase) -> Plan:
    manner = _manner(backbone)
    return Plan(
        strategy=strategy,
        phases=phases,
        head=manner.head,
        dropout=manner.dropout,
        batch_size=manner.batch_size,
        augment=manner.augment,
        clip=manner.clip,
    )
