"""The full training of what was chosen, watched and judged: it or the probe is shipped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.amounts import counted
from unfreeze.bundle.folder import CHECKPOINTS
from unfreeze.choose.cost import Cost
from unfreeze.choose.trials import tells_apart
from unfreeze.choose.verdict import LOWER, RESTARTS, CollapseWatch, Verdict, judge
from unfreeze.config import seconds_of
from unfreeze.errors import DivergedError, UnfreezeError
from unfreeze.heads.probe import Probe
from unfreeze.plan import Plan
from unfreeze.proportions import effective_rows
from unfreeze.training.choosing import Choice, write_choice
from unfreeze.training.material import Material
from unfreeze.training.planning import describe_plan, lower_rates, record_plan
from unfreeze.training.probing import Fitted, fit_rows
from unfreeze.training.thawing import thaw
from unfreeze.training.weighing import fewest, fit_into

if TYPE_CHECKING:
    from unfreeze.engine.fit import EpochRecord, Fit


class CollapsedError(UnfreezeError):
    """Validation accuracy fell clearly below the floor's: the rate was too high."""


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
    floor_right, unseen = _floor_right(material, probe, val)
    # A row that the network was trained on a copy of says nothing of it, nor one that every fit of the probe has seen.
    own = unseen & ~np.isin(material.keys(val), material.keys(material.part("train")))
    own = own if own.any() else ~own
    floor_rows = effective_rows(floor_right, material.together(val))
    notes: list[str] = []
    floor = choice.record["floor"]
    first, stopped_at = choice.plan, choice.restarts
    given_up = "Every training failed or fell below the probe, at lower rates too: the probe is shipped."
    for restarts in range(choice.restarts, RESTARTS + 1):
        if restarts > stopped_at:
            left = max(0.0, seconds_of(decisions.text("time_limit")) - elapsed())
            fitting = fit_into(first, predict, left)
            if fitting is None:
                given_up = (
                    f"It failed or fell below the probe, and for another training {left:.0f} s of --time-limit are "
                    f"left, into which fewer than {counted(fewest(first), 'epoch')} fit: the probe is shipped."
                )
                break
            first = fitting
            notes.append(
                f"It starts again at a third of its rates, for {counted(first.epochs, 'epoch')}: what was hoped and "
                "what its trials found does not count any more."
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
        patience = min((phase.patience for phase in plan.phases if phase.patience), default=None)
        watch = _Watch(CollapseWatch(float(floor_right.mean()), floor_rows, plan.epochs, patience))
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
            # What was hoped and tried was of rates that have failed, and says nothing of these.
            share = predict(plan).seconds / max(expected.seconds, 1e-9)
            price = expected.price * min(1.0, share)
            measured = replace(
                expected, found=None, found_error=None, hoped=None, hoped_error=None, price=price
            )
        elif tells_apart(1 - floor["accuracy_out_of_fold"], floor["rows"]):
            # Trials know enough, so that a tie is one.
            measured = replace(expected, hoped=None, hoped_error=None)
        verdict = judge(
            measured,
            right[own],
            floor_right[own],
            groups=material.together(val[own]),
            among=_tried(choice.record),
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


def _tried(record: Mapping[str, Any]) -> int:
    """How many candidates had a trial that did not fail: short ones pick those that are tried at full length."""
    return max(1, len({trial["candidate"] for trial in record["trials"] if not trial["failed"]}))


@dataclass(frozen=True)
class _Watch:
    collapse: CollapseWatch

    def __call__(self, record: EpochRecord) -> None:
        if self.collapse.fallen(record.val_accuracy):
            raise CollapsedError(
                f"Phase {record.phase}, epoch {record.epoch + 1}: {record.val_accuracy:.1%} right on validation, the "
                f"probe {self.collapse.floor_accuracy:.1%}: the rate is too high."
            )


def _floor_right(
    material: Material, probe: Probe, rows: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the probe is right on each of these rows, and whether that is from a fit that never saw it."""
    chosen = fit_rows(material.dataset, material.features)
    places = material.places(rows)
    arrays = material.features.arrays
    logits = probe.head.logits(np.concatenate([arrays[b][places] for b in probe.boundaries], axis=1))
    # Rows that the head was fitted on were predicted out of fold.
    fitted = chosen[places]
    among = np.cumsum(chosen)[places[fitted]] - 1
    logits[fitted] = probe.oof_logits[among]
    unseen = np.ones(len(rows), dtype=bool)
    unseen[fitted] = probe.held_out[among]
    return np.asarray(logits.argmax(axis=1) == material.dataset.label[rows]), unseen
