"""The gate: real rows from their raw bytes through the exported files, beside the trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import Dataset
from unfreeze.data.reading import read_raw
from unfreeze.runtime.decode import BadImage, Quarantined
from unfreeze.runtime.exported import Exported
from unfreeze.runtime.reading import Raw

# Batches of these sizes in turn: one row, an even and an odd number, and more than any runtime unrolls.
SIZES = (1, 2, 7, 64)
# float32 sums in another order move a probability by about 1e-6; a wrong normalisation by 1e-2 and more.
LARGEST_GAP = 1e-3
# Two classes closer than this are a tie, which rounding may break either way.
TIE = 1e-4

Prepare = Callable[[Raw], NDArray[Any]]


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

    @property
    def passed(self) -> bool:
        """Whether the export is the trained model."""
        return not self.problem

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self) | {"bound": LARGEST_GAP, "batch_sizes": list(SIZES)}


def check(
    exported: Exported,
    dataset: Dataset,
    rows: NDArray[np.intp],
    reference: NDArray[np.float64],
    *,
    prepare: Prepare | None = None,
) -> Parity:
    """Compare the export with ``reference``, the trained model's probabilities (rows, classes), in this order.

    ``prepare`` makes what the graph reads of a raw input (default: the export's own preprocessing).
    """
    found = np.full(reference.shape, np.nan)
    try:
        # By name: a list of labels in another order is another model.
        columns = [exported.labels.index(name) for name in dataset.labels.names]
        for places, prepared in _batches(prepare or exported.prepare, dataset, rows):
            found[places] = exported.run(prepared)[1][:, columns]
        problem = _first_problem(dataset, rows, reference, found)
    except Exception as failure:  # every runtime has errors of its own
        problem = f"it does not run ({(str(failure).splitlines() or [type(failure).__name__])[0][:200]})"
    y = dataset.label[rows]
    top = np.sort(reference, axis=1)
    ties = top[:, -1] - top[:, -2] < TIE
    same = found.argmax(axis=1) == reference.argmax(axis=1)
    return Parity(
        rows=len(rows),
        ties=int(ties.sum()),
        agreement=float((same | ties).mean()),
        gap=float(np.nanmax(np.abs(found - reference), initial=0.0)),
        accuracy=(
            float((reference.argmax(axis=1) == y).mean()),
            float((found.argmax(axis=1) == y).mean()),
        ),
        problem=problem,
    )


def readable(
    prepare: Prepare, dataset: Dataset, rows: NDArray[np.intp]
) -> Iterator[tuple[int, Raw, NDArray[Any]]]:
    """The rows that can be read: the place in ``rows``, the raw input, and what ``prepare`` makes of it."""
    for place, row in enumerate(rows):
        raw = read_raw(dataset.samples, int(row))
        if isinstance(raw, Quarantined):
            continue
        try:
            value = prepare(raw)
        except BadImage:
            continue
        yield place, raw, value


def _batches(
    prepare: Prepare, dataset: Dataset, rows: NDArray[np.intp]
) -> Iterator[tuple[list[int], list[NDArray[Any]]]]:
    sizes = cycle(SIZES)
    size, places, prepared = next(sizes), [], []
    for place, _, value in readable(prepare, dataset, rows):
        places.append(place)
        prepared.append(value)
        if len(places) == size:
            yield places, prepared
            size, places, prepared = next(sizes), [], []
    if places:
        yield places, prepared


def _first_problem(
    dataset: Dataset, rows: NDArray[np.intp], reference: NDArray[np.float64], found: NDArray[np.float64]
) -> str:
    """The first row that is answered otherwise, with both answers; empty when there is none."""
    names = dataset.labels.names
    for row, wanted, got in zip(rows, reference, found, strict=True):
        if not np.isfinite(got).all():
            return f"{dataset.samples.name(int(row))} has no answer that is a number"
        best, other = int(wanted.argmax()), int(got.argmax())
        tie = np.sort(wanted)[-1] - np.sort(wanted)[-2] < TIE
        gap = float(np.abs(wanted - got).max())
        if (best != other and not tie) or gap > LARGEST_GAP:
            return (
                f"{dataset.samples.name(int(row))} is {names[best]!r} with {wanted[best]:.4f} by the trained model and "
                f"{names[other]!r} with {got[other]:.4f} by the exported one"
            )
    return ""
