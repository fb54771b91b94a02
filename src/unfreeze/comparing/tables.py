"""The numbers of a comparison as text, for the terminal, the page and the notebook alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from unfreeze.amounts import duration, size
from unfreeze.comparing.ranking import Ranked
from unfreeze.comparing.results import Result
from unfreeze.comparing.verdict import in_points, share_text
from unfreeze.report import words
from unfreeze.report.content import Estimate, Table

NOTHING = "–"


def accuracy_table(results: Sequence[Result]) -> Table:
    """A row a strategy: accuracies with intervals, and differences to the floor and to the best in points."""
    rows = tuple(
        (
            row_name(result),
            _share(result.accuracy),
            _share(result.balanced_accuracy),
            gap_text(result.to_floor),
            "best" if result.is_best else gap_text(result.to_best),
        )
        if result.accuracy is not None
        else (result.strategy, "failed", NOTHING, NOTHING, NOTHING)
        for result in results
    )
    columns = ("strategy", "accuracy %", "balanced %", "to the floor", "to the best")
    return Table(columns, rows, numeric=frozenset({1, 2, 3, 4}))


def cost_table(results: Sequence[Result]) -> Table:
    """A row a strategy that finished: parameters trained, seconds, memory, and energy where the machine tells."""
    finished = [result for result in results if result.accuracy is not None]
    energy = any(result.joules is not None for result in finished)
    rows = tuple(
        (
            row_name(result),
            count_text(result.trained),
            NOTHING if result.share is None else share_text(result.share),
            NOTHING if result.seconds is None else duration(result.seconds),
            _size(result.peak_bytes),
            *((joules_text(result.joules),) if energy else ()),
        )
        for result in finished
    )
    columns = ("strategy", "trained", "share", "time", "memory", *(("energy",) if energy else ()))
    return Table(columns, rows, numeric=frozenset(range(1, len(columns))))


def size_table(results: Sequence[Result]) -> Table:
    """A row a strategy and size: accuracy with its interval, and the difference to the floor."""
    rows = tuple(
        (
            row_name(result),
            words.number(result.rows),
            _share(result.accuracy) if result.accuracy is not None else "failed",
            gap_text(result.to_floor),
        )
        for result in sorted(results, key=lambda result: (result.backbone, result.strategy, result.rows))
    )
    return Table(("strategy", "rows", "accuracy %", "to the floor"), rows, numeric=frozenset({1, 2, 3}))


def ranking_table(ranking: Sequence[Ranked]) -> Table:
    """A row a backbone, the most accurate first."""
    rows = tuple(
        (
            entry.backbone,
            _share(entry.accuracy),
            "best" if entry is ranking[0] else gap_text(entry.to_best),
            count_text(entry.parameters),
            NOTHING if entry.width is None else words.number(entry.width),
            _size(entry.bytes),
            NOTHING if entry.latency_seconds is None else f"{rounded(entry.latency_seconds * 1000)} ms",
            NOTHING if entry.rows_per_second is None else f"{rounded(entry.rows_per_second)}/s",
        )
        if entry.accuracy is not None
        else (entry.backbone, "failed", *[NOTHING] * 6)
        for entry in ranking
    )
    columns = ("backbone", "accuracy %", "to the best", "params", "width", "size", "one", "many")
    return Table(columns, rows, numeric=frozenset(range(1, len(columns))))


def row_name(result: Result) -> str:
    """A strategy, with what ``auto`` chose, and with how many of its seeds finished where some did not."""
    notes = []
    counts = Counter(result.chosen)
    if counts:
        every = len(counts) == 1
        notes.append(", ".join(name if every else f"{name} {count}x" for name, count in counts.most_common()))
    if result.seeds and result.failures:
        notes.append(f"{len(result.seeds)} of {result.asked} seeds")
    return f"{result.strategy} ({'; '.join(notes)})" if notes else result.strategy


def by_backbone(results: Sequence[Result], several: bool) -> list[tuple[str, list[Result]]]:
    """The results in groups with a title each: by backbone where there are several."""
    if not results:
        return []
    first = next((result for result in results if result.accuracy is not None), results[0])
    seeds = max(result.asked for result in results)
    title = f"{first.test_rows:,} test rows, {seeds} seed{'s' if seeds != 1 else ''}, n={first.rows:,}"
    if not several:
        return [(title, list(results))]
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.backbone, []).append(result)
    return [(f"{backbone}: {title}", group) for backbone, group in groups.items()]


def count_text(count: int | None) -> str:
    """A number of parameters in a few letters: ``980``, ``12.8 k``, ``3.4 M``."""
    if count is None:
        return NOTHING
    if count < 1_000:
        return str(count)
    value, unit = (count / 1e6, "M") if count >= 999_950 else (count / 1e3, "k")
    return f"{value:,.1f} {unit}"


def _size(count: int | None) -> str:
    return NOTHING if count is None else size(count)


def rounded(value: float) -> str:
    """A number above 0 with three digits, or all of those before the point: ``0.812``, ``81.2``, ``1,234``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def joules_text(joules: float | None) -> str:
    """Energy in a few letters: ``830 J``, ``12.4 kJ``."""
    if joules is None:
        return NOTHING
    return f"{joules / 1000:,.1f} kJ" if joules >= 1000 else f"{joules:.0f} J"


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return NOTHING
    bounds = words.interval(estimate)
    return f"{estimate.value * 100:.1f} ({bounds})" if bounds else f"{estimate.value * 100:.1f}"


def gap_text(estimate: Estimate | None) -> str:
    """A difference in points, such as ``+4.2 (2.1 to 6.3)``."""
    if estimate is None:
        return NOTHING
    value = in_points(estimate.value)
    shown = value if value.startswith("−") or value == "0.0" else f"+{value}"
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} ({in_points(estimate.low)} to {in_points(estimate.high)})"
