"""What ``unfreeze plan`` prints: facts, costs and the choice by rules, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unfreeze.amounts import duration, size
from unfreeze.report.terminal import on_one_line

WIDTH = 80
NAME_WIDTH = 30


def print_outlook(outlook: Mapping[str, Any], console: Console) -> None:
    """The outlook for a person; ``outlook`` is what ``plan --json`` prints."""
    width = min(console.width, WIDTH)

    def say(text: str, indent: str = "", style: str = "") -> None:
        further = " " * len(indent)
        text = on_one_line(text)
        console.print(Text(fill(text, width, initial_indent=indent, subsequent_indent=further), style=style))

    say(f"{outlook['data']}, read by {outlook['backbone']}", style="bold")
    say("")
    say("What is known", style="bold")
    for fact in outlook["facts"].values():
        say(fact["sentence"], "- ")
    say("")
    if outlook["options"]:
        say("What it would take", style="bold")
        console.print(_costs(outlook["options"]), width=width)
        say("Time: the whole thawing; without the store of frozen parts in brackets. Disk: that store.")
        say("")
        say("What would be done", style="bold")
    for option in outlook["options"]:
        say(f"{option['name']} ({option['reason']})")
        for phase in option["in_words"]:
            say(phase, "  - ")
    for entry in outlook["unfit"]:
        say(f"{entry['name']}: {entry['reason']}", "! ", "yellow")
    floor, choice = outlook["floor"], outlook["choice_by_rules"]
    say("")
    say(
        f"The probe, the floor: {floor['accuracy']:.1%} out of fold (95 % interval {floor['accuracy_low']:.1%} to "
        f"{floor['accuracy_high']:.1%})."
    )
    say(f"By the rules alone: {choice['name']}. {choice['reason']}", style="bold")
    spent = sum(outlook["seconds_spent"].values())
    say(f"Looking ahead took {duration(spent)}; nothing was trained but the probe.", style="dim")


def _costs(options: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("plan", max_width=NAME_WIDTH, overflow="fold")
    for name in ("time", "(no store)", "memory", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    for option in options:
        disk = option["disk_bytes"]
        table.add_row(
            Text(on_one_line(option["name"])),
            duration(option["seconds"]),
            f"({duration(option['plain_seconds'])})",
            size(option["memory_bytes"]),
            size(disk) if disk else "none",
        )
    return table
