"""``--strategy auto``: candidates by rule, trials within the time there is, one full training, and a verdict."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import gt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.amounts import counted, duration, size
from unfreeze.bundle.folder import CHECKPOINTS
from unfreeze.choose.candidates import Candidate, list_candidates
from unfreeze.choose.cost import Cost
from unfreeze.choose.facts import Facts
from unfreeze.choose.trials import Expectation, hopeless, search
from unfreeze.choose.verdict import LOWER, RESTARTS, CollapseWatch, Verdict, judge
from unfreeze.config import FLOOR, THAWING, seconds_of
from unfreeze.engine.checkpoints import check_same
from unfreeze.errors import DivergedError, UnfreezeError
from unfreeze.heads.probe import Probe, ProbeResult
from unfreeze.plan import Plan
from unfreeze.proportions import effective_rows
from unfreeze.runtime.files import write_atomically
from unfreeze.training.choice_record import damaged, read_choice
from unfreeze.training.facing import free_memory, gather_facts
from unfreeze.training.identity import identify_choice
from unfreeze.training.material import Material
from unfreeze.training.pacing import resident_bytes
from unfreeze.training.planning import (
    describe_plan,
    lower_rates,
    plan_candidate,
    record_plan,
    said_settings,
    shorten,
)
from unfreeze.training.probing import Fitted, fit_rows
from unfreeze.training.stopping import stop_on_signal
from unfreeze.training.thawing import thaw
from unfreeze.training.trying import Trier

if TYPE_CHECKING:
    from unfreeze.engine.fit import EpochRecord, Fit

CHOICE = "choice.json"
# About as long as fastai needs on 500 pictures and two cores (8 minutes, bench/prefix.py).
TIME_LIMIT = "10m"
# Of what is left of the time limit, the share that the final training may take; trials share the rest with measuring.
FINAL_SHARE = 0.5
# With fewer epochs a fine-tuning has not begun to follow its schedule.
LEAST_EPOCHS = 3


class CollapsedError(UnfreezeError):
    """Validation accuracy fell clearly below the floor's: the rate was too high."""


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
    probe = found.probe

    decisions = material.decisions
    asked = decisions.request.time_limit
    limit = asked or TIME_LIMIT
    decisions.record(
        "time_limit", limit, "user" if asked else "default", "for trials and the final training together"
    )
    path = folder / CHOICE
    if decisions.request.resume and path.exists():
        choice = _choice_from(path, material)
        before = choice.record["time_limit_seconds"]
        if before != seconds_of(limit):
            told = f"trials and epochs are those of {duration(before)}; for what starts again at lower rates"
            decisions.record("time_limit", limit, decisions.entries["time_limit"].origin, told)
            material.progress.say(f"--time-limit {limit}: {told}.")
        return choice
    rows = int(probe.held_out.sum())
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
    candidates = candidate_plans(material, facts, error=1 - probe.accuracy)
    if sentence := untried(material, candidates, error=1 - probe.accuracy):
        material.progress.say(sentence)
        return _written(Choice(record | {"decisions": [sentence]}, None, None), folder)
    wanted, late = _measured(candidates, material, predict, elapsed, limit)
    left = max(0.0, seconds_of(limit) - elapsed())
    plans, dropped = _cut(wanted, material, predict, left)
    if plans and (sentence := hopeless(plans, 1 - probe.accuracy)):
        # The one that was hoped for has found no time or no room.
        material.progress.say(sentence)
        return _written(Choice(record | {"decisions": [*late, *dropped, sentence]}, None, None), folder)
    seconds = {candidate.name: predict(plan).seconds for candidate, plan in plans.items()}
    with stop_on_signal(material.progress, then="trials are not saved") as should_stop:
        trier = Trier(
            material, probe, {candidate.name: plan for candidate, plan in plans.items()}, should_stop
        )
        searched = search(
            tuple(plans),
            trier,
            floor_error=1 - probe.accuracy,
            seconds=lambda candidate: seconds[candidate.name],
            budget=left - max(seconds.values(), default=0.0),
            say=material.progress.say,
        )
    plan = None if searched.chosen is None else plans[searched.chosen.candidate]
    record |= {
        "candidates": [
            candidate.to_dict() | {"predicted_seconds": seconds[candidate.name], "epochs": plan.epochs}
            for candidate, plan in plans.items()
        ],
        "trials": [trial.to_dict() for trial in searched.trials],
        "expectations": [expectation.to_dict() for expectation in searched.expectations],
        "decisions": [*late, *dropped, *searched.decisions],
        "chosen": None if searched.chosen is None else searched.chosen.candidate.name,
        "epochs_by_phase": None if plan is None else [phase.epochs for phase in plan.phases],
    }
    return _written(Choice(record, plan, searched.chosen), folder)


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


