"""One self-contained HTML page of a run: nothing is fetched, no script is needed, everything is escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from unfreeze.report import figures, tables, words
from unfreeze.report.content import Example, ReportData
from unfreeze.report.reliability import reliability_diagram
from unfreeze.runtime.files import write_atomically

TEXT_SHOWN = 300
EXAMPLES_SHOWN = 24


@dataclass(frozen=True)
class _Gallery:
    """Cards under a title, with the words before the given and the predicted label of each."""

    title: str
    short: str
    text: str
    given: str
    predicted: str
    cards: list[dict[str, str]]


def write_report(data: ReportData, path: Path) -> None:
    """Write the page to ``path``, whole or not at all. Raises OSError when it cannot be written."""
    write_atomically(path, render(data))


def render(data: ReportData) -> str:
    """The page as HTML."""
    page = (
        make_environment()
        .get_template("report.html")
        .render(
            data=data,
            baselines=figures.both(figures.baseline_chart(data)),
            counts=figures.both(figures.counts_chart(data)),
            count_table=tables.count_table(data),
            settings=[
                (entry.name, words.setting_text(entry.value), entry.origin, entry.reason)
                for entry in data.settings
            ],
            thaw=figures.both(figures.thaw_chart(data)) if data.thaw else None,
            thaw_table=tables.thaw_table(data),
            scores=tables.score_rows(data),
            confusion=figures.confusion(data.test),
            pairs=tables.pair_table(data.test),
            classes=tables.class_rows(data.test),
            weakest=tables.weakest_rows(data.test) if len(data.test.labels) > figures.MANY_CLASSES else [],
            reliability=reliability_diagram(data.reliability, width=figures.HALF)
            if data.reliability
            else None,
            galleries=_galleries(data),
            space=figures.space(data),
            sections=[
                (section, [figures.both(chart) for chart in section.charts], list(section.tables))
                for section in data.sections
            ],
            timing=figures.both(figures.timing_chart(data)) if data.timing else None,
            most_open=figures.MANY_CLASSES,
        )
    )
    return words.printable(page)


@cache
def make_environment() -> jinja2.Environment:
    """Where the pages' templates are read, with the parts, filters and colours that all pages share.

    One for the process: compiling the templates takes longer than filling them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nb"] = _unbroken
    environment.filters["number"] = words.number
    environment.globals |= {"words": words, "style": Markup(_template("style.css"))}
    return environment


def _template(name: str) -> str:
    return (resources.files("unfreeze.report") / "templates" / name).read_text(encoding="utf-8")


def _unbroken(sentence: str) -> str:
    """The sentence with its percent signs kept on the line of their number."""
    return re.sub(r"(?<=\d) %", "\u202f%", sentence)


def _galleries(data: ReportData) -> list[_Gallery]:
    """The galleries with something to show."""
    mistakes = "Wrong answers on the test rows that the classifier was most sure of."
    suspects = "Rows whose given label disagrees most with what the other rows suggest (out of fold)."
    found = (
        _Gallery(
            "The most confident mistakes", "Mistakes", mistakes, "true", "answered", cards_of(data.mistakes)
        ),
        _Gallery(
            "Labels that may be wrong", "Labels", suspects, "labelled", "looks like", cards_of(data.suspects)
        ),
    )
    return [gallery for gallery in found if gallery.cards]


def cards_of(examples: Sequence[Example]) -> list[dict[str, str]]:
    """What a gallery shows of these examples."""
    return [_card(example) for example in examples[:EXAMPLES_SHOWN]]


def _card(example: Example) -> dict[str, str]:
    text = example.text or ""
    return {
        "name": example.name,
        "true": example.true,
        "predicted": example.predicted,
        "probability": words.percent(example.probability),
        "image": base64.b64encode(example.image).decode("ascii") if example.image else "",
        "text": text if len(text) <= TEXT_SHOWN else text[:TEXT_SHOWN].rstrip() + " …",
    }
