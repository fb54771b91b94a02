"""Whether storing the frozen prefix pays: seconds and bytes with and without it, and which phases share a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unfreeze.plan import Phase

Use = Literal["auto", "on", "off"]
Verdict = Literal["pays", "too large", "does not pay"]


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of a phase with and without the store, from measured stage times.

    ``frozen`` and ``trained`` are seconds a row of the forward pass below and above the boundary; ``input`` is
    decoding, augmenting and moving one row; ``preparing`` are the seconds that building the executor and measuring
    took, either way. ``views``: passes over all rows that fill the store, 0 where an earlier phase's pass does.
    """

    frozen: float
    trained: float
    input: float
    rows: int
    rounds: int
    views: int
    bytes: int
    preparing: float = 0.0

    @property
    def stored_seconds(self) -> float:
        """Filling, then epochs from the boundary."""
        return self.preparing + self.rows * (
            self.views * (self.frozen + self.input) + self.rounds * 3 * self.trained
        )

    @property
    def plain_seconds(self) -> float:
        """Epochs from the raw rows."""
        return self.preparing + self.rows * self.rounds * (self.input + self.frozen + 3 * self.trained)

    @property
    def epoch_speedup(self) -> float:
        """(P + 3S) / 3S, with the input's share added to P."""
        return (self.input + self.frozen + 3 * self.trained) / max(3 * self.trained, 1e-12)


def weigh_store(group: Sequence[Estimate], *, use: Use, budget: int) -> Verdict:
    """Whether a store that may be used (``auto`` or ``on``) is worth filling; ``budget`` in bytes.

    ``group``: the phases that one pass would serve (see ``served_together``).
    """
    if sum(one.bytes for one in group) > budget:
        return "too large"
    if use == "auto" and sum(one.stored_seconds for one in group) >= sum(one.plain_seconds for one in group):
        return "does not pay"
    return "pays"


def served_together(phases: Sequence[Phase], stages: int) -> int:
    """How many of these successive phases one pass can serve: those whose frozen part none of them trains.

    Their boundaries never rise, so the pass up to the first one's meets all the others on its way.
    """
    boundaries = [phase.boundary(stages) for phase in phases]
    count = 1
    while count < len(boundaries) and 0 < boundaries[count] <= boundaries[count - 1]:
        count += 1
    return count


def views_of(views: int, rounds: int, *, varied: bool) -> int:
    """Views that are stored for a phase of so many rounds."""
    return min(views, rounds) if varied else 1
