"""The confusion matrix as a picture, from 2 to some 100 classes, and the pairs that are confused most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from unfreeze.report import svg
from unfreeze.report.svg import FONT, SMALL, label, shorten, text_width

# From this share of the row on, the cell is so dark that its number is drawn in the opposite colour.
DARK = 0.62
MOST_CELLS_WITH_HINTS = 900


def confusion_matrix(confusion: Sequence[Sequence[int]], labels: Sequence[str], *, width: float) -> Markup:
    """A square of cells, true classes as rows: right ones blue, wrong ones orange, stronger the more.

    Counts are written where they fit and names where rows are high enough to read.
    """
    size = len(labels)
    named = (width - 60) / size >= 11
    font = min(FONT, max((width - 60) / size * 0.55, 7.5))
    names_width = min(max(text_width(name, font) for name in labels), width * 0.28) + 8 if named else 22.0
    left = 18 + names_width
    cell = min((width - left - 2) / size, 84.0)
    longest = max(text_width(shorten(name, names_width, font), font) for name in labels)
    upright = named and longest + 6 > cell
    above = 20 + ((longest * 0.87 + 14) if upright else 18)
    edge = cell * size
    body = label(left + edge / 2, 12, "predicted", anchor="middle", kind="muted", size=SMALL)
    body += label(12, above + edge / 2, "true", anchor="middle", kind="muted", turn=-90, size=SMALL)
    body += svg.box(left, above, edge, edge, "frame")
    for index, name in enumerate(labels):
        middle = (index + 0.5) * cell
        if not named:
            if index == 0 or (index + 1) % 10 == 0:
                body += label(
                    left - 4, above + middle + 3, str(index + 1), anchor="end", kind="muted", size=9
                )
                body += label(left + middle, above - 4, str(index + 1), anchor="middle", kind="muted", size=9)
            continue
        text = shorten(name, names_width - 8, font)
        body += label(left - 6, above + middle + font * 0.35, text, anchor="end", size=font)
        across, turn, anchor = (
            (left + middle + font * 0.3, -60.0, "start") if upright else (left + middle, 0.0, "middle")
        )
        body += label(across, above - 6, text, anchor=anchor, turn=turn, size=font)
    body += _cells(confusion, labels, left, above, cell)
    # Names turned over the last column reach beyond the square.
    beyond = longest * 0.5 if upright else 0.0
    described = _describe(confusion, labels)
    return svg.canvas(
        max(left + edge + 2, min(left + edge + beyond, width)), above + edge + 2, described, body
    )


def _cells(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], left: float, above: float, cell: float
) -> Markup:
    body = []
    digits = len(str(max(max(row) for row in confusion)))
    written = cell >= digits * 6.5 + 3
    hints = len(labels) ** 2 <= MOST_CELLS_WITH_HINTS
    gap = 1.0 if cell > 8 else 0.0
    for true, row in enumerate(confusion):
        total = sum(row)
        for predicted, count in enumerate(row):
            if not count:
                continue
            # The square root keeps a few mistakes among many rows visible.
            shade = math.sqrt(count / total)
            x, y = left + predicted * cell, above + true * cell
            kind = "right" if true == predicted else "wrong"
            hint = f"{labels[true]} → {labels[predicted]}: {count} of {total}" if hints else ""
            size = cell - gap
            body.append(
                svg.box(x + gap / 2, y + gap / 2, size, size, kind, title=hint, opacity=max(shade, 0.06))
            )
            if written:
                contrast = "over" if shade >= DARK else "cellink"
                size = min(FONT, cell * 0.45) if cell < 40 else 13.0
                at = y + cell / 2 + size * 0.36
                body.append(label(x + cell / 2, at, str(count), anchor="middle", kind=contrast, size=size))
    return Markup("").join(body)


def confused_pairs(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], *, most: int = 12
) -> list[tuple[str, str, int, float]]:
    """The pairs confused most, in falling order: (true, predicted, rows, share of the true class)."""
    pairs = [
        (labels[true], labels[predicted], count, count / sum(row))
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3], pair[0], pair[1]))[:most]


def _describe(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    total = sum(sum(row) for row in confusion)
    right = sum(row[index] for index, row in enumerate(confusion))
    worst = "; ".join(
        f"{true} taken for {predicted} {count} times"
        for true, predicted, count, _ in confused_pairs(confusion, labels, most=5)
    )
    return f"Confusion matrix of {len(labels)} classes: {right} of {total} right. {worst or 'No mistakes'}."
