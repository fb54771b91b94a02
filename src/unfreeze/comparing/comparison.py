"""A finished comparison: what ``unfreeze.compare`` gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfreeze.comparing.cells import CellResult
from unfreeze.comparing.copies import copies_told
from unfreeze.comparing.curve import Curve, answer, draw_curve
from unfreeze.comparing.picture import Chart, Picture, cost_chart, curve_chart
from unfreeze.comparing.ranking import BY_ROW, Ranked
from unfreeze.comparing.results import Result, summarise
from unfreeze.comparing.tables import accuracy_table, ranking_table
from unfreeze.comparing.verdict import Verdict, judge, judge_backbones, name_of
from unfreeze.errors import RequestError
from unfreeze.report.content import Estimate, Table

if TYPE_CHECKING:
    from rich.console import Console

ESTIMATES = ("accuracy", "balanced_accuracy", "to_floor", "to_best")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Strategies on the same splits, or backbones under the same probe: results, curves and the verdict.

    ``results``: one a strategy, backbone and size; ``cells``: one a training; ``ranking``: one a backbone, the most
    accurate first; ``verdicts``: one a size that has a result, ascending.
    """

    folder: Path
    source: str
    modality: str
    command: str
    created: str
    cells: tuple[CellResult, ...]
    ranking: tuple[Ranked, ...]
    results: tuple[Result, ...]
    curves: tuple[Curve, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The numbers of rows learned from, ascending; None stands for all."""
        return tuple(sorted({result.size for result in self.results}, key=lambda size: size or 0))

    @property
    def last(self) -> tuple[Result, ...]:
        """The results at the largest size."""
        return tuple(result for result in self.results if result.size == self.sizes[-1]) if self.sizes else ()

    @property
    def several(self) -> bool:
        """Whether strategies were run on more than one backbone."""
        return len({result.backbone for result in self.results}) > 1

    @property
    def failures(self) -> tuple[tuple[str, str], ...]:
        """What failed, and why."""
        failed = [
            (name_of(result, several=self.several) + _at(result.size, seed), sentence)
            for result in self.results
            for seed, sentence in result.failures
        ]
        return (*failed, *((entry.backbone, entry.sentence) for entry in self.ranking if entry.sentence))

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict in words: on strategies, on labels, on backbones."""
        said: list[str] = []
        if self.verdicts:
            *smaller, largest = self.verdicts
            said += largest.sentences
            said += [verdict.sentences[0] for verdict in reversed(smaller)]
            curve = next((curve for curve in self.curves if _same(curve, largest.best)), None)
            said += answer(curve) if curve is not None else ()
        return (*said, *judge_backbones(self.ranking))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to read before the verdict is believed."""
        if not self.verdicts:
            return ()
        return copies_told(self.cells, self.verdicts[-1].best, several=self.several)

    def best(self) -> Result | Ranked:
        """The result that ``is_best`` at the largest size; without strategies, the best backbone.

        What else the test rows cannot tell from it stands in ``verdicts``. Raises RequestError when nothing finished.
        """
        if self.verdicts:
            return self.verdicts[-1].best
        if self.ranking and self.ranking[0].accuracy is not None:
            return self.ranking[0]
        raise RequestError("Nothing of this comparison finished, so nothing of it is best: see its failures.")

    def to_pandas(self) -> Any:
        """A DataFrame with a row a strategy, backbone and size; without strategies, a row a backbone.

        Accuracies are shares in 0..1, differences in -1..1, and so are the ends of their intervals. Raises RequestError
        when pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise RequestError("to_pandas() needs pandas. Install it with: pip install pandas") from None
        return pandas.DataFrame([_flat(entry) for entry in self.results or self.ranking])

    def plot(self) -> Picture:
        """Accuracy against seconds with intervals; for backbones, against the time that one row takes.

        Raises RequestError when nothing finished.
        """
        chart = self.cost_chart()
        if chart is None:
            raise RequestError(
                "Nothing of this comparison finished, so there is nothing to draw: see its failures."
            )
        return chart.picture()

    def plot_curve(self) -> Picture:
        """The learning curves; raises RequestError when fewer than two sizes were compared."""
        if not self.curves:
            raise RequestError("A learning curve needs two sizes or more: give --train-size 50,100,200.")
        return curve_chart(self.curves).picture()

    def cost_chart(self) -> Chart | None:
        """What ``plot`` draws, or None when there is nothing to draw."""
        finished = [
            (name_of(result, several=self.several), result.seconds, result.accuracy)
            for result in self.last
            if result.accuracy is not None and result.seconds is not None
        ]
        if finished:
            title = "Accuracy against training time"
            return cost_chart(
                finished, title=title, x_label="seconds, without the frozen pass that all share"
            )
        ranked = [
            (entry.backbone, entry.latency_seconds, entry.accuracy)
            for entry in self.ranking
            if entry.accuracy is not None and entry.latency_seconds is not None
        ]
        if not ranked:
            return None
        return cost_chart(ranked, title="Accuracy of the probe against speed", x_label="seconds for one row")

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form: what ``results.json`` and ``compare --json`` hold."""
        dropped = ("labels", "truth", "answers", "rows_hash", "rows", "groups", "copy_marks", "nearest_copy")
        cells = ({k: v for k, v in asdict(cell).items() if k not in dropped} for cell in self.cells)
        return {
            "folder": str(self.folder),
            "data": self.source,
            "modality": self.modality,
            "created": self.created,
            "command": self.command,
            "verdict": list(self.sentences),
            "warnings": list(self.warnings),
            "results": [result.to_dict() for result in self.results],
            "ranking": [entry.to_dict() for entry in self.ranking],
            "curves": [curve.to_dict() | {"answer": list(answer(curve))} for curve in self.curves],
            "cells": list(cells),
            "failures": [{"what": what, "why": why} for what, why in self.failures],
        }

    def print(self, console: Console) -> None:
        """The tables and the verdict for a person."""
        from unfreeze.comparing.terminal import print_comparison

        print_comparison(self, console)

    def _repr_html_(self) -> str:
        tables = [accuracy_table(self.last)] if self.last else []
        tables += [ranking_table(self.ranking)] if self.ranking else []
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in (*self.sentences, *self.warnings))
        page = f"<p>Page: <code>{escape(str(self.folder / 'compare.html'))}</code></p>"
        return "".join(map(_html, tables)) + said + page


def conclude(
    cells: Sequence[CellResult],
    ranking: Sequence[Ranked],
    *,
    folder: Path,
    source: str,
    modality: str,
    command: str,
    created: str,
) -> Comparison:
    """The comparison of finished and failed cells: results, curves and verdicts are worked out here."""
    results = summarise(cells)
    sizes = sorted({result.size for result in results}, key=lambda size: size or 0)
    verdicts = (judge([result for result in results if result.size == size]) for size in sizes)
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.strategy, cell.backbone), []).append(cell)
    curves = (draw_curve(group) for group in groups.values())
    return Comparison(
        folder=folder,
        source=source,
        modality=modality,
        command=command,
        created=created,
        cells=tuple(cells),
        ranking=tuple(ranking),
        results=results,
        curves=tuple(curve for curve in curves if curve is not None),
        verdicts=tuple(verdict for verdict in verdicts if verdict is not None),
    )


def _at(size: int | None, seed: int) -> str:
    return f" (seed {seed})" if size is None else f" (seed {seed}, {size:,} rows)"


def _same(curve: Curve, result: Result) -> bool:
    return (curve.strategy, curve.backbone) == (result.strategy, result.backbone)


def _flat(entry: Result | Ranked) -> dict[str, object]:
    """The fields of an entry, each estimate as three."""
    row: dict[str, object] = {}
    for name, value in vars(entry).items():
        if isinstance(entry, Ranked) and name in BY_ROW:
            continue
        if isinstance(value, Estimate) or (value is None and name in ESTIMATES):
            found = value or Estimate(float("nan"))
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        else:
            row[name] = value
    return row


def _html(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