def _measured(
    wanted: Mapping[Candidate, Plan],
    material: Material,
    predict: Callable[[Plan], Cost],
    elapsed: Callable[[], float],
    limit: str,
) -> tuple[dict[Candidate, Plan], list[str]]:
    """The candidates whose cost is measured within the time limit and fits into memory; a sentence for each other."""
    room = room_for_training(material)
    plans: dict[Candidate, Plan] = {}
    dropped: list[str] = []
    for number, (candidate, plan) in enumerate(wanted.items()):
        if number and elapsed() >= seconds_of(limit):
            dropped.append(f"{candidate.name}: --time-limit {limit} is over before its cost is measured.")
        # What costs are made of is measured when the first of its kind is asked for.
        elif why := too_large(predict(plan), room):
            dropped.append(f"{candidate.name}: {why}.")
        else:
            plans[candidate] = plan
            continue
        material.progress.say(dropped[-1])
    return plans, dropped


def room_for_training(material: Material) -> int:
    """Bytes that a training may take, in all; what the program holds already is counted in a prediction."""
    return free_memory(material.device) + resident_bytes(material.device)


def too_large(cost: Cost, room: int) -> str:
    """Why memory has no room for a training, or nothing where it has."""
    if cost.memory_bytes <= room:
        return ""
    return f"it would take {size(cost.memory_bytes)} of memory, and there are {size(room)}"


def _cut(
    wanted: Mapping[Candidate, Plan], material: Material, predict: Callable[[Plan], Cost], left: float
) -> tuple[dict[Candidate, Plan], list[str]]:
    """The plans of the candidates, cut to what time there is, and why others were dropped."""
    plans, dropped = {}, []
    for candidate, plan in wanted.items():
        fitting = fit_into(plan, predict, left * FINAL_SHARE)
        if fitting is not None:
            plans[candidate] = fitting
            continue
        sentence = (
            f"{candidate.name}: {duration(predict(plan).seconds)} for {counted(plan.epochs, 'epoch')}, and {left:.0f} "
            f"s of --time-limit are left: fewer than {LEAST_EPOCHS} epochs would fit."
        )
        dropped.append(sentence)
        material.progress.say(sentence)
    return plans, dropped


