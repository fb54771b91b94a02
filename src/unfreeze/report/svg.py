"""The small pieces that every chart is drawn with: escaped text, scales, ticks and legends as SVG."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

FONT = 12.0
SMALL = 11.0
COLOURS = 8
# Widths of characters as shares of the size, read off DejaVu Sans, one of the widest common sans-serif faces.
NARROW, MIDDLE, BROAD, SQUARE = 0.36, 0.62, 0.88, 1.0
NARROW_ONES = frozenset(" .,:;'|!()[]{}/\\ijlftrI")
BROAD_ONES = frozenset("mwMWQ@%—")


@dataclass(frozen=True)
class Scale:
    """A straight map from data [low, high] to drawing units [start, stop]."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Where a value lies, in drawing units."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + share * (self.stop - self.start)


def num(value: float) -> str:
    """A coordinate with at most one decimal; infinities and NaN become 0 so that the picture stays valid."""
    if not math.isfinite(value):
        return "0"
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")  # adding 0.0 turns -0.0 into 0.0


def text_width(text: str, size: float = FONT) -> float:
    """Estimated width of a text in drawing units; East Asian wide characters count as one full square."""
    units = 0.0
    for character in text:
        if unicodedata.combining(character):
            continue
        if character in NARROW_ONES:
            units += NARROW
        elif unicodedata.east_asian_width(character) in "WF":
            units += SQUARE
        else:
            units += BROAD if character in BROAD_ONES else MIDDLE
    return units * size


def shorten(text: str, width: float, size: float = FONT) -> str:
    """The text, cut with an ellipsis where it would be wider than ``width``."""
    if text_width(text, size) <= width:
        return text
    kept = text
    while kept and text_width(kept + "…", size) > width:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def label(
    x: float,
    y: float,
    content: str,
    *,
    anchor: str = "start",
    kind: str = "",
    turn: float = 0,
    size: float = FONT,
) -> Markup:
    """One line of text from (x, y), of CSS class ``kind``, turned by ``turn`` degrees around that point."""
    turned = f' transform="rotate({num(turn)} {num(x)} {num(y)})"' if turn else ""
    named = f' class="{kind}"' if kind else ""
    at = f'x="{num(x)}" y="{num(y)}"'
    return Markup(
        f'<text {at}{named} text-anchor="{anchor}" font-size="{num(size)}"{turned}>{escape(content)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a CSS class."""
    return Markup(f'<path class="{kind}" d="M{num(x1)} {num(y1)}L{num(x2)} {num(y2)}"/>')


def box(
    x: float, y: float, width: float, height: float, kind: str, *, title: str = "", opacity: float = 1
) -> Markup:
    """A rectangle of a CSS class, with a hint shown on hovering."""
    shade = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
    size = f'width="{num(max(width, 0))}" height="{num(height)}"'
    head = f'<rect class="{kind}" x="{num(x)}" y="{num(y)}" {size}{shade}'
    return Markup(f"{head}><title>{escape(title)}</title></rect>" if title else f"{head}/>")


def polyline(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A line through points."""
    path = "L".join(f"{num(x)} {num(y)}" for x, y in points)
    return Markup(f'<path class="{kind}" d="M{path}"/>')


def canvas(width: float, height: float, description: str, body: str) -> Markup:
    """The whole picture: it scales with the page, and says in words what it shows."""
    size = f'viewBox="0 0 {num(width)} {num(height)}" width="{num(width)}" height="{num(height)}"'
    return Markup(f'<svg role="img" aria-label="{escape(description)}" {size}>{body}</svg>')


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values (steps of 1, 2 or 5) inside [low, high], about ``most`` of them at the most."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    rough = span / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9)), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_text(value: float, step: float, *, percent: bool) -> str:
    """A tick's label with as many decimals as its step needs."""
    shown, step = (value * 100, step * 100) if percent else (value, step)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{shown:,.{min(decimals, 6)}f}"


def legend(names: Sequence[tuple[str, str]], x: float, y: float, width: float) -> tuple[Markup, float]:
    """Swatches with names, flowing over as many lines as needed, and the height they take.

    ``names`` holds (CSS class of the swatch, name).
    """
    body = Markup("")
    left, top = x, y
    for kind, name in names:
        shown = shorten(name, min(width, 190) - 18, SMALL)
        needed = 16 + text_width(shown, SMALL) + 12
        if left > x and left + needed - 12 > x + width:
            left, top = x, top + 16
        body += box(left, top + 1, 10, 10, kind) + label(left + 15, top + 10, shown, size=SMALL)
        left += needed
    return body, top - y + 20
