"""What precision and store came to, among the decisions of a training, for whoever reads them afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unfreeze.choose.settings import Decisions
from unfreeze.config import AUTO
from unfreeze.engine.frozen_pass import Features
from unfreeze.training.material import Material

if TYPE_CHECKING:
    from unfreeze.engine.task import Fit


def record_used(material: Material, fit: Fit | None) -> None:
    """Note what was used; ``fit``: the training that is shipped, None for the probe.

    Only when all is trained: until then a checkpoint is known by the words that were asked for.
    """
    decisions, features = material.decisions, material.features
    decided = {} if fit is None else fit.decided
    precision = {"frozen pass": material.executor.precision}
    why = [f"the frozen pass: {decisions.entries['executor'].reason}"]
    for phase in () if fit is None else fit.ledger:
        precision[f"phase {phase.phase}"] = phase.precision
        if phase.phase in decided:
            why.append(
                decided[phase.phase].precision or f"Phase {phase.phase}: there was no other to choose from."
            )
    _record(decisions, "precision", precision, why)
    store = {"features": _switch(features.kept)}
    store |= {f"phase {name}": _switch(one.stored) for name, one in decided.items()}
    reasons = [_of_features(features), *(f"Phase {name}: {one.store}" for name, one in decided.items())]
    _record(decisions, "store", store, reasons)


def _record(decisions: Decisions, name: str, used: Mapping[str, str], why: list[str]) -> None:
    """What ``auto`` came to: one word where that is the same everywhere, else one for each part of the work.

    What was asked for stays, with what came of it where that is something else.
    """
    entry, words = decisions.entries[name], set(used.values())
    told = " ".join(f"{one[0].upper()}{one[1:].rstrip('.')}." for one in why)
    if entry.value == AUTO:
        decisions.record(name, dict(used) if len(words) > 1 else words.pop(), "data", told)
    elif words != {entry.value}:
        decisions.record(name, entry.value, entry.origin, f"{entry.reason}. {told}")


def _switch(stored: bool) -> str:
    return "on" if stored else "off"


def _of_features(features: Features) -> str:
    if features.kept:
        return "The features of the frozen pass are kept in the cache folder."
    return " ".join(features.notes) or "The features of the frozen pass were not kept."
