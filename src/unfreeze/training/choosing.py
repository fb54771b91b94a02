"""``--strategy auto``: candidates by rule, trials within the time there is, one full training, and a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import gt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfreeze.amounts import counted, duration
from unfreeze.bundle.folder import CHECKPOINTS
from unfreeze.choose.candidates import Candidate, list_candidates
from unfreeze.choose.cost import Cost
from unfreeze.choose.facts import Facts
from unfreeze.choose.trials import SHORT, Expectation, Search, hopeless, search, tells_apart
from unfreeze.choose.verdict import Verdict
from unfreeze.config import FLOOR, THAWING, seconds_of
from unfreeze.engine.checkpoints import check_same
from unfreeze.errors import StoppedError
from unfreeze.heads.probe import ProbeResult
from unfreeze.plan import Plan
from unfreeze.runtime.files import write_atomically
from unfreeze.training.choice_record import damaged, read_choice
from unfreeze.training.facing import gather_facts
from unfreeze.training.identity import identify_choice
from unfreeze.training.material import Material
from unfreeze.training.planning import plan_candidate, said_settings, shorten
from unfreeze.training.stopping import stop_on_signal
from unfreeze.training.trial_record import Begun, Planned, TrialRecord, read_trials
from unfreeze.training.trying import Trier, trial_part, trial_rows
from unfreeze.training.weighing import fit_late, weigh

if TYPE_CHECKING:
    from unfreeze.engine.fit import Fit

CHOICE, TRIALS = "choice.json", "trials.json"
# About as long as fastai needs on 500 pictures and two cores (8 minutes, bench/prefix.py).
TIME_LIMIT = "10m"


@dataclass(frozen=True, eq=False)
class Choice:
    """What was tried and taken, with the evidence.

    ``record``: floor, facts, candidates, trials, expectations and decisions, as ``choice.json`` has them. ``plan``: of
    the candidate that was taken, whose gain is ``expected``; both None where it was the probe. ``verdict``: after the
    full training ``trained``, shipped or not, which took ``seconds`` (None where it was resumed), beside its
    ``restarts`` at lower rates.
    """

    record: Mapping[str, Any]
    plan: Plan | None
    expected: Expectation | None
    verdict: Verdict | None = None
    restarts: int = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    trained: Fit | None = None

    @property
    def shipped(self) -> str:
        """The strategy whose result is shipped."""
        if self.plan is None or self.verdict is None or not self.verdict.ship:
            return FLOOR
        return self.plan.strategy

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        return self.verdict.reason if self.verdict is not None else str(self.record["decisions"][-1])

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-serialisable."""
        return {
            **self.record,
            "decisions": [*self.record["decisions"], *self.notes],
            "restarts_at_lower_rates": self.restarts,
            "training_seconds": self.seconds,
            "verdict": None if self.verdict is None else vars(self.verdict),
            "shipped": self.shipped,
        }


