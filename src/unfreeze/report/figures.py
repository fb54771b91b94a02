"""The figures of a report: which chart is drawn from which numbers, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unfreeze.amounts import duration
from unfreeze.report import words
from unfreeze.report.charts import Bar, BarChart, Level, LineChart, Series, draw
from unfreeze.report.content import Metrics, ReportData
from unfreeze.report.heatmap import confusion_matrix
from unfreeze.report.scatter import MOST_COLOURED, scatter

WIDE, NARROW, HALF = 860.0, 340.0, 360.0
MANY_CLASSES = 20
MOST_CLASS_BARS = 24


@dataclass(frozen=True)
class Figure:
    """A chart drawn for a page and, where it needs the room, once more for a phone."""

    title: str
    wide: Markup
    narrow: Markup | None = None
    note: str = ""


def both(chart: LineChart | BarChart) -> Figure:
    """The chart drawn for a page and for a phone."""
    return Figure(chart.title, draw(chart, width=WIDE), draw(chart, width=NARROW))


def baseline_chart(data: ReportData) -> BarChart:
    """The accuracy of this run and of every baseline."""
    run = data.test.accuracy
    bars = [
        Bar(
            words.baseline_name(entry),
            (entry.accuracy.value,),
            words.percent(entry.accuracy.value),
            low=entry.accuracy.low,
            high=entry.accuracy.high,
        )
        for entry in data.baselines
    ]
    bars.append(
        Bar("this run", (run.value,), words.percent(run.value), low=run.low, high=run.high, strong=True)
    )
    title = "Accuracy on the held-out rows, beside simpler answers"
    return BarChart(title, "accuracy (%), lines are 95 % intervals", tuple(bars), maximum=1.0, percent=True)


def counts_chart(data: ReportData) -> BarChart:
    """Rows per class and part; the largest and smallest classes where they are many."""
    labels, counts = data.data.labels, data.data.filled
    totals = [sum(rows[index] for rows in counts.values()) for index in range(len(labels))]
    order = list(range(len(labels)))
    title = "Rows per class"
    if len(labels) > MOST_CLASS_BARS:
        order.sort(key=lambda index: (-totals[index], labels[index]))
        half = MOST_CLASS_BARS // 2
        order = order[:half] + order[-half:]
        title = f"Rows per class: the {half} largest and the {half} smallest of {len(labels)}"
    bars = tuple(
        Bar(labels[index], tuple(rows[index] for rows in counts.values()), words.number(totals[index]))
        for index in order
    )
    return BarChart(title, "rows", bars, part_names=tuple(counts))


def thaw_chart(data: ReportData) -> LineChart:
    """Accuracy by depth with intervals, the majority as a level, joined depths as a point of their own."""
    points = data.thaw
    names = tuple(point.name for point in points)
    series = [
        Series(
            "probe of one stage",
            tuple(point.accuracy.value for point in points),
            low=tuple(_or_value(point.accuracy.low, point.accuracy.value) for point in points),
            high=tuple(_or_value(point.accuracy.high, point.accuracy.value) for point in points),
        )
    ]
    if data.joined is not None:
        joined = data.joined.accuracy
        low, high = _or_value(joined.low, joined.value), _or_value(joined.high, joined.value)
        at = (float(len(points)),)
        series.append(
            Series(data.joined.name, (joined.value,), x=at, low=(low,), high=(high,), marker_only=True)
        )
        names = (*names, data.joined.name)
    majority = next((entry for entry in data.baselines if entry.kind == "majority"), None)
    counts = data.data.counts.get("train", ())
    # The curve is of rows that are not test, whose classes have the shares that they have in training.
    levels = (
        (Level(max(counts) / sum(counts), words.baseline_name(majority)),) if majority and sum(counts) else ()
    )
    return LineChart(
        "Thaw curve: accuracy of a probe at every depth",
        "stage, from input to output",
        "out-of-fold accuracy (%)",
        tuple(series),
        x_names=names,
        levels=levels,
        percent=True,
    )


def _or_value(bound: float | None, value: float) -> float:
    return value if bound is None else bound


def timing_chart(data: ReportData) -> BarChart:
    """Seconds by part of the run."""
    bars = tuple(
        Bar(entry.part, (entry.seconds,), duration(entry.seconds), detail=entry.detail)
        for entry in data.timing
    )
    total = duration(sum(entry.seconds for entry in data.timing))
    return BarChart(f"Where the time went: {total} in all", "seconds", bars)


def confusion(metrics: Metrics) -> Figure:
    """The confusion matrix; twice where classes are too many to fit a phone as they fit a page."""
    title = "Confusion matrix on the test rows"
    note = (
        "Rows are the true classes, columns the answers. Blue is right, orange wrong; the stronger, the more."
    )
    size = len(metrics.labels)
    if size > MANY_CLASSES:
        note += " Where names do not fit, numbers count the classes in the order of the table of all classes."
    if size <= 4:
        return Figure(title, confusion_matrix(metrics.confusion, metrics.labels, width=HALF), note=note)
    wide = confusion_matrix(metrics.confusion, metrics.labels, width=WIDE if size > 12 else 620.0)
    return Figure(title, wide, confusion_matrix(metrics.confusion, metrics.labels, width=NARROW), note=note)


def space(data: ReportData) -> Markup | None:
    """The feature space, or None without points."""
    space = data.feature_space
    if space is None or not space.xy:
        return None
    return scatter(space, data.data.labels, _highlight(data.test, space.label), width=HALF)


def _highlight(metrics: Metrics, shown: Sequence[int]) -> list[int]:
    """The classes that get a colour: all when they are few, else the ones that are hardest to tell apart."""
    present = sorted(set(shown))
    if len(present) <= MOST_COLOURED:
        return present
    return sorted(sorted(present, key=lambda index: metrics.per_class[index].f1)[: MOST_COLOURED - 1])
