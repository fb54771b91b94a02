"""The page of a comparison: one file, nothing fetched, no script, light and dark, page and phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.amounts import duration
from unfreeze.comparing import tables
from unfreeze.comparing.picture import curve_chart
from unfreeze.comparing.results import Result
from unfreeze.report import words
from unfreeze.report.content import Estimate, Table
from unfreeze.report.page import make_environment
from unfreeze.runtime.files import write_atomically

if TYPE_CHECKING:
    from unfreeze.comparing.comparison import Comparison

LAW_DIGITS = 3


@dataclass(frozen=True)
class Group:
    """The tables of one backbone."""

    title: str
    accuracy: Table
    cost: Table


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page to ``path``, whole or not at all."""
    write_atomically(path, render(comparison))


def render(comparison: Comparison) -> str:
    """The page as HTML."""
    template = (resources.files("unfreeze.comparing") / "compare.html").read_text(encoding="utf-8")
    chart = comparison.cost_chart()
    several_sizes = len(comparison.sizes) > 1
    page = (
        make_environment()
        .from_string(template)
        .render(
            comparison=comparison,
            title=_title(comparison),
            lead=_lead(comparison),
            groups=[
                Group(title, tables.accuracy_table(results), tables.cost_table(results))
                for title, results in tables.by_backbone(comparison.last, comparison.several)
            ],
            cost=None if chart is None else chart.figure(),
            curve=curve_chart(comparison.curves).figure() if comparison.curves else None,
            sizes=tables.size_table(comparison.results) if several_sizes else None,
            laws=_law_table(comparison),
            classes=_class_table(comparison),
            ranking=tables.ranking_table(comparison.ranking) if comparison.ranking else None,
            executors=sorted({entry.executor for entry in comparison.ranking if entry.executor}),
            shared=_shared(comparison.last),
            seconds=[
                result for result in comparison.last if result.accuracy is not None and result.seconds is None
            ],
            energy=any(result.joules is not None for result in comparison.last),
        )
    )
    return words.printable(page)


def _title(comparison: Comparison) -> str:
    name = Path(comparison.source).name or comparison.source
    compared = "Strategies" if comparison.results else "Backbones"
    return f"{compared} compared on {name}"


def _lead(comparison: Comparison) -> str:
    kinds = words.KINDS.get(comparison.modality, "rows")
    if not comparison.results:
        return f"{len(comparison.ranking)} backbones on the same {kinds}, {comparison.created}."
    cells = len(comparison.cells)
    finished = sum(cell.finished for cell in comparison.cells)
    seeds = len({cell.seed for cell in comparison.cells})
    named = {result.strategy for result in comparison.results}
    drawn = "1 seed that decides" if seeds == 1 else f"{seeds} seeds that decide"
    return (
        f"{len(named)} strategies on the same {kinds}, each with {drawn} "
        f"split and order: {finished} of {cells} trainings finished, {comparison.created}."
    )


def _shared(results: Sequence[Result]) -> str:
    seconds = max((result.shared_seconds or 0.0 for result in results), default=0.0)
    return duration(seconds)


def _law_table(comparison: Comparison) -> Table | None:
    """What was fitted, and what it expects of twice the rows."""
    rows = tuple(
        (
            curve.strategy if not comparison.several else f"{curve.strategy} on {curve.backbone}",
            f"{curve.law.a * 100:.1f} % + {curve.law.b:.{LAW_DIGITS}g} n^−{curve.law.c:.2f}",
            words.number(2 * curve.points[-1][0]),
            words.with_interval(curve.doubled or Estimate(float("nan"))),
        )
        for curve in comparison.curves
        if curve.law is not None
    )
    columns = ("strategy", "error of n rows", "at rows", "expected accuracy")
    return Table(columns, rows, numeric=frozenset({2, 3})) if rows else None


def _class_table(comparison: Comparison) -> Table | None:
    """Recall by class at the two largest sizes, of the best strategy."""
    if not comparison.verdicts:
        return None
    best = comparison.verdicts[-1].best
    curve = next(
        (one for one in comparison.curves if (one.strategy, one.backbone) == (best.strategy, best.backbone)),
        None,
    )
    if curve is None:
        return None
    before, after = (words.number(rows) for rows, _ in curve.points[-2:])
    rows = tuple(
        (
            one.name,
            words.percent(one.before),
            words.percent(one.after),
            tables.gap_text(one.gain),
            words.percent(one.left),
            words.number(one.support),
        )
        for one in curve.classes
    )
    columns = (
        "class",
        f"recall at {before}",
        f"recall at {after}",
        "gain in points",
        "of the errors left",
        "test rows",
    )
    caption = f"By class, {curve.strategy}: where more labels helped, and what is left"
    return Table(columns, rows, numeric=frozenset({1, 2, 3, 4, 5}), caption=caption)
