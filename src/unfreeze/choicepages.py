"""How ``--strategy auto`` chose, as a section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unfreeze.choose.trials import gain_text
from unfreeze.report import words
from unfreeze.report.charts import LineChart, Series
from unfreeze.report.content import Section, Table


def choice_section(choice: Mapping[str, Any]) -> Section:
    """Candidates with their trials and expectations, and every decision; ``choice`` is what ``choice.json`` holds."""
    floor = choice["floor"]
    paragraphs = (
        f"Every candidate stands beside the floor, the probe on frozen features: {floor['accuracy_out_of_fold']:.1%} "
        f"right out of fold (95 % interval {100 * floor['interval'][0]:.1f}–{100 * floor['interval'][1]:.1f}) on "
        f"{floor['rows']:,} rows that are not test. Trials train on one half of them and are "
        "scored on the other; the probe beside is fitted on the same half. The test rows took no part.",
        *choice["decisions"],
    )
    if choice["verdict"] is not None:
        paragraphs += (choice["verdict"]["reason"],)
    expected = {one["candidate"]: one for one in choice["expectations"]}
    rows = tuple(
        _row(candidate, choice["trials"], expected.get(candidate["name"]))
        for candidate in choice["candidates"]
    )
    columns = ("candidate", "epochs", "predicted time", "short trial", "full-length trials", "expected gain")
    table = Table(
        columns,
        rows,
        numeric=frozenset({1, 2, 3, 4, 5}),
        caption="Trials: accuracy on held-out rows less that of the probe on the same rows. The expected gain joins "
        "what was hoped for with what was measured and with what trials are behind for learning from fewer rows; with "
        "its 95 % interval.",
    )
    curves = tuple(
        Series(
            f"{trial['candidate']}, half {trial['fold'] + 1}",
            tuple(trial["training_loss"]),
            tuple(float(epoch + 1) for epoch in range(len(trial["training_loss"]))),
        )
        for trial in choice["trials"]
        if trial["share_of_epochs"] == 1 and trial["training_loss"]
    )
    charts = (LineChart("Training loss of full-length trials", "epoch", "nats", curves),) if curves else ()
    known = tuple((fact["sentence"],) for fact in choice.get("facts", {}).values())
    facts = Table(("what was known before anything was tried",), known)
    tables = tuple(one for one in (facts, table) if one.rows)
    return Section("How the strategy was chosen", paragraphs, tables, charts)


def _row(
    candidate: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], expected: Mapping[str, Any] | None
) -> tuple[str, ...]:
    mine = [trial for trial in trials if trial["candidate"] == candidate["name"]]
    told = "not tried"
    if expected is not None:
        told = gain_text(expected["gain"], expected["error"])
    elif any(trial["failed"] for trial in mine):
        told = "failed"
    return (
        candidate["name"],
        str(candidate["epochs"]),
        f"{candidate['predicted_seconds']:.0f} s",
        _gain([trial for trial in mine if trial["share_of_epochs"] < 1]),
        _gain([trial for trial in mine if trial["share_of_epochs"] == 1]),
        told,
    )


def _gain(trials: Sequence[Mapping[str, Any]]) -> str:
    """The accuracy above the probe's over the rows of all these trials."""
    done = [trial for trial in trials if not trial["failed"]]
    rows = sum(trial["rows"] for trial in done)
    if not rows:
        return "–"
    gain = sum((trial["accuracy"] - trial["floor_accuracy"]) * trial["rows"] for trial in done) / rows
    return f"{words.points(gain)} ({rows:,} rows)"
