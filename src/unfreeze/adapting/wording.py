"""The words and tables of an adaptation, for page and terminal alike."""

from __future__ import annotations

from unfreeze.adapting.adaptation import Adaptation
from unfreeze.adapting.signs import Signs
from unfreeze.report import words
from unfreeze.report.card import plain
from unfreeze.report.charts import Bar, BarChart, LineChart, Series
from unfreeze.report.content import Table

NO_NUMBER = "–"


def title(one: Adaptation) -> str:
    """The verdict as a heading."""
    if one.verdict.kind == "adapted":
        return f"Adapted by {one.verdict.method}"
    if one.verdict.kind == "kept source":
        return "The source model is kept"
    return "A few labels are needed"


def lead(one: Adaptation) -> str:
    """One sentence on what that means."""
    rows = f"{one.rows:,} unlabelled {words.KINDS.get(one.modality, 'rows')}"
    if one.verdict.kind == "adapted":
        return f"The signs agree that answers on the {rows} get better, so the model in this folder is the adapted one."
    if one.verdict.kind == "kept source":
        return f"Nothing shows that adapting to the {rows} would help, so the model in this folder is the source's."
    where = (
        ""
        if one.asked is None
        else f" {one.asked.name} in {one.asked.parent.name}/ holds the rows most worth it."
    )
    return (
        f"The model seems to fail on the {rows}, and no adaptation is sure to help. The folder holds the source's "
        f"model; label some rows and say --target-labels.{where}"
    )


def sign_table(one: Adaptation) -> Table:
    """The signs before, and of every candidate."""
    columns = (
        "model", "commonest answer", "spread", "confidence", "estimate", "reverse", "transported", "AMI", "nuclear",
        "on the source",
    )  # fmt: skip
    rows = [("as it is", *_cells(one.before), NO_NUMBER)]
    for candidate in one.candidates:
        change = candidate.source_change
        rows.append(
            (
                candidate.method,
                *_cells(candidate.signs),
                NO_NUMBER if change is None else f"{change * 100:+.1f}".replace("-", "−"),
            )
        )
    return Table(columns, tuple(rows), numeric=frozenset(range(1, len(columns))))


def _cells(signs: Signs) -> tuple[str, ...]:
    return (
        f"{signs.largest:.0%}",
        f"{signs.evenness:.2f}",
        f"{signs.confidence:.0%}",
        NO_NUMBER if signs.estimate is None else f"{signs.estimate:.0%}",
        NO_NUMBER if signs.reverse is None else f"{signs.reverse:.0%}",
        NO_NUMBER if signs.transported is None else f"{signs.transported:.0%}",
        f"{signs.ami:.2f}",
        f"{signs.nuclear:.2f}",
    )


def refusal_table(one: Adaptation) -> Table:
    """What speaks against each method."""
    rows = [(c.method, "; ".join(c.refused) or "nothing") for c in one.candidates]
    rows += [(name, f"not possible: {why}") for name, why in one.missing.items()]
    return Table(("method", "what speaks against it"), tuple(rows))


def fact_table(one: Adaptation) -> Table | None:
    """Accuracy on the target's own labels, where it was asked for."""
    if one.after_the_fact is None:
        return None
    rows = tuple(
        (name, words.percent(found["accuracy"]), words.percent(found["balanced_accuracy"]))
        for name, found in one.after_the_fact.items()
    )
    return Table(("model", "accuracy", "balanced accuracy"), rows, numeric=frozenset({1, 2}))


def share_chart(one: Adaptation) -> BarChart:
    """Shares of the classes among the answers, before and now, of the commonest ones."""
    order = sorted(
        range(len(one.labels)), key=lambda index: -max(one.before.shares[index], one.target_shares[index])
    )
    bars = []
    for index in order[:12]:
        for when, shares in (("before", one.before.shares), ("now", one.target_shares)):
            bars.append(
                Bar(
                    f"{one.labels[index]}, {when}",
                    (shares[index],),
                    f"{shares[index]:.0%}",
                    strong=when == "now",
                )
            )
    return BarChart(
        "What the model answers on the target", "share of the rows", tuple(bars), maximum=1.0, percent=True
    )


def moved_chart(one: Adaptation) -> LineChart | None:
    """How far the features' means have moved, by depth."""
    if len(one.shift.moved) < 2:
        return None
    return LineChart(
        "How far the features have moved",
        "depth",
        "deviations of the source",
        (Series("mean distance of means", tuple(one.shift.moved.values())),),
        x_names=tuple(one.shift.moved),
    )


def model_card(one: Adaptation) -> str:
    """The folder's README: what the model is, where it came from, and what is not known of it."""
    reasons = "\n".join(f"- {plain(reason)}" for reason in one.verdict.reasons)
    targets = ", ".join(plain(name) for name in one.target)
    return (
        f"# {plain(title(one))}\n\n{plain(lead(one))}\n\n{reasons}\n\n"
        f"- From the run: {plain(one.run)}\n- Target: {targets}\n"
        f"- Classes: {plain(', '.join(one.labels))}\n- Made: {one.created}\n\n"
        "No label of the target took part: how accurate the model is there is estimated at best. `report.html` shows "
        "the signs, `adaptation.json` holds them. Probabilities are calibrated on the source.\n"
    )
