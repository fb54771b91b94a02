"""The tables of a report as text."""

from __future__ import annotations

from unfreeze.report import words
from unfreeze.report.content import ClassMetrics, Metrics, ReportData, Table
from unfreeze.report.heatmap import confused_pairs

SCORE_MEANINGS = {
    "accuracy": "share of right answers",
    "balanced accuracy": "mean recall over the classes",
    "macro F1": "mean F1 over the classes",
    "ROC AUC": "chance that a positive row ranks above a negative one",
    "log-loss (nats)": "0 is perfect",
    "calibration error": "expected, over 15 bins, after temperature",
    "calibration error before temperature": "the same for the raw probabilities",
}


def count_table(data: ReportData) -> Table:
    """Rows per class and part, with sums."""
    counts = data.data.filled
    rows = [
        (
            name,
            *(words.number(part[index]) for part in counts.values()),
            words.number(sum(p[index] for p in counts.values())),
        )
        for index, name in enumerate(data.data.labels)
    ]
    rows.append(("all", *(words.number(sum(part)) for part in counts.values()), words.number(data.data.rows)))
    columns = ("class", *counts, "all")
    return Table(columns, tuple(rows), numeric=frozenset(range(1, len(columns))))


def thaw_table(data: ReportData) -> Table:
    """Accuracy and interval by depth."""
    points = [*data.thaw, *([data.joined] if data.joined else [])]
    rows = tuple(
        (point.name, words.percent(point.accuracy.value), words.interval(point.accuracy)) for point in points
    )
    return Table(("stage", "accuracy", "95 % interval"), rows, numeric=frozenset({1, 2}))


def score_rows(data: ReportData) -> list[tuple[str, str, str, str]]:
    """Rows of (score, what it means, test, validation)."""
    test, validation = words.score_rows(data.test), words.score_rows(data.validation)
    before = "calibration error before temperature"
    test[before] = words.percent(data.calibration.ece_before)
    return [
        (name, SCORE_MEANINGS.get(name, ""), text, validation.get(name, "")) for name, text in test.items()
    ]


def pair_table(metrics: Metrics) -> Table | None:
    """The pairs confused most, or None where the matrix is small enough to read."""
    pairs = confused_pairs(metrics.confusion, metrics.labels)
    if len(metrics.labels) <= 3 or not pairs:
        return None
    rows = tuple(
        (true, predicted, str(count), words.percent(share)) for true, predicted, count, share in pairs
    )
    columns = ("true", "answered", "rows", "share")
    return Table(
        columns,
        rows,
        numeric=frozenset({2, 3}),
        caption="The pairs confused most, with their share of the true class",
    )


def class_rows(metrics: Metrics) -> list[tuple[str, str, str, str, str]]:
    """Rows of (class, precision, recall, F1, test rows) in label order; of a class without rows nothing is known."""

    def shown(one: ClassMetrics, share: float) -> str:
        return f"{share * 100:.1f}" if one.support else "–"

    return [
        (
            name,
            shown(one, one.precision),
            shown(one, one.recall),
            shown(one, one.f1),
            words.number(one.support),
        )
        for name, one in zip(metrics.labels, metrics.per_class, strict=True)
    ]


def weakest_rows(metrics: Metrics) -> list[tuple[str, str, str, str, str]]:
    """The ten rows of ``class_rows`` with the lowest F1 among the classes that occur, the lowest first."""
    rows = class_rows(metrics)
    present = [index for index, one in enumerate(metrics.per_class) if one.support]
    return [rows[index] for index in sorted(present, key=lambda index: metrics.per_class[index].f1)[:10]]