def candidate_plans(material: Material, facts: Facts, *, error: float) -> dict[Candidate, Plan]:
    """The candidates of which something is hoped, the most hopeful first, with their full plans.

    ``facts``: of these rows; ``error``: the share of them that the probe gets wrong. Of candidates that come to the
    same training, as on a network of one stage, the first stays.
    """
    request, backbone = material.decisions.request, material.backbone
    rows, classes = len(material.part("train")), len(material.dataset.labels)
    found = list_candidates(
        backbone, rows=rows, classes=classes, floor_error=error, facts=facts, said=said_settings(request)
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
    epochs = record["epochs_by_phase"] or ()
    # Plans are cut to fit into the time, and never made longer.
    if len(epochs) != len(plan.phases) or any(map(gt, epochs, (phase.epochs for phase in plan.phases))):
        raise damaged(path, "its epochs are not those of a plan")
    phases = tuple(replace(phase, epochs=count) for phase, count in zip(plan.phases, epochs, strict=True))
    expected = {one["candidate"]: one for one in record["expectations"]}[name]
    return Choice(
        record, replace(plan, phases=phases), Expectation.from_dict(expected, candidate), restarts=restarts
    )


def fit_into(plan: Plan, predict: Callable[[Plan], Cost], seconds: float) -> Plan | None:
    """The plan with as many of its epochs as fit into the seconds, or None when they are too few."""
    if predict(plan).seconds <= seconds:
        return plan
    for share in (0.75, 0.5, 0.35, 0.25, 0.15, 0.1):
        shorter = shorten(plan, share)
        if shorter.epochs < LEAST_EPOCHS:
            return None
        if predict(shorter).seconds <= seconds:
            return shorter
    return None


def train_chosen(
    folder: Path,
    material: Material,
    choice: Choice,
    fitted: Fitted,
    probe: Probe,
    *,
    predict: Callable[[Plan], Cost],
    elapsed: Callable[[], float],
) -> tuple[Choice, Fitted, Fit | None]:
    """The full training of what was chosen, and whether it or the probe (``fitted``) is shipped.

    A training that falls clearly below the probe, or whose loss is not finite, starts again at a third of its rates,
    twice at most, with the epochs that fit into what is left of the time limit. ``predict`` and ``elapsed``: as for
    ``choose``.
    """
    if choice.plan is None:
        return choice, fitted, None
    expected = choice.expected
    assert expected is not None
    decisions, backbone, progress = material.decisions, material.backbone, material.progress
    val = material.part("val")
    floor_right = _floor_right(material, probe, val)
    # A row that the network was trained on a copy of says nothing of it.
    own = ~np.isin(material.keys(val), material.keys(material.part("train")))
    own = own if own.any() else ~own
    notes: list[str] = []
    first, stopped_at = choice.plan, choice.restarts
    given_up = "Every training failed or fell below the probe, at lower rates too: the probe is shipped."
    for restarts in range(choice.restarts, RESTARTS + 1):
        if restarts > stopped_at:
            left = max(0.0, seconds_of(decisions.text("time_limit")) - elapsed())
            fitting = fit_into(first, predict, left)
            if fitting is None:
                given_up = (
                    f"It failed or fell below the probe, and for another training {left:.0f} s of --time-limit are "
                    f"left, into which fewer than {LEAST_EPOCHS} epochs fit: the probe is shipped."
                )
                break
            first = fitting
            notes.append(
                f"It starts again at a third of its rates, for {counted(first.epochs, 'epoch')}: what its trials found "
                "does not count any more."
            )
            progress.say(notes[-1])
            record = {**choice.record, "epochs_by_phase": [phase.epochs for phase in first.phases]}
            choice = replace(choice, record=record)
            # They are of higher rates: a run that is stopped now could not go on from them.
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        choice = replace(choice, restarts=restarts, notes=tuple(notes))
        # A run that is stopped now goes on at these rates.
        write_choice(choice.to_dict(), folder)
        plan = lower_rates(first, LOWER**restarts)
        progress.say(describe_plan(plan, backbone))
        watch = _Watch(
            CollapseWatch(float(floor_right.mean()), effective_rows(floor_right, material.together(val)))
        )
        # Checkpoints that lie there are of the rates with which the run was stopped.
        resume = bool(decisions.request.resume) and restarts == stopped_at
        began = time.perf_counter()
        try:
            trained, fit = thaw(folder, material, plan, resume=resume, watch=watch)
        except (CollapsedError, DivergedError) as problem:
            told = f"{problem.where}." if isinstance(problem, DivergedError) else str(problem)
            notes.append(told)
            progress.say(told)
            continue
        right = np.zeros(len(val), dtype=bool)
        right[np.searchsorted(val, trained.rows)] = trained.logits.argmax(axis=1) == trained.y
        measured = expected
        if restarts:
            # Its trials were of rates that have failed, and say nothing of these.
            share = predict(plan).seconds / max(expected.seconds, 1e-9)
            price = expected.price * min(1.0, share)
            measured = replace(expected, found=None, found_error=None, price=price)
        verdict = judge(
            measured,
            right[own],
            floor_right[own],
            groups=material.together(val[own]),
            among=_tried_fully(choice.record),
        )
        progress.say(verdict.reason)
        if verdict.ship:
            record_plan(plan, backbone, decisions)
        seconds = None if resume else time.perf_counter() - began
        choice = replace(choice, plan=plan, verdict=verdict, seconds=seconds, trained=fit)
        write_choice(choice.to_dict(), folder)
        return (choice, trained, fit) if verdict.ship else (choice, fitted, None)
    verdict = Verdict(False, 0.0, given_up)
    progress.say(verdict.reason)
    choice = replace(choice, verdict=verdict, notes=tuple(notes))
    write_choice(choice.to_dict(), folder)
    return choice, fitted, None


def _tried_fully(record: Mapping[str, Any]) -> int:
    """How many candidates had a trial of full length; at least one was taken."""
    full = {trial["candidate"] for trial in record["trials"] if trial["share_of_epochs"] == 1.0}
    return max(1, len(full))


@dataclass(frozen=True)
class _Watch:
    collapse: CollapseWatch

    def __call__(self, record: EpochRecord) -> None:
        if self.collapse.fallen(record.val_accuracy):
            raise CollapsedError(
                f"Phase {record.phase}, epoch {record.epoch + 1}: {record.val_accuracy:.1%} right on validation, the "
                f"probe {self.collapse.floor_accuracy:.1%}: the rate is too high."
            )


def write_choice(record: Mapping[str, Any], folder: Path) -> None:
    """Write ``choice.json``, of what ``Choice.to_dict`` gave."""
    write_atomically(folder / CHOICE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _floor_right(material: Material, probe: Probe, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether the probe is right on each of these rows, from a fit that never saw it."""
    chosen = fit_rows(material.dataset, material.features)
    places = material.places(rows)
    arrays = material.features.arrays
    logits = probe.head.logits(np.concatenate([arrays[b][places] for b in probe.boundaries], axis=1))
    # Rows that the head was fitted on were predicted out of fold.
    fitted = chosen[places]
    logits[fitted] = probe.oof_logits[np.cumsum(chosen)[places[fitted]] - 1]
    return np.asarray(logits.argmax(axis=1) == material.dataset.label[rows])
