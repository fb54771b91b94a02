"""The way that every training begins: from a data set to the probe on its frozen features, and the plan asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unfreeze.choose.settings import Decisions, record_data
from unfreeze.config import AUTO
from unfreeze.data.dataset import Dataset
from unfreeze.engine.ranks import ALONE, Ranks
from unfreeze.grafts import describe
from unfreeze.plan import Plan
from unfreeze.progress import Clock, Progress
from unfreeze.training.material import Material
from unfreeze.training.planning import describe_plan, follow_guide, idle_settings, make_plan
from unfreeze.training.prepare import frozen_pass, open_backbone, pick_executor
from unfreeze.training.probing import probe_features
from unfreeze.training.together import share_pass

if TYPE_CHECKING:
    from unfreeze.engine.choice import ExecutorChoice
    from unfreeze.heads.probe import ProbeResult


@dataclass(frozen=True, eq=False)
class Probed:
    """The material of a training, the probe on it, and the plan of a strategy that was named.

    ``plan`` is None for the head alone and for ``auto``, which has yet to choose.
    """

    material: Material
    probe: ProbeResult
    plan: Plan | None
    executor: ExecutorChoice


def probe_data(
    dataset: Dataset, decisions: Decisions, clock: Clock, progress: Progress, *, ranks: Ranks = ALONE
) -> Probed:
    """The probe of a data set, computed with what the decisions say, which become complete on the way.

    ``ranks``: the processes that take part, of which this is the first.

    Raises RequestError for a plan that does not fit the backbone, before anything is computed.
    """
    record_data(decisions, dataset)
    with clock.part("loading the backbone"):
        backbone = open_backbone(dataset, decisions, progress)
    follow_guide(decisions, len(dataset.rows("train", "val")))
    # Which column is the label is the first thing to look at: another one is another task.
    for entry in dataset.inferred:
        progress.say(f"{entry.what}: {entry.value} ({entry.reason}).")
    for warning in dataset.warnings:
        progress.say(warning)
    plan = None
    if decisions.text("strategy") != AUTO:
        if decisions.thaws:
            plan = make_plan(backbone, len(dataset.rows("train")), len(dataset.labels), decisions)
            progress.say(describe_plan(plan, backbone))
        for sentence in idle_settings(plan, backbone, decisions.request):
            progress.say(sentence)
        if plan is not None and plan.graft is not None:
            progress.say(describe(backbone, plan.graft))
    with clock.part("choosing the executor"):
        chosen, executor = pick_executor(backbone, dataset, decisions, progress)
    with clock.part("frozen pass"):
        share_pass(ranks, dataset, backbone, executor, decisions)
        features = frozen_pass(backbone, dataset, executor, decisions, progress)
    with clock.part("probe and thaw curve"):
        probe = probe_features(dataset, features, backbone, decisions, progress)
    material = Material(dataset, backbone, features, executor, decisions, progress, ranks)
    return Probed(material, probe, plan, chosen)
