"""What ``unfreeze plan`` tells: facts, what each strategy would do and take, and what the rules alone would choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unfreeze.choose.candidates import Candidate
from unfreeze.choose.cost import Cost
from unfreeze.choose.facts import Facts
from unfreeze.choose.settings import Decisions
from unfreeze.choose.trials import PRICE, hopeless, price_of, tells_apart
from unfreeze.config import AUTO, FLOOR, READ_BY, THAWING, TrainRequest, reads
from unfreeze.contracts import Backbone
from unfreeze.errors import DataError, RequestError
from unfreeze.plan import Plan
from unfreeze.progress import Clock, Progress, Silent
from unfreeze.report.words import points
from unfreeze.training.choosing import TIME_LIMIT, candidate_plans, untried
from unfreeze.training.facing import gather_facts
from unfreeze.training.material import Material
from unfreeze.training.planning import make_plan
from unfreeze.training.prepare import read_data
from unfreeze.training.probed import probe_data
from unfreeze.training.trying import trial_part
from unfreeze.training.weighing import weigh

if TYPE_CHECKING:
    from unfreeze.training.costing import CostModel


@dataclass(frozen=True, eq=False)
class Option:
    """A plan that could be run, and its cost. ``candidate``: where it is one that ``--strategy auto`` would try."""

    name: str
    plan: Plan
    cost: Cost
    phases: tuple[str, ...]
    reason: str
    candidate: Candidate | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return {
            "name": self.name,
            "tried_by_auto": self.candidate is not None,
            "reason": self.reason,
            "in_words": list(self.phases),
            **self.cost.to_dict(),
        }


@dataclass(frozen=True)
class RuleChoice:
    """What would be taken before anything is tried, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Outlook:
    """All that is known before a training. ``unfit``: what cannot be run here, and why; ``seconds``: spent by part."""

    source: str
    backbone: str
    facts: Facts
    floor: tuple[float, float, float]
    options: tuple[Option, ...]
    unfit: tuple[tuple[str, str], ...]
    choice: RuleChoice
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, object]:
        """What ``plan --json`` prints."""
        accuracy, low, high = self.floor
        return {
            "data": self.source,
            "backbone": self.backbone,
            "facts": self.facts.to_dict(),
            "floor": {"accuracy": accuracy, "accuracy_low": low, "accuracy_high": high},
            "options": [option.to_dict() for option in self.options],
            "unfit": [{"name": name, "reason": reason} for name, reason in self.unfit],
            "choice_by_rules": {"name": self.choice.name, "reason": self.choice.reason},
            "seconds_spent": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
        }


def look_ahead(request: TrainRequest, *, progress: Progress | None = None) -> Outlook:
    """Facts, costs and the choice by rules for a request; nothing is trained but the probe, and no run is made.

    Raises RequestError or DataError when the request or its data cannot be used.
    """
    tell, clock = progress or Silent(), Clock()
    request.check()
    with clock.part("reading the data"):
        dataset = read_data(request)
    decisions = Decisions(request)
    probed = probe_data(dataset, decisions, clock, tell)
    material, probe = probed.material, probed.probe
    if decisions.thaws and decisions.text("strategy") != AUTO and not len(material.part("val")):
        raise DataError(f"{dataset.source} leaves no validation rows: give --val a share or data.")
    with clock.part("gathering facts"):
        facts = gather_facts(material, probe)
    floor = probe.probe.accuracy
    with clock.part("measuring a few batches"):
        from unfreeze.training.costing import CostModel

        weighing = _Weighing(
            material,
            CostModel(material),
            probed.plan,
            facts,
            elapsed=lambda: clock.total,
            limit=request.time_limit or TIME_LIMIT,
            error=1 - floor,
            few=not tells_apart(1 - floor, int(probe.probe.held_out.sum())),
        )
        options = tuple(weighing.options())
    return Outlook(
        source=dataset.source,
        backbone=material.backbone.name,
        facts=facts,
        floor=(floor, *probe.probe.interval),
        options=options,
        unfit=tuple(weighing.unfit),
        choice=weighing.untried
        or choose_by_rules(options, decisions.text("strategy"), floor_error=1 - floor),
        seconds=clock.seconds,
    )


