"""A comparison in the terminal: tables that keep their numbers whole at 80 columns, and the verdict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.table import Table as RichTable
from rich.text import Text

from unfreeze.amounts import duration
from unfreeze.comparing import tables
from unfreeze.comparing.folder import PAGE, RESULTS
from unfreeze.report.content import Table
from unfreeze.report.terminal import WIDTH, can_show, encodable

if TYPE_CHECKING:
    from rich.console import Console

    from unfreeze.comparing.comparison import Comparison

# Names are broken behind these, so that every piece still reads as a word.
BREAK_AFTER = re.compile(r"(?<=[-:+_/@.,\s])")
NARROWEST_NAME = 10


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the tables, what failed, the verdict, and where the page is."""
    width = min(console.width, WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(encodable(text, console), style=style), width=width)

    for title, table in _tables(comparison, console):
        say("")
        say(title, "bold")
        console.print(_rich(table, console, width), width=width)
    shared = max((result.shared_seconds or 0.0 for result in comparison.last), default=0.0)
    if shared >= 1:
        say(f"Not in the times: the frozen pass, which all share ({duration(shared)}).", "dim")
    for what, why in comparison.failures:
        say(f"! {what} failed: {why}", "yellow")
    say("")
    for sentence in comparison.sentences:
        say(sentence)
    for sentence in comparison.warnings:
        say(f"! {sentence}", "yellow")
    say("")
    for name in (PAGE, RESULTS):
        # Paths stay on one line, however long, so that they can be copied.
        console.print(Text(encodable(str(comparison.folder / name), console)), soft_wrap=True)


def _tables(comparison: Comparison, console: Console) -> list[tuple[str, Table]]:
    """Titles and tables, in the order in which they are read."""
    found: list[tuple[str, Table]] = []
    for title, results in tables.by_backbone(comparison.last, comparison.several):
        found.append((title, _narrow(tables.accuracy_table(results), console)))
        found.append(("What it takes", tables.cost_table(results)))
    if len(comparison.sizes) > 1:
        found.append(("Accuracy by rows learned from", tables.size_table(comparison.results)))
    if comparison.ranking:
        whole = tables.ranking_table(comparison.ranking)
        found.append(("Backbones, by the probe out of fold", _columns(whole, (0, 1, 2))))
        found.append(("Their size and speed here", _columns(whole, (0, 3, 4, 5, 6, 7))))
    return found


def _narrow(table: Table, console: Console) -> Table:
    """The table of accuracies without the interval of the balanced one, and with short bounds."""
    to = "…" if can_show("…", console) else ".."
    rows = tuple(
        (row[0], row[1], row[2].partition(" (")[0], *(cell.replace(" to ", to) for cell in row[3:]))
        for row in table.rows
    )
    return Table(("strategy", "accuracy %", "balanced", *table.columns[3:]), rows, numeric=table.numeric)


def _columns(table: Table, kept: tuple[int, ...]) -> Table:
    numeric = frozenset(place for place, column in enumerate(kept) if column in table.numeric)
    rows = tuple(tuple(row[column] for column in kept) for row in table.rows)
    return Table(tuple(table.columns[column] for column in kept), rows, numeric=numeric)


def _rich(table: Table, console: Console, width: int) -> RichTable:
    """The table drawn; only the names in the first column take a second line where there is no room."""
    columns = [
        max(len(encodable(cell, console)) for cell in column)
        for column in zip(table.columns, *table.rows, strict=True)
    ]
    spaces = len(columns) - 1
    gap = 2 if sum(columns) + 2 * spaces <= width else 1
    room = max(NARROWEST_NAME, width - sum(columns[1:]) - gap * spaces)
    drawn = RichTable(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for place, name in enumerate(table.columns):
        drawn.add_column(
            name, justify="right" if place in table.numeric else "left", no_wrap=place > 0, overflow="crop"
        )
    for row in table.rows:
        name = "\n".join(broken(encodable(row[0], console), room))
        drawn.add_row(Text(name), *(Text(encodable(cell, console)) for cell in row[1:]))
    return drawn


def broken(name: str, width: int) -> list[str]:
    """The name in lines of at most ``width``, broken behind a sign where it has one."""
    lines = [""]
    for piece in BREAK_AFTER.split(name):
        if len(lines[-1]) + len(piece) <= width:
            lines[-1] += piece
            continue
        lines.append(piece)
        while len(lines[-1]) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line for line in lines if line]
