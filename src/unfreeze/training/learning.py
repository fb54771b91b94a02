"""From the probe to what is shipped: nothing more, a plan that was asked for, or one that is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.choose.cost import Cost, describe_cost
from unfreeze.config import AUTO
from unfreeze.progress import Clock
from unfreeze.training.choosing import Choice, choose
from unfreeze.training.chosen import train_chosen
from unfreeze.training.costing import CostModel
from unfreeze.training.material import Material
from unfreeze.training.probing import Fitted
from unfreeze.training.thawing import thaw
from unfreeze.training.used import record_used

if TYPE_CHECKING:
    from unfreeze.engine.task import Fit
    from unfreeze.heads.probe import ProbeResult
    from unfreeze.plan import Plan


@dataclass(frozen=True, eq=False)
class Learned:
    """The classifier to ship, and how it came about: nothing but the probe has neither fit nor cost."""

    fitted: Fitted
    fit: Fit | None = None
    choice: Choice | None = None
    cost: Cost | None = None


def learn(
    folder: Path, material: Material, found: ProbeResult, floor: Fitted, plan: Plan | None, clock: Clock
) -> Learned:
    """The probe that was ``found``, or what the plan comes to: the given one, or the one that ``auto`` chooses.

    ``floor``: the probe as a classifier.

    ``clock`` started with the run. Only ``auto`` predicts first what a training will take: measuring costs seconds,
    which it needs to choose; a plan that was asked for tells at each phase what it expects.
    """
    learned = _learn(folder, material, found, floor, plan, clock)
    record_used(material, learned.fit)
    return learned


def _learn(
    folder: Path, material: Material, found: ProbeResult, floor: Fitted, plan: Plan | None, clock: Clock
) -> Learned:
    decisions = material.decisions
    if decisions.text("strategy") != AUTO:
        if plan is None:
            return Learned(floor)
        with clock.part("thawing"):
            fitted, fit = thaw(folder, material, plan, resume=bool(decisions.request.resume))
        return Learned(fitted, fit)
    costs = CostModel(material)
    with clock.part("choosing the strategy"):
        choice = choose(
            folder,
            material,
            found,
            predict=costs.predict,
            elapsed=lambda: clock.total,
        )
    decisions.record("strategy", choice.shipped, "trial", choice.reason)
    if choice.plan is None:
        return Learned(floor, choice=choice)
    cost = costs.predict(choice.plan)
    material.progress.say(describe_cost(cost))
    with clock.part("thawing"):
        choice, fitted, shipped = train_chosen(
            folder,
            material,
            choice,
            floor,
            found.probe,
            predict=costs.predict,
            elapsed=lambda: clock.total,
        )
    decisions.record("strategy", choice.shipped, "trial", choice.reason)
    return Learned(fitted, shipped, choice, cost)
