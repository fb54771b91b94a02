"""The gate: real rows from their raw bytes through the exported files, beside the trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.contracts import State
from unfreeze.errors import first_line
from unfreeze.exporting.gate_rows import GateRows
from unfreeze.runtime.exported import Exported

# Batches of these sizes in turn: one row, an even and an odd number, and more than any runtime unrolls.
SIZES = (1, 2, 7, 64)
# float32 sums in another order move a probability by about 1e-6; a wrong normalisation by 1e-2 and more.
LARGEST_GAP = 1e-3
# Logits, and logarithms of probabilities, as a share of the largest one. Where every answer is nearly sure, the latter
# alone tell of a temperature that was left out.
LARGEST_LOGITS_GAP = 1e-3
LOGIT_ROWS = 32
# Float32 has no much smaller probabilities.
LEAST_PROBABILITY = 1e-30
# Two classes closer than this are a tie, which rounding may break either way.
TIE = 1e-4


@dataclass(frozen=True)
class Parity:
    """``rows`` compared, ``ties`` among them; ``gap``: the largest difference of a probability.

    ``accuracy``: of the trained model and of the exported one. ``problem``: where they first differ, or empty.
    ``logits_gap``: the largest difference of a logit or of a probability's logarithm, as a share of the largest one;
    None where it was not looked at.
    """

    rows: int
    ties: int
    agreement: float
    gap: float
    accuracy: tuple[float, float]
    problem: str
    logits_gap: float | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self) | {"bound": LARGEST_GAP, "batch_sizes": list(SIZES)}


def check(exported: Exported, rows: GateRows, *, prepared: Sequence[NDArray[Any]] | None = None) -> Parity:
    """Compare the export with the trained model's answers to ``rows``.

    ``prepared``: what the graph is given of each row, where that is not the export's own preprocessing.
    """
    reference = rows.reference
    found, gaps = np.full(reference.shape, np.nan), np.full(len(reference), -1.0)
    try:
        columns = columns_of(exported, rows)
        given = rows.prepared if prepared is None else prepared
        for places in _batches(len(given)):
            answers = exported.run([given[place] for place in places])[1][:, columns]
            for place, answer in zip(places, answers, strict=True):
                # Of a row that came in several batches the worst answer counts; nothing is worse than no number.
                if (gap := _gap(answer, reference[place])) > gaps[place]:
                    found[place], gaps[place] = answer, gap
        problem = _first_problem(rows, found)
    except Exception as failure:  # every runtime has errors of its own
        problem = f"it does not run ({first_line(failure)})"
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


def _gap(answer: NDArray[np.floating], wanted: NDArray[np.float64]) -> float:
    """The largest difference of a probability; infinite where an answer is no number."""
    return float(np.nan_to_num(np.abs(answer - wanted), nan=np.inf).max())


def _batches(rows: int) -> Iterator[list[int]]:
    """Positions of batches of all sizes, and of all rows; few rows come again to fill the large ones."""
    start = 0
    for number, size in enumerate(cycle(SIZES)):
        if start >= rows and number >= len(SIZES):
            return
        yield [place % rows for place in range(start, start + size)]
        start += size


def logits_gap(exported: Exported, classifier: Classifier, rows: GateRows, *, calibrated: bool) -> float:
    """The largest difference of a logit or of a probability's logarithm for the same tensors, a share of the largest.

    ``calibrated``: that the export's logits have been divided by the temperature.
    """
    import torch

    arrays = exported.batch(rows.prepared[:LOGIT_ROWS])
    raw = classifier.logits(State(*(torch.from_numpy(array) for array in arrays.values()))).numpy()
    columns = columns_of(exported, rows)
    logits, probabilities = (answer[:, columns] for answer in exported.graph(arrays))
    ours = raw.astype(np.float64) / classifier.temperature
    least = np.log(LEAST_PROBABILITY)
    pairs = (
        (logits, ours if calibrated else raw),
        (
            np.log(np.maximum(probabilities, LEAST_PROBABILITY)),
            np.maximum(ours - np.logaddexp.reduce(ours, axis=1, keepdims=True), least),
        ),
    )
    return max(
        float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max()))) for found, wanted in pairs
    )


def _first_problem(rows: GateRows, found: NDArray[np.float64]) -> str:
    """The first row that is answered otherwise, with both answers; empty when there is none."""
    names = rows.labels
    for row, (wanted, got) in enumerate(zip(rows.reference, found, strict=True)):
        if not np.isfinite(got).all():
            return f"{rows.samples.name(row)} has no answer that is a number"
        best, other = int(wanted.argmax()), int(got.argmax())
        tie = np.sort(wanted)[-1] - np.sort(wanted)[-2] < TIE
        gap = _gap(got, wanted)
        if (best != other and not tie) or gap > LARGEST_GAP:
            return (
                f"{rows.samples.name(row)} is {names[best]!r} with {wanted[best]:.4f} by the trained model and "
                f"{names[other]!r} with {got[other]:.4f} by the exported one"
            )
    return ""
