"""Which candidates there is time and room for, and with how many of their epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from unfreeze.amounts import counted, duration, size
from unfreeze.backbones.staging import BREAKS
from unfreeze.choose.candidates import Candidate
from unfreeze.choose.cost import Cost
from unfreeze.choose.trials import FOLDS
from unfreeze.config import seconds_of
from unfreeze.errors import DataError, StoppedError, UnfreezeError, first_line
from unfreeze.plan import Plan
from unfreeze.training.facing import free_memory
from unfreeze.training.material import Material
from unfreeze.training.pacing import resident_bytes
from unfreeze.training.planning import shorten

# A choice: with fewer epochs a fine-tuning has not begun to follow its schedule.
LEAST_EPOCHS = 3
# How late trials are told to have been.
WORTH_TELLING = 1.1
# What a plan's epochs are cut to where all of them take too long.
SHARES = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1)


def weigh(
    wanted: Mapping[Candidate, Plan],
    material: Material,
    predict: Callable[[Plan], Cost],
    elapsed: Callable[[], float],
    limit: str,
    *,
    few: bool,
    part: float,
    drop: Callable[[Candidate, str], None],
    begin: Callable[[Candidate], None] = lambda _: None,
) -> tuple[dict[Candidate, Plan], float]:
    """The plans of the candidates, cut to what time there is, and the seconds of the limit that are left.

    ``predict``: the cost of a whole training; ``elapsed``: seconds of the time limit that are gone. ``few``: of the
    first alone that there is time and room for. ``part``: of the rows of a training, how many a trial learns from; the
    final training fits in beside its trials on both halves. ``begin`` is told whose cost is measured next, and ``drop``
    who falls out, and why, as one that breaks while it is measured does. The first is measured however late it is.
    """

    def cut(candidate: Candidate, plan: Plan, left: float) -> Plan | None:
        shorter = fit_into(plan, predict, left / (1 + FOLDS * part))
        if shorter is None:
            needed = f"{duration(predict(plan).seconds)} for {counted(plan.epochs, 'epoch')}"
            least = counted(fewest(plan), "epoch")
            drop(
                candidate,
                f"{needed}, and {left:.0f} s of --time-limit are left: fewer than {least} would fit",
            )
        return shorter

    room, whole = _room_for_training(material), seconds_of(limit)
    measured: dict[Candidate, Plan] = {}
    for number, (candidate, plan) in enumerate(wanted.items()):
        if number and elapsed() >= whole:
            drop(candidate, f"--time-limit {limit} is over before its cost is measured")
            continue
        begin(candidate)
        # What costs are made of is measured when the first of its kind is asked for.
        try:
            cost = predict(plan)
        except (StoppedError, DataError):
            raise
        except (UnfreezeError, *BREAKS) as problem:
            drop(candidate, f"its cost cannot be measured: {first_line(problem).rstrip('.')}")
            continue
        if why := _too_large(cost, room):
            drop(candidate, why)
            continue
        if not few:
            measured[candidate] = plan
        elif (found := cut(candidate, plan, max(0.0, whole - elapsed()))) is not None:
            return {candidate: found}, max(0.0, whole - elapsed())
    left = max(0.0, whole - elapsed())
    fitting = {candidate: cut(candidate, plan, left) for candidate, plan in measured.items()}
    return {candidate: plan for candidate, plan in fitting.items() if plan is not None}, left


def _room_for_training(material: Material) -> int:
    """Bytes that a training may take, in all; what the program holds already is counted in a prediction."""
    return free_memory(material.device) + resident_bytes(material.device)


def _too_large(cost: Cost, room: int) -> str:
    """Why memory has no room for a training, or nothing where it has."""
    if cost.memory_bytes <= room:
        return ""
    return f"it would take {size(cost.memory_bytes)} of memory, and there are {size(room)}"


def fit_into(plan: Plan, predict: Callable[[Plan], Cost], seconds: float) -> Plan | None:
    """The plan with as many of its epochs as fit into the seconds, or None when they are too few."""
    if predict(plan).seconds <= seconds:
        return plan
    return next((shorter for shorter in _shorter(plan) if predict(shorter).seconds <= seconds), None)


def fewest(plan: Plan) -> int:
    """The epochs of the shortest plan that this one may be cut to."""
    return shortest(plan).epochs


def shortest(plan: Plan) -> Plan:
    """The shortest plan that this one may be cut to."""
    return min(_shorter(plan), key=lambda shorter: shorter.epochs, default=plan)


def fit_late(plan: Plan, predict: Callable[[Plan], Cost], left: float, *, late: float) -> tuple[Plan, str]:
    """The plan with as many epochs as fit into what is ``left``, in seconds, and a sentence where some are cut.

    ``late``: how many times longer its trials took than was predicted. Where too few fit it has the fewest that it may
    have: what was found to be worth training is trained.
    """
    fitting = fit_into(plan, predict, left / late) or shortest(plan)
    if fitting.epochs == plan.epochs:
        return plan, ""
    why = f", and its trials took {late:.1f} times what was predicted" if late >= WORTH_TELLING else ""
    return fitting, (
        f"It is trained for {fitting.epochs} of its {counted(plan.epochs, 'epoch')}: {max(0.0, left):.0f} s of "
        f"--time-limit are left{why}."
    )


def _shorter(plan: Plan) -> Iterator[Plan]:
    for share in SHARES:
        shorter = shorten(plan, share)
        if shorter.epochs < LEAST_EPOCHS:
            return
        yield shorter
