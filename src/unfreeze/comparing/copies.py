"""Test rows of a comparison that look like rows that were learnt from: what is measured without them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from unfreeze.comparing.cells import CellResult
from unfreeze.comparing.results import Result
from unfreeze.comparing.verdict import name_of
from unfreeze.config import FLOOR
from unfreeze.report import words
from unfreeze.training.copies import NEAR, OTHER, SAME, UNKNOWN


def copies_told(cells: Iterable[CellResult], best: Result, *, several: bool) -> tuple[str, ...]:
    """A warning of copies of learnt rows in the test parts, and what the best result and its floor reach without them.

    Cells of one backbone, size and seed have the same split, so that it is told once, of the best one's; none where
    there are no copies.
    """
    alike = [
        cell
        for cell in cells
        if cell.finished and (cell.backbone, cell.size) == (best.backbone, best.size) and cell.copy_marks
    ]
    of_best = [cell for cell in alike if cell.strategy == best.strategy]
    if not of_best:
        return ()
    marks = np.array(list("".join(cell.copy_marks for cell in of_best)))
    # A row that several seeds test is one: a copy where any of them has learnt what it looks like.
    keys = np.concatenate([cell.row_keys for cell in of_best])
    near_rows = np.unique(keys[marks == NEAR])
    near, same = len(near_rows), len(np.setdiff1d(keys[marks == SAME], near_rows))
    found = []
    if near:
        example = next(cell.nearest_copy for cell in of_best if cell.nearest_copy)
        found.append(
            f"{near:,} look nearly the same to the network as one that was learnt from, such as {example}"
        )
    if same:
        found.append(f"{same:,} are the same to the last byte as one that was learnt from")
    if not found:
        return ()
    over = f" of {len(of_best)} seeds" if len(np.unique(keys)) > len(of_best[0].truth) else ""
    floor = [cell for cell in alike if cell.strategy == FLOOR and best.strategy != FLOOR]
    named = ((name_of(best, several=several), of_best), (FLOOR, floor))
    shares = ((name, _without(group)) for name, group in named)
    reached = [f"{name} has {words.percent(share)}" for name, share in shares if share is not None]
    without = f" Of the others {' and '.join(reached)} right." if reached else ""
    return (
        f"Of {len(np.unique(keys[marks != UNKNOWN])):,} test rows{over} {', and '.join(found)}: results on them say "
        f"little of new ones.{without} Take them out, or keep what belongs together in one part with --group-column.",
    )


def _without(cells: Sequence[CellResult]) -> float | None:
    """The mean over the cells of the share of the rows that are right, of those that are no copies."""
    shares = []
    for cell in cells:
        others = np.array(list(cell.copy_marks)) == OTHER
        if others.any():
            shares.append(float(cell.right[others].mean()))
    return float(np.mean(shares)) if shares else None