def choose(
    folder: Path,
    material: Material,
    found: ProbeResult,
    *,
    predict: Callable[[Plan], Cost],
    elapsed: Callable[[], float],
) -> Choice:
    """Try candidates and pick one, or the probe that was ``found``; written to ``choice.json``.

    ``predict``: the cost of a whole training. ``elapsed``: seconds of the time limit that are gone.
    """
    probe, decisions = found.probe, material.decisions
    asked = decisions.request.time_limit
    limit = asked or TIME_LIMIT
    decisions.record(
        "time_limit", limit, "user" if asked else "default", "for trials and the final training together"
    )
    path = folder / CHOICE
    if decisions.request.resume and path.exists():
        choice = _choice_from(path, material)
        _tell_of_limits(material, limit, choice.record["time_limit_seconds"])
        return choice
    rows, error = int(probe.held_out.sum()), 1 - probe.accuracy
    floor = {
        "strategy": FLOOR,
        "accuracy_out_of_fold": probe.accuracy,
        "interval": list(probe.interval),
        "rows": rows,
    }
    facts = gather_facts(material, found)
    for fact in facts.leading:
        material.progress.say(fact.sentence)
    record: dict[str, Any] = {
        "floor": floor,
        "facts": facts.to_dict(),
        "time_limit_seconds": seconds_of(limit),
        "settings": identify_choice(material),
        "candidates": [],
        "trials": [],
        "expectations": [],
        "decisions": [],
        "chosen": None,
        "epochs_by_phase": None,
    }
    candidates = candidate_plans(material, facts, error=error)
    if sentence := untried(material, candidates, error=error):
        return _not_tried(material, record, [sentence], folder)
    trials = folder / CHECKPOINTS / TRIALS
    few = not tells_apart(error, rows)
    begun, plans = _begun_before(trials, material, candidates) or _begin(
        material, candidates, predict, elapsed, limit, few=few
    )
    if plans and (sentence := hopeless(plans, error)):
        # The one that was hoped for has found no time or no room.
        return _not_tried(material, record, [*begun.dropped, sentence], folder)
    record["time_limit_seconds"] = begun.time_limit_seconds
    _tell_of_limits(material, limit, begun.time_limit_seconds)
    leading = list(begun.dropped)
    if few and plans:
        leading.append(
            f"The probe is wrong on {round(error * rows)} of {rows} rows, too few to tell candidates from each "
            "other by: the most hopeful one is tried."
        )
        material.progress.say(leading[-1])
    searched = _try_out(material, found, begun, plans, trials)
    seconds, closing = begun.seconds, []
    plan = None
    if searched.chosen is not None:
        # As trials were counted, so that a run which was stopped among them comes to the same.
        left = begun.left - sum(trial.seconds for trial in searched.trials)
        plan, cut = fit_late(plans[searched.chosen.candidate], predict, left, late=searched.late)
        if cut:
            closing.append(cut)
            material.progress.say(cut)
    record |= {
        "candidates": [
            candidate.to_dict() | {"predicted_seconds": seconds[candidate.name], "epochs": plan.epochs}
            for candidate, plan in plans.items()
        ],
        "trials": [trial.to_dict() for trial in searched.trials],
        "expectations": [expectation.to_dict() for expectation in searched.expectations],
        "decisions": [*leading, *searched.decisions, *closing],
        "chosen": None if searched.chosen is None else searched.chosen.candidate.name,
        "epochs_by_phase": None if plan is None else [phase.epochs for phase in plan.phases],
    }
    return _written(Choice(record, plan, searched.chosen), folder)


def _try_out(
    material: Material, found: ProbeResult, begun: Begun, plans: Mapping[Candidate, Plan], path: Path
) -> Search:
    """Trials of the candidates, kept at ``path``; those that ``begun`` has are taken up again.

    Raises StoppedError when the run was asked to stop.
    """
    seconds = begun.seconds
    named = {candidate.name: plan for candidate, plan in plans.items()}
    with stop_on_signal(material.progress, then="finished trials are kept") as should_stop:
        try:
            searched = search(
                tuple(plans),
                Trier(material, found, named, TrialRecord(path, begun), should_stop),
                floor_error=1 - found.probe.accuracy,
                seconds=lambda candidate: seconds[candidate.name],
                budget=begun.left - max(seconds.values(), default=0.0),
                part=trial_part(material),
                short=lambda candidate: shorten(plans[candidate], SHORT).epochs / plans[candidate].epochs,
                say=material.progress.say,
            )
            if should_stop():
                # Asked after the last step of the last trial, while its rows were scored.
                raise StoppedError
            return searched
        except StoppedError:
            raise StoppedError(
                "Stopped as asked; the trials that were finished are kept. Continue with --resume."
            ) from None


def _not_tried(material: Material, record: Mapping[str, Any], why: list[str], folder: Path) -> Choice:
    """The probe, without a trial; the last sentence of ``why`` has not been told yet."""
    material.progress.say(why[-1])
    return _written(Choice({**record, "decisions": why}, None, None), folder)


def _begin(
    material: Material,
    candidates: Mapping[Candidate, Plan],
    predict: Callable[[Plan], Cost],
    elapsed: Callable[[], float],
    limit: str,
    *,
    few: bool,
) -> tuple[Begun, dict[Candidate, Plan]]:
    """What trials begin with, and the plans of the candidates; see ``weigh``."""
    told: list[str] = []

    def drop(candidate: Candidate, why: str) -> None:
        told.append(f"{candidate.name}: {why}.")
        material.progress.say(told[-1])

    part = trial_part(material)
    plans, left = weigh(candidates, material, predict, elapsed, limit, few=few, part=part, drop=drop)
    begun = Begun(
        settings=identify_choice(material),
        time_limit_seconds=seconds_of(limit),
        left=left,
        candidates=tuple(
            Planned(
                name=candidate.name,
                epochs=tuple(phase.epochs for phase in plan.phases),
                seconds=predict(plan).seconds,
            )
            for candidate, plan in plans.items()
        ),
        dropped=tuple(told),
    )
    return begun, plans


