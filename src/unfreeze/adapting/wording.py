"""The words and tables of an adaptation, for page and terminal alike."""

from __future__ import annotations

from collections.abc import Collection

from unfreeze.adapting.adaptation import Adaptation
from unfreeze.adapting.gate import Verdict
from unfreeze.adapting.request import METHOD_NAMES
from unfreeze.adapting.signs import Signs
from unfreeze.report import words
from unfreeze.report.card import plain
from unfreeze.report.charts import Bar, BarChart, LineChart, Series
from unfreeze.report.content import Table
from unfreeze.report.words import signed

NO_NUMBER = "–"
ON_LABELS = "on the labels"
LEGEND = {
    "spread": "entropy of the answers' shares over that on the source, or without one over that of equal shares",
    "estimate": "accuracy by average-thresholded confidence",
    "reverse": "balanced accuracy on the source's validation rows of heads that learnt from these answers alone",
    "transported": "balanced accuracy on those rows when they have the means, spreads and correlations of the target",
    "AMI": "how well the answers fit clusters of the target's features",
    "nuclear": "nuclear norm of the probabilities over its largest value",
    "on the source": "points of accuracy on the source's validation rows, read in the source's own units",
    ON_LABELS: "points of accuracy on the rows that were labelled, each judged by a fit without its label",
}


def title(one: Adaptation) -> str:
    """The verdict as a heading."""
    if one.verdict.kind == "adapted":
        return f"Adapted by {one.verdict.method}"
    if one.verdict.kind == "kept source":
        return "The source model is kept"
    return "A few labels are needed"


def lead(one: Adaptation) -> str:
    """One sentence on what that means, two where something is to be done."""
    rows = f"{one.rows:,} unlabelled {words.KINDS.get(one.modality, 'rows')}"
    count = one.verdict.labels
    if one.verdict.kind == "adapted":
        who = f"The {count} labelled rows show" if count else "The signs agree"
        return f"{who} that answers on the {rows} get better, so the model in this folder is the adapted one."
    if one.verdict.kind == "kept source":
        who = f"The {count} labelled rows do not show" if count else "Nothing shows"
        return f"{who} that adapting to the {rows} would help, so the model in this folder is the source's."
    what = (
        "label some rows"
        if one.asked is None
        else f"fill the column label of {one.asked.parent.name}/{one.asked.name}, the rows most worth it, and go on"
    )
    return (
        f"The model seems to fail on the {rows}, and no adaptation is sure to help. The folder holds the source's "
        f"model; {what} with --target-labels."
    )


def reasons(one: Adaptation) -> tuple[str, ...]:
    """The verdict's reasons as sentences; one that begins with a method's name keeps it."""
    return tuple(
        reason if reason.partition(":")[0] in METHOD_NAMES else reason[:1].upper() + reason[1:]
        for reason in one.verdict.reasons
    )


def on_source(one: Adaptation) -> str | None:
    """What the adapted model is worth on the source; None where the model is the source's, or nothing is known."""
    if one.verdict.kind != "adapted" or one.on_source is None:
        return None
    before, after = one.on_source
    return (
        f"On the source's validation rows, as they come, this model is right on {words.percent(after)}, the source's "
        f"model on {words.percent(before)}: it is for the target, and no longer for the source."
    )


def sign_table(one: Adaptation) -> Table:
    """The signs before, and of every candidate; with labels that decide what each gains on them."""
    columns: tuple[str, ...] = (
        "model", "commonest answer", "spread", "confidence", "estimate", "reverse", "transported", "AMI", "nuclear",
        "on the source",
    )  # fmt: skip
    scored = any(candidate.answered is not None for candidate in one.candidates)
    if scored:
        columns = (*columns, ON_LABELS)
    rows = [("as it is", *_cells(one.before), *[NO_NUMBER] * (1 + scored))]
    for candidate in one.candidates:
        cells = [candidate.method, *_cells(candidate.signs), _change(candidate.source_change)]
        if scored:
            cells.append(_change(None if candidate.answered is None else candidate.answered[0]))
        rows.append(tuple(cells))
    return Table(columns, tuple(rows), numeric=frozenset(range(1, len(columns))))


