"""``gradual``: the head, then the last stage, then the last third, then everything, each phase at a lower rate."""

from __future__ import annotations

from collections.abc import Sequence

from unfreeze.config import MOST_RATE
from unfreeze.contracts import Backbone
from unfreeze.plan import Plan, Thaw
from unfreeze.strategies.common import finish, make_phase, thaw_from
from unfreeze.strategies.settings import HEAD_FACTOR, StrategySettings, backbone_rate, epochs_for

# With fewer rows than this the last phase, which thaws everything and has no frozen prefix, is left out: it would take
# most of the time, and the last third is enough to overfit. Below a thousand rows the classic guide thaws nothing.
ROWS_FOR_ALL = 1000
# Shares of the epochs, in order: the head alone, last stage, last third, all; about those of the classic guide (5, 5
# and 10 epochs), with half of them for the whole.
SHARES = (0.1, 0.25, 0.25, 0.5)
# The classic schedule's rate of the head. It starts fitted, and with faster steps AdamW undoes the fit where a phase
# begins: 500 solar cells on EfficientNet-Lite0 ended at 83.7 % with this limit and at 83.0 without (bench/RESULTS.md).
MOST_HEAD_RATE = 1e-3
# Of fewer stages with weights than this two are no third any more.
FEW_STAGES = 5
# The head starts fitted: two epochs without gain show that there is nothing left for it alone.
HEAD_PATIENCE = 2


def plan(backbone: Backbone, settings: StrategySettings) -> Plan:
    """The plan; each boundary lies nearer to the input than the one before, and each phase may end early."""
    peak = backbone_rate(backbone, settings)
    stages = len(backbone.stages)
    # Pooling stages often have no parameters; the last stage means the last block and what stands above it. A third of
    # few stages, such as a ResNet's five, is two of them, so that it is more than the last one.
    third = max(2 if stages - 1 >= FEW_STAGES else 1, (stages - 1) // 3)
    bounds = [max(0, stages - 2), max(0, stages - 1 - third), 0]
    # Fewer stages bear a higher rate. The classic steps of ten start at a rate that pretrained stages do not survive
    # here; a third of these rates gained nothing (bench/RESULTS.md).
    rates = [min(MOST_RATE, rate) for rate in (3 * peak, 2 * peak, peak)]
    wanted = 3 if settings.rows >= ROWS_FOR_ALL else 2
    names = ("last-stage", "last-third", "all")
    taken: list[tuple[str, tuple[Thaw, ...], float, float]] = []
    lowest = stages
    for name, first, rate, share in list(zip(names, bounds, rates, SHARES[1:], strict=True))[:wanted]:
        thaw = thaw_from(backbone, first, rate)
        # Of few stages the last third is the last stage: a phase that thaws nothing more is left out.
        if thaw and thaw[0].stage < lowest:
            lowest = thaw[0].stage
            taken.append((name, thaw, rate, share))
    counts = _epochs(backbone, settings, [SHARES[0], *(share for *_, share in taken)])
    phases = [
        make_phase(
            settings, "head", epochs=counts[0], thaw=(), head_rate=_head_rate(peak), patience=HEAD_PATIENCE
        )
    ]
    for (name, thaw, rate, _), epochs in zip(taken, counts[1:], strict=True):
        patience = max(3, round(epochs / 2))
        phases.append(
            make_phase(
                settings, name, epochs=epochs, thaw=thaw, head_rate=_head_rate(rate), patience=patience
            )
        )
    return finish(Plan(strategy="gradual", phases=tuple(phases)), backbone, settings)


def _epochs(backbone: Backbone, settings: StrategySettings, shares: Sequence[float]) -> list[int]:
    """The epochs of each phase, one at least: together those that were said, else shares of the usual number.

    Of the usual number a phase that is left out leaves its share undone: 500 rows are overfit soon enough.
    """
    total = epochs_for(backbone, settings)
    if settings.epochs is None:
        return [max(1, round(total * share)) for share in shares]
    ends = [round(total * sum(shares[: end + 1]) / sum(shares)) for end in range(len(shares))]
    counts: list[int] = []
    for end in ends:
        counts.append(max(1, end - sum(counts)))
    return counts


def _head_rate(rate: float) -> float:
    """The head's rate beside stages at ``rate``: faster than they are, within ``MOST_HEAD_RATE``, and never slower."""
    return min(rate * HEAD_FACTOR, max(rate, MOST_HEAD_RATE))