class _Weighing:
    """The plans that a request could lead to, each with its cost.

    ``asked``: the plan of a strategy that was named. ``elapsed``: seconds of the time ``limit`` that are gone;
    ``error``: the share of rows that the probe gets wrong, ``few``: that these are too few to tell candidates from each
    other by.
    """

    def __init__(
        self,
        material: Material,
        model: CostModel,
        asked: Plan | None,
        facts: Facts,
        *,
        elapsed: Callable[[], float],
        limit: str,
        error: float,
        few: bool,
    ) -> None:
        self.unfit: list[tuple[str, str]] = []
        # Where ``auto`` would try nothing.
        self.untried: RuleChoice | None = None
        # The plans of candidates, before epochs are cut.
        self._weighed: list[Plan] = []
        self._material, self._model, self._asked, self._facts = material, model, asked, facts
        self._elapsed, self._limit, self._error, self._few = elapsed, limit, error, few
        self._rows, self._classes = len(material.part("train")), len(material.dataset.labels)

    def options(self) -> Iterator[Option]:
        """The strategy that was asked for, or the candidates of ``auto`` and then all other strategies."""
        decisions = self._material.decisions
        strategy = decisions.text("strategy")
        if self._asked is not None:
            self._tell(strategy)
            yield self._option(strategy, self._asked, "asked for")
        if strategy != AUTO:
            return
        yield from self._candidates()
        if not len(self._material.part("val")):
            return
        for other in THAWING:
            try:
                plan = self._plan(other, _readable_by(other, decisions.request))
                if plan in self._weighed:
                    continue
                self._tell(other)
                option = self._option(other, plan, "not tried by --strategy auto")
            except RequestError as problem:
                self.unfit.append((other, str(problem)))
                continue
            yield option

    def _candidates(self) -> Iterator[Option]:
        found = candidate_plans(self._material, self._facts, error=self._error)
        if why := untried(self._material, found, error=self._error):
            self.untried = RuleChoice(FLOOR, why)
            return
        plans, _ = weigh(
            found,
            self._material,
            self._model.predict,
            self._elapsed,
            self._limit,
            few=self._few,
            part=trial_part(self._material),
            drop=lambda candidate, why: self.unfit.append((candidate.name, why)),
            begin=lambda candidate: self._tell(candidate.name),
        )
        weighed = {}
        for candidate, plan in plans.items():
            reason, whole = candidate.reason, found[candidate].epochs
            if plan.epochs < whole:
                reason += f"; {plan.epochs} of its {whole} epochs fit into --time-limit beside its trials"
            weighed[candidate] = self._option(candidate.name, plan, reason, candidate)
        if weighed and (why := hopeless(weighed, self._error)):
            self.untried = RuleChoice(FLOOR, why)
            return
        self._weighed = [found[candidate] for candidate in weighed]
        yield from weighed.values()

    def _plan(self, strategy: str, request: TrainRequest) -> Plan:
        decisions = Decisions(replace(request, strategy=strategy))
        return make_plan(self._material.backbone, self._rows, self._classes, decisions)

    def _option(self, name: str, plan: Plan, reason: str, candidate: Candidate | None = None) -> Option:
        cost = self._model.predict(plan)
        return Option(name, plan, cost, _in_words(plan, cost, self._material.backbone), reason, candidate)

    def _tell(self, name: str) -> None:
        self._material.progress.say(f"Measuring a few batches of {name}.")


def choose_by_rules(options: Sequence[Option], strategy: str, *, floor_error: float) -> RuleChoice:
    """What the rules would take before any trial: the highest hope over the probe, less its price."""
    if strategy != AUTO:
        return RuleChoice(strategy, "It was asked for.")
    gains = {
        option: option.candidate.hope * floor_error for option in options if option.candidate is not None
    }
    if not gains:
        return RuleChoice(FLOOR, "No candidate is left to try, for the reason given with each.")
    dearest = max(option.cost.seconds for option in gains)
    worth = {option: gain - price_of(option.cost.seconds, dearest=dearest) for option, gain in gains.items()}
    best = max(worth, key=lambda option: worth[option])
    gain = gains[best]
    if gain <= PRICE / 2 or worth[best] <= 0:
        return RuleChoice(
            FLOOR,
            f"The probe is wrong on {floor_error:.1%} of the rows: nothing is expected to gain more than "
            f"{100 * gain:.1f} points, which is not worth its time.",
        )
    return RuleChoice(
        best.name,
        f"The probe is wrong on {floor_error:.1%} of the rows, and of the plans that --strategy auto would try this "
        f"one is expected to gain most for its time: {points(gain)}. Trials may find otherwise.",
    )


def _readable_by(strategy: str, request: TrainRequest) -> TrainRequest:
    """The request without the settings that this strategy does not read."""
    unread: dict[str, Any] = {name: None for name in READ_BY if not reads(strategy, name)}
    return replace(request, time_limit=None, **unread)


def _in_words(plan: Plan, cost: Cost, backbone: Backbone) -> tuple[str, ...]:
    """Each phase in a sentence or two."""
    told = []
    for phase, weighed in zip(plan.phases, cost.phases, strict=True):
        stages = [backbone.stages[thaw.stage].name for thaw in phase.thaw]
        part = f"{stages[0]} to {stages[-1]}" if len(set(stages)) > 1 else "".join(stages[:1])
        if plan.graft is not None and stages:
            trained = f"what is grafted onto {part}, and the head"
        else:
            trained = f"{part} and the head" if part else "the head alone"
        epochs = "1 epoch trains" if phase.epochs == 1 else f"{phase.epochs} epochs train"
        told.append(f"{phase.name}: {epochs} {trained}. {weighed.reason}")
    return tuple(told)
