"""Quotes in tables of text: whether they enclose cells, and rows that a stray one took into a cell."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from unfreeze.data.dataset import Inference
from unfreeze.errors import DataError

# A quoted cell of so many lines is more often a stray quote, with the rows up to the next one, than a text.
LONG_CELL_LINES = 20
# A cell of fewer lines has none that is wholly inside, and a text may begin and end like a row by chance.
FEWEST_LINES = 3
# Of the lines inside a cell that a stray quote opened so many at least are rows; a table may have odd ones. Of 5,999
# mails of three lines and more no one is taken for rows, by any delimiter, with columns in any order, and with classes
# called ham and spam, no and yes, 1 and 2, or the and and.
SHARE_OF_ROWS = 0.9


@dataclass(frozen=True)
class Quotes:
    """What quotes do in a table: whether they are no part of the cells that they ``enclose``, and ``notes`` on that.

    ``inner_lines``: whether there are cells with lines that are wholly inside.
    """

    enclose: bool
    notes: tuple[Inference, ...] = ()
    inner_lines: bool = False


@dataclass(frozen=True)
class _Cell:
    """A quoted cell, from its ``first`` line to its ``last``, which is None where it is never closed.

    ``at_end``: whether its closing quote is the end of the cell. ``is_rows``: whether its lines are rows by themselves.
    """

    first: int
    last: int | None
    at_end: bool = True
    is_rows: bool = False

    @property
    def lines(self) -> int:
        return 0 if self.last is None else self.last - self.first + 1


def look_at_quotes(path: Path, delimiter: str) -> Quotes:
    """What the quotes of a table do.

    Corpora in tab-separated files often quote nothing: there, quotes belong to the text unless each one that opens a
    cell is closed at its end. Raises DataError where one is never closed: all rows after it would be one cell.
    """
    at_ends, inner_lines, opened = True, False, None
    long: list[_Cell] = []
    for cell in _cells(path, delimiter):
        if cell.last is None:
            opened = cell.first
        at_ends &= cell.at_end
        inner_lines |= cell.lines >= FEWEST_LINES
        if cell.lines >= LONG_CELL_LINES:
            long.append(cell)
    if delimiter == "\t" and (opened is not None or not at_ends):
        return Quotes(False, (Inference("quotes", "part of the text", "not all of them enclose a cell"),))
    if opened is not None:
        raise DataError(
            f"{path} cannot be read: the quote that opens a cell in line {opened:,} is never closed, so that all rows "
            "after it would be one. Close it, or remove it."
        )
    if not long:
        return Quotes(True, (), inner_lines)
    value = (
        f"{len(long):,} of {LONG_CELL_LINES} lines or more, the first of {long[0].lines:,} lines from line "
        f"{long[0].first:,} on"
    )
    note = Inference("long cells", value, "a quote that opens a cell takes in all rows up to the next")
    return Quotes(True, (note,), inner_lines)


def swallowed_rows(
    path: Path, delimiter: str, *, columns: int, place: int, known: Collection[str]
) -> tuple[str, ...]:
    """A warning of quoted cells that seem to hold rows of the table; none where there are none.

    Texts have lines and commas too. A cell seems to hold rows where its first and its last line without that quote,
    and nearly all lines between, have as many cells as there are ``columns``, and a ``known`` class in the one at
    ``place``.
    """

    def is_row(line: bytes) -> bool:
        if line.count(delimiter.encode()) < columns - 1:
            return False
        try:
            (cells,) = csv.reader([line.decode("utf-8").rstrip("\r\n")], delimiter=delimiter)
        except (csv.Error, UnicodeDecodeError):
            return False
        return len(cells) == columns and cells[place].strip() in known

    found = [cell for cell in _cells(path, delimiter, is_row) if cell.is_rows]
    if not found:
        return ()
    rows, first = sum(cell.lines - 1 for cell in found), found[0]
    who = "1 quoted cell seems" if len(found) == 1 else f"{len(found):,} quoted cells seem"
    return (
        f"{path.name}: {who} to hold {rows:,} rows of the table: the quote that opens a cell in line {first.first:,} "
        f"is closed in line {first.last:,} only. Remove such a quote, or write it twice in a cell that is quoted "
        "whole.",
    )


def _cells(path: Path, delimiter: str, is_row: Callable[[bytes], bool] | None = None) -> Iterator[_Cell]:
    """The quoted cells of a table in their order, with ``is_rows`` by ``is_row`` for those with inner lines."""
    opening = re.compile(rb'(?<![^%b\r\n])"' % delimiter.encode())
    closing = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
    opened: int | None = None
    begins, inside, rows = b"", 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if opened is not None and (b'"' not in line or not closing.match(line)):
                if is_row is not None and line.strip():
                    inside, rows = inside + 1, rows + is_row(line)
                continue
            place = 0
            while True:
                if opened is None:
                    start = opening.search(line, place)
                    if start is None:
                        break
                    place, opened = start.end(), number
                    begins, inside, rows = line[: start.start()] + line[place:], 0, 0
                end = closing.match(line, place)
                if end is None:
                    break
                place = end.end()
                is_rows = (
                    is_row is not None
                    and inside > 0
                    and rows >= SHARE_OF_ROWS * inside
                    and is_row(begins)
                    # The quote that closes it may open a cell of its own row.
                    and (is_row(line[: place - 1] + line[place:]) or is_row(line))
                )
                at_end = line[place : place + 1] in (delimiter.encode(), b"\r", b"\n", b"")
                yield _Cell(opened, number, at_end, is_rows)
                opened = None
    if opened is not None:
        yield _Cell(opened, None)