def legend(table: Table, shown: Collection[str]) -> str:
    """What the columns of the signs mean, of those that are ``shown``."""
    told = (
        f"{name[0].upper()}{name[1:]}: {LEGEND[name]}."
        for name in table.columns
        if name in LEGEND and name in shown
    )
    return " ".join(told)


def _change(share: float | None) -> str:
    return NO_NUMBER if share is None else signed(share)


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
    """What speaks against each method; where labels have decided, the signs' objections stand for themselves."""
    verdict = one.verdict
    rows = [] if verdict.against is None else [("every method", verdict.against)]
    rows += [(c.method, "; ".join(c.refused) or _nothing(c.method, verdict)) for c in one.candidates]
    rows += [(name, f"not possible: {why}") for name, why in one.missing.items()]
    what = (
        f"what the signs say against it ({verdict.labels} labels decided)"
        if verdict.labels
        else "what speaks against it"
    )
    return Table(("method", what), tuple(rows))


def _nothing(method: str, verdict: Verdict) -> str:
    if verdict.against is not None:
        return "only what speaks against every method"
    if verdict.labels or method == verdict.method or verdict.method is None:
        return "nothing"
    return f"nothing, but the answers of {verdict.method} fit the clusters of the target better"


def fact_table(one: Adaptation) -> Table | None:
    """Accuracy on the target's own labels, where it was asked for."""
    if one.after_the_fact is None:
        return None
    rows = tuple(
        (name, words.percent(found["accuracy"]), words.percent(found["balanced_accuracy"]))
        for name, found in one.after_the_fact.items()
    )
    return Table(("model", "accuracy", "balanced accuracy"), rows, numeric=frozenset({1, 2}))


def fact_note(one: Adaptation) -> str | None:
    """Which rows that table is not of; None where it is of all."""
    if not one.left_out:
        return None
    rows = "1 row is" if one.left_out == 1 else f"{one.left_out:,} rows are"
    return f"{rows} left out, for both models: their labels were given."


def share_chart(one: Adaptation) -> BarChart:
    """Shares of the classes among the answers, of the commonest ones: on the source, on the target before and now."""
    parts = [("before", one.before.shares), ("now", one.target_shares)]
    if one.shift.source_shares is not None:
        parts.insert(0, ("on the source", one.shift.source_shares))
    order = sorted(range(len(one.labels)), key=lambda index: -max(shares[index] for _, shares in parts))
    bars = []
    for index in order[:12]:
        for when, shares in parts:
            bars.append(
                Bar(
                    f"{one.labels[index]}, {when}",
                    (shares[index],),
                    f"{shares[index]:.0%}",
                    strong=when == "now",
                )
            )
    return BarChart("What the model answers", "share of the rows", tuple(bars), maximum=1.0, percent=True)


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
    told = "\n".join(f"- {plain(reason)}" for reason in reasons(one))
    worth = on_source(one)
    taught = (
        f"{one.labelled:,} labelled rows of the target took part"
        if one.labelled
        else "No label of the target took part"
    )
    known = "beyond them" if one.labelled else "there"
    targets = ", ".join(plain(name) for name in one.target)
    return (
        f"# {plain(title(one))}\n\n{plain(lead(one))}\n\n{told}\n\n"
        f"- From the run: {plain(one.run)}\n- Target: {targets}\n"
        f"- Classes: {plain(', '.join(one.labels))}\n- Made: {one.created}\n\n"
        + ("" if worth is None else f"{plain(worth)}\n\n")
        + f"{taught}: how accurate the model is {known} is estimated at best. `report.html` shows "
        "the signs, `adaptation.json` holds them. Probabilities are calibrated on the source.\n"
    )
