"""What a person reads in the terminal at the end of a run: at most 80 columns, and whole without colour."""

from __future__ import annotations

import unicodedata
from pathlib import PurePath
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unfreeze.amounts import duration
from unfreeze.report import tables, words
from unfreeze.report.content import ReportData

WIDTH = 80
MOST_CLASSES = 12
NAME_WIDTH = 30
BAR_WIDTH = 24


def print_summary(data: ReportData, console: Console) -> None:
    """Print the result, what it stands beside, the classes when they are few, warnings, and the paths."""
    width = min(console.width, WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(encodable(text, console), style=style), width=width)

    say("")
    say(words.title(data), "bold")
    say(words.verdict(data))
    say("")
    console.print(_baselines(data, console), width=width)
    say("")
    validation = words.with_interval(data.validation.accuracy)
    say(f"Validation {validation}, {data.validation_how}.")
    say(words.threshold_text(data))
    if len(data.test.labels) <= MOST_CLASSES:
        say("")
        console.print(_classes(data, console), width=width)
    warnings = words.warnings(data)
    if warnings:
        say("")
    for warning in warnings:
        say(f"! {warning}", "yellow")
    say("")
    seconds = sum(entry.seconds for entry in data.timing)
    if seconds:
        say(f"Took {duration(seconds)}, run with {data.executor.name}.", "dim")
    # Paths stay on one line, however long, so that they can be copied.
    for name, path in (("Run", PurePath(data.folder)), ("Report", PurePath(data.folder) / "report.html")):
        console.print(Text(f"{name:7} {encodable(str(path), console)}"), soft_wrap=True)


def _baselines(data: ReportData, console: Console) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(max_width=NAME_WIDTH, overflow=_overflow(console), no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    rows = [(words.baseline_name(entry), entry.accuracy, "") for entry in data.baselines]
    rows.append(("this run", data.test.accuracy, "bold"))
    # Blocks are drawn only where the terminal can show them.
    block = "█" if can_show("█", console) else "#"
    for name, estimate, style in rows:
        bar = block * round(estimate.value * BAR_WIDTH)
        cells = (name, bar, words.percent(estimate.value), words.interval(estimate))
        table.add_row(*(Text(encodable(cell, console)) for cell in cells), style=style)
    return table


def _classes(data: ReportData, console: Console) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD if can_show("─", console) else box.ASCII, pad_edge=False, show_edge=False
    )
    table.add_column("class", max_width=NAME_WIDTH, overflow=_overflow(console), no_wrap=True)
    for name in ("precision", "recall", "F1", "rows"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in tables.class_rows(data.test):
        table.add_row(*(Text(encodable(cell, console)) for cell in row))
    return table


def _overflow(console: Console) -> Literal["ellipsis", "crop"]:
    return "ellipsis" if can_show("…", console) else "crop"


def can_show(text: str, console: Console) -> bool:
    """Whether the terminal has these letters."""
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return True


def on_one_line(text: str) -> str:
    """The text without what moves the cursor, colours, turns or breaks a line: anybody may have named a file.

    Spaces of other widths become plain ones; what joins letters stays.
    """

    def shown(character: str) -> str:
        kind = unicodedata.category(character)
        if kind == "Zs":
            return " "
        return character if character.isprintable() or (kind == "Cf" and not turns(character)) else "\ufffd"

    def turns(character: str) -> bool:
        return words.UNPRINTABLE.match(character) is not None

    return "".join(map(shown, text))


def encodable(text: str, console: Console) -> str:
    """The text without control characters, in the letters that the terminal knows."""
    shown = on_one_line(text)
    if not can_show(shown, console):
        shown = shown.replace("–", "-").replace("…", "...")
        shown = shown.encode(console.encoding, "replace").decode(console.encoding)
    return shown
