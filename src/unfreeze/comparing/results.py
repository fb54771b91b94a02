"""From cells to one result a strategy: means over seeds with intervals, and differences on the same test rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.comparing.cells import CellResult
from unfreeze.comparing.intervals import over_seeds, paired_over_seeds
from unfreeze.config import FLOOR
from unfreeze.report.content import Estimate


@dataclass(frozen=True, kw_only=True)
class Result:
    """A strategy on a backbone, learned from ``rows`` rows (``size``: as asked for; None: all).

    ``seeds`` are those that finished, ``failures`` (seed, sentence) those that did not; without one finished, the
    numbers are None. ``is_best``: no other of this size has a higher mean accuracy. ``to_floor`` and ``to_best``:
    accuracy less that of the same backbone's floor, and of the best, on the same test rows. ``trained`` of
    ``parameters`` were in the optimizer. ``seconds`` (without the frozen pass, which all share) and ``joules`` are
    medians over the seeds, ``peak_bytes`` the largest of them.
    """

    strategy: str
    backbone: str
    size: int | None
    rows: int
    test_rows: int
    seeds: tuple[int, ...]
    failures: tuple[tuple[int, str], ...] = ()
    is_best: bool = False
    accuracy: Estimate | None = None
    balanced_accuracy: Estimate | None = None
    to_floor: Estimate | None = None
    to_best: Estimate | None = None
    trained: int | None = None
    parameters: int | None = None
    seconds: float | None = None
    shared_seconds: float | None = None
    peak_bytes: int | None = None
    joules: float | None = None

    @property
    def mean(self) -> float:
        """The mean accuracy; below every other where nothing finished."""
        return -1.0 if self.accuracy is None else self.accuracy.value

    @property
    def share(self) -> float | None:
        """The share of the parameters that is trained, in 0..1."""
        return None if self.trained is None or not self.parameters else self.trained / self.parameters

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self)


Key = tuple[str, str, int | None]


def summarise(cells: Iterable[CellResult]) -> tuple[Result, ...]:
    """A result for each strategy, backbone and size, in the order in which they come up."""
    groups: dict[Key, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.strategy, cell.backbone, cell.size), []).append(cell)
    finished = {key: [cell for cell in group if cell.finished] for key, group in groups.items()}
    best = {size: _best(finished, size) for size in {key[2] for key in groups}}
    return tuple(_result(key, group, finished, best[key[2]]) for key, group in groups.items())


def differences(first: Sequence[CellResult], second: Sequence[CellResult]) -> list[NDArray[np.int8]]:
    """For each seed that both finished on the same test rows, +1, 0 or -1 a row: whether the first is right instead."""
    others = {cell.seed: cell for cell in second}
    gains = []
    for cell in first:
        other = others.get(cell.seed)
        if other is not None and other.rows_hash == cell.rows_hash:
            gains.append(cell.right.astype(np.int8) - other.right.astype(np.int8))
    return gains


def _best(finished: dict[Key, list[CellResult]], size: int | None) -> list[CellResult]:
    """The cells with the highest mean accuracy, among those of the most seeds: means of few seeds lie further out."""
    groups = [cells for key, cells in finished.items() if key[2] == size and cells]
    most = max(map(len, groups), default=0)
    full = (cells for cells in groups if len(cells) == most)
    return max(full, key=lambda cells: statistics.mean(cell.accuracy for cell in cells), default=[])


def _result(
    key: Key, group: list[CellResult], finished: dict[Key, list[CellResult]], best: list[CellResult]
) -> Result:
    strategy, backbone, size = key
    cells = finished[key]
    failures = tuple((cell.seed, cell.sentence) for cell in group if not cell.finished)
    if not cells:
        return Result(
            strategy=strategy,
            backbone=backbone,
            size=size,
            rows=size or 0,
            test_rows=0,
            seeds=(),
            failures=failures,
        )
    floor = finished.get((FLOOR, backbone, size), [])
    return Result(
        strategy=strategy,
        backbone=backbone,
        size=size,
        rows=round(statistics.median(cell.learned_from for cell in cells)),
        test_rows=round(statistics.median(len(cell.truth) for cell in cells)),
        seeds=tuple(cell.seed for cell in cells),
        failures=failures,
        is_best=cells is best,
        accuracy=estimate(cells, "accuracy"),
        balanced_accuracy=estimate(cells, "balanced_accuracy"),
        to_floor=None if strategy == FLOOR else _paired(cells, floor),
        to_best=None if cells is best else _paired(cells, best),
        trained=max(cell.trained for cell in cells),
        parameters=max(cell.parameters for cell in cells),
        seconds=_median(cell.seconds for cell in cells),
        shared_seconds=max(cell.shared_seconds for cell in cells),
        peak_bytes=max((cell.peak_bytes for cell in cells if cell.peak_bytes is not None), default=None),
        joules=_median(cell.joules for cell in cells),
    )


def estimate(cells: Sequence[CellResult], name: str) -> Estimate:
    """Over seeds, or for a single one the interval over its test rows."""
    if len(cells) > 1:
        return over_seeds([getattr(cell, name) for cell in cells])
    (cell,) = cells
    return Estimate(getattr(cell, name), getattr(cell, f"{name}_low"), getattr(cell, f"{name}_high"))


def _paired(cells: list[CellResult], others: list[CellResult]) -> Estimate | None:
    gains = differences(cells, others)
    return paired_over_seeds(gains) if gains else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
