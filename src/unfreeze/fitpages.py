"""The history and the ledger of a thawing, as sections of the report."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from unfreeze.amounts import duration
from unfreeze.report.charts import Bar as ChartBar
from unfreeze.report.charts import BarChart, Border, LineChart, Series
from unfreeze.report.content import Section, Table

if TYPE_CHECKING:
    from unfreeze.choose.cost import Cost
    from unfreeze.engine.fit import Fit
    from unfreeze.engine.ledger import PhaseRecord


def fit_sections(fit: Fit) -> tuple[Section, ...]:
    """Learning curves and phases, then the ledger with what moved and the proof of what did not."""
    return _history(fit), _ledger(fit)


def cost_section(cost: Cost, fit: Fit, seconds: float | None) -> Section:
    """What was predicted before the training, for the epochs that were run, beside the ``seconds`` it took.

    None where it was stopped and resumed: nobody has counted then.
    """
    run = Counter(record.phase for record in fit.history)
    predicted, planned = cost.for_epochs(run), {phase.name: phase.epochs for phase in cost.phases}
    rows = [
        (phase.name, f"{phase.epochs} of {planned[phase.name]}", duration(phase.seconds), "")
        for phase in predicted.phases
    ]
    around = duration(sum(predicted.around.values()))
    peak = max((record.peak_bytes for record in fit.history), default=0)
    rows += [
        ("before, between and after", "", around, ""),
        (
            "together",
            "",
            duration(predicted.seconds),
            "" if seconds is None else duration(seconds),
        ),
        ("peak memory", "", f"{predicted.memory_bytes / 1e9:.2f} GB", f"{peak / 1e9:.2f} GB"),
    ]
    told = (
        f"Before it began the training was predicted from a few batches: {duration(predicted.seconds)} for the "
        "epochs that were run"
    )
    if seconds is None:
        told += ". It was resumed, so that what it took in all was not counted."
    else:
        factor = seconds / max(predicted.seconds, 1e-9)
        told += f", and it took {duration(seconds)}, {factor:.2f} times as long."
    table = Table(("", "epochs", "predicted", "measured"), tuple(rows), numeric=frozenset({1, 2, 3}))
    return Section("What it took", (told,), (table,))


def _history(fit: Fit) -> Section:
    epochs = tuple(float(number + 1) for number in range(len(fit.history)))
    losses = [Series("training", tuple(record.train_loss for record in fit.history), epochs)]
    validated = [record.val_log_loss for record in fit.history if record.val_log_loss is not None]
    if len(validated) == len(epochs):
        losses.append(Series("validation, calibrated", tuple(validated), epochs))
    right = tuple(record.val_accuracy for record in fit.history if record.val_accuracy is not None)
    borders = _phase_borders(fit)
    charts = [LineChart("Loss by epoch", "epoch", "nats", tuple(losses), borders=borders)]
    if len(right) == len(epochs):
        curve = Series("validation", right, epochs)
        charts.append(
            LineChart("Right on validation", "epoch", "accuracy", (curve,), borders=borders, percent=True)
        )
    taken = f"The weights taken: {fit.taken}." + (
        f" They are mixed with the start, {fit.mix:.0%} trained." if fit.mix < 1 else ""
    )
    if fit.kept is not None:
        name, judged = fit.kept.name, fit.kept.judged
        taken += (
            f" The {name} ones (log-loss {judged.log_loss:.3f}, {judged.accuracy:.1%} right on validation) are kept "
            f"as a run of their own in {name}/."
        )
    rows = tuple(_phase_row(fit, record) for record in fit.ledger)
    table = Table(
        (
            *("phase", "precision", "epochs", "an epoch", "predicted"),
            *("rows a second", "waiting for data", "peak memory"),
        ),
        rows,
        numeric=frozenset(range(2, 8)),
        caption="Predicted is what the steps of an epoch were to take by those that were measured before the phase, "
        "where precisions were compared, without what the optimizer does. Peak memory is the most up to then: on "
        "a GPU of all that is held there, on a processor of the whole program. Rates of each epoch are in history.csv.",
    )
    rule = (
        "The rule: the last weights, unless those with the lowest log-loss on the validation rows (after the "
        "temperature that fits them best) are better than choosing the luckiest epoch explains, or the training loss "
        "has risen since then; where those are from before a phase, since its first epoch."
        if validated
        else "The rule: the last weights. What was trained are distances between rows, which no validation row judges; "
        "the head was fitted on them afterwards."
    )
    return Section("How it was thawed", (rule, taken), (table,), tuple(charts))


def _phase_borders(fit: Fit) -> tuple[Border, ...]:
    """Where each phase begins, in epochs counted through all of them; none where there is one phase."""
    first: dict[str, float] = {}
    for number, record in enumerate(fit.history):
        first.setdefault(record.phase, number + 1)
    return tuple(Border(x, name) for name, x in first.items()) if len(first) > 1 else ()


def _phase_row(fit: Fit, phase: PhaseRecord) -> tuple[str, ...]:
    named = (phase.phase, phase.precision)
    records = [record for record in fit.history if record.phase == phase.phase]
    predicted = "" if phase.epoch_seconds is None else duration(phase.epoch_seconds)
    if not records:
        return (*named, "0", "", predicted, "", "", "")
    seconds = max(sum(record.seconds for record in records), 1e-9)
    rate = sum(record.rows_per_second * record.seconds for record in records) / seconds
    waited = sum(record.wait_share * record.seconds for record in records) / seconds
    peak = max(record.peak_bytes for record in records)
    each = duration(seconds / len(records))
    return (
        *named,
        str(len(records)),
        each,
        predicted,
        f"{rate:,.0f}",
        f"{waited:.1%}",
        f"{peak / 1e9:.2f} GB",
    )


def _ledger(fit: Fit) -> Section:
    proof = "Everything declared frozen, weights and normalisation statistics, is bit for bit what it was."
    rows = tuple(
        (record.phase, group.name, f"{group.rate:.1e}", f"{group.parameters:,}")
        for record in fit.ledger
        for group in record.groups
    )
    table = Table(("phase", "group", "peak rate", "parameters"), rows, numeric=frozenset({2, 3}))
    stages = dict.fromkeys(stage for record in fit.ledger for stage in record.change)
    several = len(fit.ledger) > 1
    chart = BarChart(
        "How far the weights moved in each phase, by stage"
        if several
        else "How far the weights moved, by stage",
        "change of the weights relative to those at the beginning of the phase",
        tuple(
            ChartBar(f"{stage}, {record.phase}" if several else stage, (change,), f"{change:.2e}")
            for stage in stages
            for record in fit.ledger
            if (change := record.change.get(stage)) is not None
        ),
    )
    return Section("The ledger", (proof, _forgetting(fit)), (table,), (chart, _drift_chart(fit)))


def _forgetting(fit: Fit) -> str:
    exact = [stage for stage, drift in fit.ledger[-1].drift.items() if drift == 0]
    told = (
        "Forgetting is how far the features of training rows have moved from what the backbone gave before, as a "
        "share of their length: the more they moved, the less is left of what it knew."
    )
    if exact:
        named = f"stage {exact[0]}" if len(exact) == 1 else f"the stages {exact[0]} to {exact[-1]}"
        told += f" At the end of {named} they are exactly, bit for bit, what they were."
    if fit.mix < 1:
        told += " It was measured before the trained weights were mixed with the start."
    return told


def _drift_chart(fit: Fit) -> BarChart:
    """Of the last phase's end: drift is counted from the start of the training, not of the phase."""
    return BarChart(
        "How far the features moved, by stage",
        "mean distance from the features before training, relative to their length",
        tuple(
            ChartBar(stage, (drift,), f"{drift:.1%}" if drift else "0, exactly")
            for stage, drift in fit.ledger[-1].drift.items()
        ),
    )
