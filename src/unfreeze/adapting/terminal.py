"""An adaptation in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table as RichTable
from rich.text import Text

from unfreeze.adapting import wording
from unfreeze.report.terminal import WIDTH, encodable

if TYPE_CHECKING:
    from rich.console import Console

    from unfreeze.adapting.adaptation import Adaptation
    from unfreeze.report.content import Table

# What fits into 80 columns beside a method's name; the page has them all.
COLUMNS = ("model", "commonest answer", "reverse", "transported", "AMI", "on the source")
LABELLED_COLUMNS = (*COLUMNS[:-1], wording.ON_LABELS)


def print_adaptation(one: Adaptation, console: Console) -> None:
    """Print the shift, the signs, the verdict, and where the page is."""
    width = min(console.width, WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(encodable(text, console), style=style), width=width)

    say("")
    say("How far the target is", "bold")
    for sentence in one.told:
        say(sentence)
    say("")
    say("The signs, on the target", "bold")
    signs = wording.sign_table(one)
    columns = LABELLED_COLUMNS if wording.ON_LABELS in signs.columns else COLUMNS
    console.print(_rich(signs, columns, console), width=width)
    say(wording.legend(signs, columns), "dim")
    fact = wording.fact_table(one)
    if fact is not None:
        say("")
        say("After the fact, by the target's own labels", "bold")
        console.print(_rich(fact, fact.columns, console), width=width)
        note = wording.fact_note(one)
        if note is not None:
            say(note, "dim")
    say("")
    say(wording.title(one), "bold")
    say(wording.lead(one))
    for reason in wording.reasons(one):
        say(f"- {reason}")
    for note in (wording.on_source(one), one.warning):
        if note is not None:
            say(note)
    say("")
    for path in (one.folder / "report.html", *(() if one.asked is None else (one.asked,))):
        console.print(Text(encodable(str(path), console)), soft_wrap=True)
    if one.asked is not None:
        say("")
        say("Once its column label is filled:")
        console.print(Text(encodable(one.again, console)), soft_wrap=True)


def _rich(table: Table, columns: tuple[str, ...], console: Console) -> RichTable:
    shown = [place for place, name in enumerate(table.columns) if name in columns]
    drawn = RichTable(box=None, pad_edge=False)
    for place in shown:
        drawn.add_column(table.columns[place], justify="right" if place in table.numeric else "left")
    for row in table.rows:
        drawn.add_row(*(Text(encodable(row[place], console)) for place in shown))
    return drawn
