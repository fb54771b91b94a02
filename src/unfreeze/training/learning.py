"""From the probe to what is shipped: nothing more, a plan that was asked for, or one that is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.choose.cost import Cost, describe_cost
from unfreeze.config import AUTO
from unfreeze.progress import Clock
from unfreeze.training.choosing import Choice, choose, train_chosen
from unfreeze.training.costing import CostModel
from unfreeze.training.material import Material
from unfreeze.training.probing import Fitted
from unfreeze.training.thawing import thaw

if TYPE_CHECKING:
    from unfreeze.engine.task import Fit
    from unfreeze.heads.probe import Probe
    from unfreeze.plan import Plan


@dataclass(frozen=True, eq=False)
class Learned:
    """The classifier to ship, and how it came about: nothing but the probe has neither fit nor cost."""

    fitted: Fitted
    fit: Fit | None = None
    choice: Choice | None = None
    cost: Cost | None = None


def learn(
    folder: Path,
    material: Material,
    probe: Probe,
    floor: Fitted,
    plan: Plan | None,
    clock: Clock,
    *,
    foretell: bool = True,
) -> Learned:
    """The probe (``floor``), or what the plan comes to: the given one, or the one that ``auto`` chooses.

    ``clock`` started with the run. ``foretell``: predict first what the training will take.
    """
    decisions = material.decisions
    costs = CostModel(material)
    choice = None
    if decisions.text("strategy") == AUTO:
        with clock.part("choosing the strategy"):
            choice = choose(
                folder,
                material,
                probe,
                cost=lambda plan: costs.predict(plan).seconds,
                elapsed=lambda: clock.total,
            )
        decisions.record("strategy", choice.shipped, "trial", choice.reason)
        plan = choice.plan
    if plan is None:
        return Learned(floor, choice=choice)
    cost = None
    if foretell:
        with clock.part("predicting what it takes"):
            cost = costs.predict(plan)
            material.progress.say(describe_cost(cost))
    with clock.part("thawing"):
        if choice is None:
            fitted, fit = thaw(folder, material, plan)
            return Learned(fitted, fit, cost=cost)
        choice, shipped, trained = train_chosen(folder, material, choice, floor, probe)
        decisions.record("strategy", choice.shipped, "trial", choice.reason)
        return Learned(shipped, trained, choice, cost)