def _begun_before(
    path: Path, material: Material, candidates: Mapping[Candidate, Plan]
) -> tuple[Begun, dict[Candidate, Plan]] | None:
    """What the trials of a run that was stopped among them began with; None where there are none to go on with.

    Raises RequestError where they are of other settings or data.
    """
    begun = read_trials(path) if material.decisions.request.resume else None
    if begun is None:
        return None
    check_same(begun.settings, identify_choice(material), what="this was tried")
    known = {candidate.name: candidate for candidate in candidates}
    plans = {}
    for one in begun.candidates:
        if one.name not in known or (plan := _with_epochs(candidates[known[one.name]], one.epochs)) is None:
            return None
        plans[known[one.name]] = plan
    material.progress.say(f"{counted(len(begun.trials), 'trial')} of before are taken up again.")
    return begun, plans


def _tell_of_limits(material: Material, limit: str, before: float) -> None:
    """Say that another limit than the one that trials were begun with comes too late for them."""
    if before == seconds_of(limit):
        return
    told = f"trials and epochs are those of {duration(before)}; for what starts again at lower rates"
    origin = material.decisions.entries["time_limit"].origin
    material.decisions.record("time_limit", limit, origin, told)
    material.progress.say(f"--time-limit {limit}: {told}.")


def untried(material: Material, candidates: Iterable[Candidate], *, error: float) -> str:
    """Why nothing is tried, in a sentence, or nothing where there is something to try."""
    if not len(material.part("val")):
        return (
            "There are no validation rows, by which a training would be judged: the probe is taken. Give --val a share "
            "or data, or name a --strategy."
        )
    return hopeless(candidates, error)


def _written(choice: Choice, folder: Path) -> Choice:
    write_choice(choice.to_dict(), folder)
    return choice


def candidate_plans(material: Material, facts: Facts, *, error: float) -> dict[Candidate, Plan]:
    """The candidates of which something is hoped, the most hopeful first, with their full plans.

    ``facts``: of these rows; ``error``: the share of them that the probe gets wrong. Of candidates that come to the
    same training, as on a network of one stage, the first stays.
    """
    request, backbone = material.decisions.request, material.backbone
    rows, classes = len(material.part("train")), len(material.dataset.labels)
    found = list_candidates(
        backbone,
        rows=rows,
        trial_rows=trial_rows(material),
        classes=classes,
        floor_error=error,
        facts=facts,
        said=said_settings(request),
    )
    plans: dict[Plan, tuple[Candidate, Plan]] = {}
    for one in (candidate for candidate in found if candidate.hope > 0):
        plan = plan_candidate(one, backbone, rows, classes, request)
        phases = tuple(replace(phase, name=str(number)) for number, phase in enumerate(plan.phases))
        plans.setdefault(replace(plan, strategy="any", phases=phases), (one, plan))
    return dict(plans.values())


def _choice_from(path: Path, material: Material) -> Choice:
    """What was chosen before the run was stopped, to go on with.

    Raises RequestError where it was chosen with other settings or data, and where the file is damaged.
    """
    record = read_choice(path)
    check_same(record["settings"], identify_choice(material), what="this was chosen")
    return _taken_up(path, record, material)


def _taken_up(path: Path, record: dict[str, Any], material: Material) -> Choice:
    name, restarts = record["chosen"], record.get("restarts_at_lower_rates", 0)
    if name is None:
        return Choice(record, None, None)
    known = {one["name"]: one for one in record["candidates"]}.get(name)
    if known is None or known["strategy"] not in THAWING:
        raise damaged(path, f"{name!r} is no candidate")
    candidate = Candidate.from_dict(known)
    rows, classes = len(material.part("train")), len(material.dataset.labels)
    plan = plan_candidate(candidate, material.backbone, rows, classes, material.decisions.request)
    fitting = _with_epochs(plan, record["epochs_by_phase"] or ())
    if fitting is None:
        raise damaged(path, "its epochs are not those of a plan")
    expected = {one["candidate"]: one for one in record["expectations"]}[name]
    return Choice(record, fitting, Expectation.from_dict(expected, candidate), restarts=restarts)


def _with_epochs(plan: Plan, epochs: Sequence[int]) -> Plan | None:
    """The plan with so many epochs in its phases; None where they are not such as it can be cut to."""
    # Plans are cut to fit into the time, and never made longer.
    if len(epochs) != len(plan.phases) or any(map(gt, epochs, (phase.epochs for phase in plan.phases))):
        return None
    phases = tuple(replace(phase, epochs=count) for phase, count in zip(plan.phases, epochs, strict=True))
    return replace(plan, phases=phases)


def write_choice(record: Mapping[str, Any], folder: Path) -> None:
    """Write ``choice.json``, of what ``Choice.to_dict`` gave."""
    write_atomically(folder / CHOICE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
