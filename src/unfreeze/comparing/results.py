"""From cells to one result a strategy: means over seeds with intervals, and differences on the same test rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from unfreeze.comparing.cells import CellResult, same_rows
from unfreeze.comparing.intervals import Gain, Moves, over_seeds, paired_at_once, paired_to_best
from unfreeze.config import FLOOR
from unfreeze.proportions import unseen_of_classes
from unfreeze.report.content import Estimate


@dataclass(frozen=True, kw_only=True)
class Result:
    """A strategy on a backbone, learned from ``rows`` rows (``size``: as asked for; None: all).

    ``seeds`` are those that finished, ``failures`` (seed, sentence) those that did not; without one finished, the
    numbers are None. ``chosen``: what ``auto`` took under each of the seeds, else empty. ``is_best``: no other of this
    size that finished under as many seeds has a higher mean accuracy; it was chosen by the rows that this accuracy is
    counted on. ``to_floor`` and ``to_best``: accuracy less that of the same backbone's floor, and of the best, on the
    same test rows, as shares in -1..1; their intervals hold for all strategies and backbones compared at once, those to
    the best for all pairs but that of the best and its floor, which is told as to the floor. ``trained`` of
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
    chosen: tuple[str, ...] = ()
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
    def asked(self) -> int:
        """The number of seeds that were tried."""
        return len(self.seeds) + len(self.failures)

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
    to_floor: dict[Key, Estimate] = {}
    to_best: dict[Key, Estimate] = {}
    best = {size: _best(finished, size) for size in dict.fromkeys(key[2] for key in groups)}
    for size, key in best.items():
        alike = [other for other in finished if other[2] == size]
        # The differences of all backbones at once: the best one of many is looked for among all of them.
        floors = {other: (FLOOR, other[1], size) for other in alike if other[0] != FLOOR}
        to_floor |= _differences(floors, finished, paired_at_once)
        if key is None:
            continue
        to_best |= _differences({other: key for other in alike if other != key}, finished, paired_to_best)
        # What is told of a pair is the same on both sides: a floor that is the best was picked like any other.
        if key[0] == FLOOR:
            to_floor |= {
                other: to_best[other] for other, floor in floors.items() if floor == key and other in to_best
            }
        elif key in to_floor:
            to_best[FLOOR, key[1], size] = _turned(to_floor[key])
    return tuple(
        _result(
            key,
            group,
            finished[key],
            is_best=key == best[key[2]],
            to_floor=to_floor.get(key),
            to_best=to_best.get(key),
        )
        for key, group in groups.items()
    )


def differences(first: Sequence[CellResult], second: Sequence[CellResult]) -> list[Gain]:
    """For each seed that both finished on the same test rows, what the first gains over the second."""
    others = {cell.seed: cell for cell in second}
    gains = []
    for cell in first:
        other = others.get(cell.seed)
        if other is not None and same_rows(cell, other):
            gains.append(Gain(cell.drawn_keys, cell.right.astype(np.int8) - other.right.astype(np.int8)))
    return gains


def _differences(
    pairs: Mapping[Key, Key],
    finished: Mapping[Key, list[CellResult]],
    estimates: Callable[[Sequence[Sequence[Gain]]], tuple[Estimate, ...]],
) -> dict[Key, Estimate]:
    """The difference of each to its other, of those that share a seed with it, with intervals by ``estimates``."""
    gains = {key: differences(finished[key], finished.get(other, [])) for key, other in pairs.items()}
    known = [key for key in pairs if gains[key]]
    return dict(zip(known, estimates([gains[key] for key in known]), strict=True))


def _turned(estimate: Estimate) -> Estimate:
    low, high = (None if end is None else -end for end in (estimate.high, estimate.low))
    return Estimate(-estimate.value, low, high)


def _best(finished: dict[Key, list[CellResult]], size: int | None) -> Key | None:
    """The key with the highest mean accuracy, among those of the most seeds: means of few seeds lie further out."""
    groups = {key: cells for key, cells in finished.items() if key[2] == size and cells}
    most = max(map(len, groups.values()), default=0)
    full = (key for key, cells in groups.items() if len(cells) == most)
    return max(full, key=lambda key: statistics.mean(cell.accuracy for cell in groups[key]), default=None)


def _result(
    key: Key,
    group: list[CellResult],
    cells: list[CellResult],
    *,
    is_best: bool,
    to_floor: Estimate | None,
    to_best: Estimate | None,
) -> Result:
    strategy, backbone, size = key
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
    return Result(
        strategy=strategy,
        backbone=backbone,
        size=size,
        rows=round(statistics.median(cell.learned_from for cell in cells)),
        test_rows=round(statistics.median(len(cell.truth) for cell in cells)),
        seeds=tuple(cell.seed for cell in cells),
        failures=failures,
        chosen=tuple(cell.chosen for cell in cells if cell.chosen),
        is_best=is_best,
        accuracy=estimate(cells, "accuracy"),
        balanced_accuracy=estimate(cells, "balanced_accuracy"),
        to_floor=to_floor,
        to_best=to_best,
        trained=max(cell.trained for cell in cells),
        parameters=max(cell.parameters for cell in cells),
        seconds=_median(cell.seconds for cell in cells),
        shared_seconds=max(cell.shared_seconds for cell in cells),
        peak_bytes=max((cell.peak_bytes for cell in cells if cell.peak_bytes is not None), default=None),
        joules=_median(cell.joules for cell in cells),
    )


def estimate(cells: Sequence[CellResult], name: str) -> Estimate:
    """Over seeds and test rows, or for a single seed the interval over its test rows."""
    if len(cells) > 1:
        by_class = name == "balanced_accuracy"
        moves = [_moves(cell, by_class=by_class) for cell in cells]
        unseen = _unseen(cells) if by_class else (0.0, 0.0)
        return over_seeds([getattr(cell, name) for cell in cells], moves, unseen=unseen)
    (cell,) = cells
    return Estimate(getattr(cell, name), getattr(cell, f"{name}_low"), getattr(cell, f"{name}_high"))


def _moves(cell: CellResult, *, by_class: bool) -> Moves:
    """By how much each test row moves the accuracy, or with ``by_class`` the mean of the recalls by class."""
    right = cell.right.astype(np.float64)
    groups = cell.true_class if by_class else np.zeros(len(right), dtype=np.intp)
    _, places, counts = np.unique(groups, return_inverse=True, return_counts=True)
    expected = np.bincount(places, weights=right) / counts
    return Moves(cell.drawn_keys, (right - expected[places]) / (counts[places] * len(counts)))


def _unseen(cells: Sequence[CellResult]) -> tuple[float, float]:
    """See ``unseen_of_classes``, of the rows of all seeds together."""
    names, place = np.unique(np.concatenate([cell.true_class for cell in cells]), return_inverse=True)
    keys = np.concatenate([cell.drawn_keys for cell in cells])
    right = np.concatenate([cell.right for cell in cells])
    hits, true = np.bincount(place, weights=right), np.bincount(place)
    counts = np.array([len(np.unique(keys[place == label])) for label in range(len(names))])
    return unseen_of_classes(hits == true, hits == 0, counts, classes=len(names))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
