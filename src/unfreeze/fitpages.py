"""The history and the ledger of a thawing, as sections of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfreeze.report.charts import Bar as ChartBar
from unfreeze.report.charts import BarChart, LineChart, Series
from unfreeze.report.content import Section, Table

if TYPE_CHECKING:
    from unfreeze.engine.fit import Fit


def fit_sections(fit: Fit) -> tuple[Section, ...]:
    """Learning curves and phases, then the ledger with what moved and the proof of what did not."""
    return _history(fit), _ledger(fit)


def _history(fit: Fit) -> Section:
    epochs = tuple(float(number + 1) for number in range(len(fit.history)))
    losses = [Series("training loss", tuple(record.train_loss for record in fit.history), epochs)]
    validated = [record.val_log_loss for record in fit.history if record.val_log_loss is not None]
    if len(validated) == len(epochs):
        losses.append(Series("validation log-loss, calibrated", tuple(validated), epochs))
    right = tuple(record.val_accuracy for record in fit.history if record.val_accuracy is not None)
    charts = [LineChart("Loss by epoch", "epoch", "nats", tuple(losses))]
    if len(right) == len(epochs):
        charts.append(
            LineChart(
                "Right on validation",
                "epoch",
                "accuracy",
                (Series("validation", right, epochs),),
                percent=True,
            )
        )
    taken = f"The weights taken: {fit.taken}." + (
        f" They are mixed with the start, {fit.mix:.0%} trained." if fit.mix < 1 else ""
    )
    rows = tuple(_phase_row(fit, record.phase) for record in fit.ledger)
    table = Table(
        ("phase", "epochs", "rows a second", "waiting for data", "peak memory"),
        rows,
        numeric=frozenset({1, 2, 3, 4}),
    )
    rule = "The rule: the lowest log-loss on the validation rows, after the temperature that fits them best."
    return Section("How it was thawed", (rule, taken), (table,), tuple(charts))


def _phase_row(fit: Fit, phase: str) -> tuple[str, ...]:
    records = [record for record in fit.history if record.phase == phase]
    if not records:
        return (phase, "0", "", "", "")
    seconds = max(sum(record.seconds for record in records), 1e-9)
    rate = sum(record.rows_per_second * record.seconds for record in records) / seconds
    waited = sum(record.wait_share * record.seconds for record in records) / seconds
    peak = max(record.peak_bytes for record in records)
    return (phase, str(len(records)), f"{rate:,.0f}", f"{waited:.1%}", f"{peak / 1e9:.2f} GB")


def _ledger(fit: Fit) -> Section:
    proof = (
        "Everything declared frozen, weights and normalisation statistics, is bit for bit what it was."
        if all(record.frozen_unchanged for record in fit.ledger)
        else "Something declared frozen has changed: this run is not what it says it is."
    )
    rows = tuple(
        (record.phase, group.name, f"{group.rate:.1e}", f"{group.parameters:,}")
        for record in fit.ledger
        for group in record.groups
    )
    table = Table(("phase", "group", "peak rate", "parameters"), rows, numeric=frozenset({2, 3}))
    moved: dict[str, float] = {}
    for record in fit.ledger:
        for stage, change in record.change.items():
            moved[stage] = max(moved.get(stage, 0.0), change)
    chart = BarChart(
        "How far the weights moved, by stage",
        "relative change of the weights",
        tuple(ChartBar(stage, (change,), f"{change:.2e}") for stage, change in moved.items()),
    )
    return Section("The ledger", (proof,), (table,), (chart,))
