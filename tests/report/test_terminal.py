"""The summary in the terminal: within 80 columns, whole without colour, never a crash over a letter."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from unfreeze.report.terminal import print_summary


def printed(data, *, encoding: str = "utf-8", width: int = 80) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_summary(data, Console(file=file, width=width, no_color=True))
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 200])
def test_lines_keep_within_80_columns(toys, width):
    for data in (toys.images(), toys.many(12), toys.many(40), toys.texts()):
        assert max(cell_len(line) for line in printed(data, width=width).splitlines()) <= 80


def test_everything_that_matters_is_said(toys):
    said = printed(toys.images())
    joined = " ".join(said.split())
    for part in (
        "85.7 % of 656 held-out images are right (95 % interval 82.8–88.1)",
        "always 'functional'",
        "71.3 %",
        "Validation 85.8 % (84.2–87.2), out of fold over 1,968 rows.",
        "Below a probability of 83.0 % the classifier abstains",
        "defective 75.3 74.5 74.9 188",
        "! 2 images occur both in train and in test",
        "Took 25.9 s, run with openvino-fp32.",
        "report.html",
    ):
        assert part in joined, part
    assert "\x1b[" not in said


def test_many_classes_are_left_to_the_report(toys):
    assert "precision" not in printed(toys.many(13))
    assert "precision" in printed(toys.many(12))


def test_a_terminal_that_knows_ascii_only_gets_a_whole_summary(toys):
    said = printed(toys.texts(), encoding="ascii")
    assert "89.9-96.4" in said
    assert "#######" in said
    assert "Gr??enberatung" in said
    printed(toys.many(12), encoding="ascii")


def test_names_are_not_read_as_style_marks(toys):
    data = toys.texts()
    assert "[red]x[/red]" in printed(replace(data, data=replace(data.data, name="[red]x[/red]")))


def test_a_long_path_stays_in_one_piece(toys):
    folder = "runs/" + "long-" * 30
    assert f"{folder}/report.html" in printed(replace(toys.images(), folder=folder))
