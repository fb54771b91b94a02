"""The gate: real rows from their raw bytes through the exported files, beside the trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.exporting.gate_rows import GateRows
from unfreeze.runtime.exported import Exported

# Batches of these sizes in turn: one row, an even and an odd number, and more than any runtime unrolls.
SIZES = (1, 2, 7, 64)
# float32 sums in another order move a probability by about 1e-6; a wrong normalisation by 1e-2 and more.
LARGEST_GAP = 1e-3
# Two classes closer than this are a tie, which rounding may break either way.
TIE = 1e-4


@dataclass(frozen=True)
class Parity:
    """``rows`` compared, ``ties`` among them; ``gap``: the largest difference of a probability.

    ``accuracy``: of the trained model and of the exported one. ``problem``: where they first differ, or empty.
    """

    rows: int
    ties: int
    agreement: float
    gap: float
    accuracy: tuple[float, float]
    problem: str

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self) | {"bound": LARGEST_GAP, "batch_sizes": list(SIZES)}


def check(exported: Exported, rows: GateRows, *, prepared: Sequence[NDArray[Any]] | None = None) -> Parity:
    """Compare the export with the trained model's answers to ``rows``.

    ``prepared``: what the graph is given of each row, where that is not the export's own preprocessing.
    """
    reference = rows.reference
    found = np.full(reference.shape, np.nan)
    try:
        columns = columns_of(exported, rows)
        for places, batch in _batches(rows.prepared if prepared is None else prepared):
            found[places] = exported.run(batch)[1][:, columns]
        problem = _first_problem(rows, found)
    except Exception as failure:  # every runtime has errors of its own
        problem = f"it does not run ({(str(failure).splitlines() or [type(failure).__name__])[0][:200]})"
    top = np.sort(reference, axis=1)
    ties = top[:, -1] - top[:, -2] < TIE
    same = found.argmax(axis=1) == reference.argmax(axis=1)
    return Parity(
        rows=len(rows),
        ties=int(ties.sum()),
        agreement=float((same | ties).mean()),
        gap=float(np.nanmax(np.abs(found - reference), initial=0.0)),
        accuracy=(
            float((reference.argmax(axis=1) == rows.label).mean()),
            float((found.argmax(axis=1) == rows.label).mean()),
        ),
        problem=problem,
    )


def columns_of(exported: Exported, rows: GateRows) -> list[int]:
    """Where the classes of the rows stand in the export's answers: by name, since another order is another model."""
    return [exported.labels.index(name) for name in rows.labels]


def _batches(prepared: Sequence[NDArray[Any]]) -> Iterator[tuple[slice, Sequence[NDArray[Any]]]]:
    start = 0
    for size in cycle(SIZES):
        if start >= len(prepared):
            return
        places = slice(start, start + size)
        yield places, prepared[places]
        start += size


def _first_problem(rows: GateRows, found: NDArray[np.float64]) -> str:
    """The first row that is answered otherwise, with both answers; empty when there is none."""
    names = rows.labels
    for row, (wanted, got) in enumerate(zip(rows.reference, found, strict=True)):
        if not np.isfinite(got).all():
            return f"{rows.samples.name(row)} has no answer that is a number"
        best, other = int(wanted.argmax()), int(got.argmax())
        tie = np.sort(wanted)[-1] - np.sort(wanted)[-2] < TIE
        gap = float(np.abs(wanted - got).max())
        if (best != other and not tie) or gap > LARGEST_GAP:
            return (
                f"{rows.samples.name(row)} is {names[best]!r} with {wanted[best]:.4f} by the trained model and "
                f"{names[other]!r} with {got[other]:.4f} by the exported one"
            )
    return ""
