"""The page of an adaptation: one file, nothing fetched, no script, light and dark, page and phone."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.adapting import wording
from unfreeze.amounts import duration
from unfreeze.report import words
from unfreeze.report.figures import both
from unfreeze.report.page import cards_of, make_environment
from unfreeze.runtime.files import write_atomically

if TYPE_CHECKING:
    from unfreeze.adapting.adaptation import Adaptation


def write_page(adaptation: Adaptation, path: Path) -> None:
    """Write the page to ``path``, whole or not at all."""
    write_atomically(path, render(adaptation))


def render(one: Adaptation) -> str:
    """The page as HTML."""
    template = (resources.files("unfreeze.adapting") / "adapt.html").read_text(encoding="utf-8")
    moved, signs = wording.moved_chart(one), wording.sign_table(one)
    page = (
        make_environment()
        .from_string(template)
        .render(
            one=one,
            title=wording.title(one),
            lead=wording.lead(one),
            reasons=wording.reasons(one),
            on_source=wording.on_source(one),
            signs=signs,
            legend=wording.legend(signs, signs.columns),
            refusals=wording.refusal_table(one),
            fact=wording.fact_table(one),
            fact_note=wording.fact_note(one),
            shares=both(wording.share_chart(one)),
            moved=None if moved is None else both(moved),
            cards=cards_of(one.unusual),
            seconds=duration(one.seconds),
        )
    )
    return words.printable(page)
