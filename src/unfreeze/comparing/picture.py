"""The pictures of a comparison: accuracy against what it costs, and learning curves."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from markupsafe import Markup, escape

from unfreeze.comparing.curve import Curve
from unfreeze.report import svg, words
from unfreeze.report.content import Estimate
from unfreeze.report.figures import NARROW, WIDE, Figure
from unfreeze.report.scatter import SHAPES
from unfreeze.report.svg import SMALL, Scale, num
from unfreeze.runtime.files import write_atomically

LAW_POINTS = 24
# Marks of several lines at the same place stand this far apart.
ASIDE = 6.0


@dataclass(frozen=True)
class Trace:
    """What belongs to one name in a picture: points (x, accuracy), joined, and a dashed line that goes on from them."""

    name: str
    points: tuple[tuple[float, Estimate], ...]
    dashed: tuple[tuple[float, float], ...] = ()
    promise: tuple[float, Estimate] | None = None


@dataclass(frozen=True)
class Picture:
    """A picture that shows itself in a notebook and can be saved; ``description`` says it in words."""

    drawing: str
    description: str

    @property
    def svg(self) -> str:
        """A picture file of its own: colours inside, light and dark, nothing fetched."""
        style = (resources.files("unfreeze.report") / "templates" / "style.css").read_text(encoding="utf-8")
        own = "svg{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Arial,sans-serif;background:var(--card)}"
        opened = self.drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        start = opened.index(">") + 1
        return f"{opened[:start]}<style>{style}{own}</style>{opened[start:]}"

    def save(self, path: str | Path) -> None:
        """Write it as an SVG file."""
        write_atomically(Path(path), self.svg)

    def _repr_html_(self) -> str:
        # As a picture of its own: a style in the page would restyle the notebook around it.
        data = base64.b64encode(self.svg.encode("utf-8")).decode("ascii")
        return f'<img alt="{escape(self.description)}" src="data:image/svg+xml;base64,{data}" style="max-width:100%">'


@dataclass(frozen=True)
class Chart:
    """Accuracy over a logarithmic axis; ``unit`` follows an x in its text alternative."""

    title: str
    note: str
    x_label: str
    traces: tuple[Trace, ...]
    unit: str

    @property
    def description(self) -> str:
        """What it shows, in words."""
        said = []
        for trace in self.traces:
            values = (
                f"{words.with_interval(estimate)} at {x:,.3g} {self.unit}" for x, estimate in trace.points
            )
            said.append(f"{trace.name}: {', '.join(values)}.")
            if trace.promise is not None:
                x, estimate = trace.promise
                said.append(f"Expected at {x:,.3g} {self.unit}: {words.with_interval(estimate)}.")
        return f"{self.title}. {' '.join(said)}"

    def figure(self) -> Figure:
        """It, drawn for a page and for a phone."""
        return Figure(self.title, self.draw(WIDE), self.draw(NARROW), self.note)

    def picture(self) -> Picture:
        """It, by itself."""
        return Picture(str(self.draw(WIDE)), self.description)

    def draw(self, width: float) -> Markup:
        """The chart as SVG of this width; text keeps its size."""
        left, right, height = 54.0, width - 14.0, 300.0 if width > 500 else 260.0
        body, used = _legend([trace.name for trace in self.traces], left, right - left)
        top, floor = used + 8, used + height - 34
        xs, ys = _extent(self.traces)
        pad = max((max(ys) - min(ys)) * 0.08, 0.005)
        up = Scale(max(0.0, min(ys) - pad), min(1.0, max(ys) + pad), floor, top)
        low, high = math.log10(min(xs)), math.log10(max(xs))
        reach = max((high - low) * 0.08, 0.05)
        across = Scale(low - reach, high + reach, left + 6, right)
        body += _grid(up, across, left, right, floor)
        for index, trace in enumerate(self.traces):
            aside = (index - (len(self.traces) - 1) / 2) * ASIDE if len(trace.points) > 1 else 0.0
            body += _draw_trace(trace, index, across, up, aside=aside, unit=self.unit)
        middle = (left + right) / 2
        body += svg.label(middle, floor + 31, self.x_label, anchor="middle", kind="muted", size=SMALL)
        side = (top + floor) / 2
        body += svg.label(11, side, "accuracy (%)", anchor="middle", kind="muted", turn=-90, size=SMALL)
        return svg.canvas(width, floor + 36, self.description, body)


def cost_chart(points: Sequence[tuple[str, float, Estimate]], *, title: str, x_label: str) -> Chart:
    """A mark for each (name, seconds, accuracy)."""
    traces = tuple(Trace(name, ((seconds, accuracy),)) for name, seconds, accuracy in points)
    note = "Up is better, left is cheaper. Upright lines are 95 % intervals."
    return Chart(title, note, x_label, traces, "s")


def curve_chart(curves: Sequence[Curve]) -> Chart:
    """A line for each strategy; where a law was fitted it goes on, dashed, to twice the rows."""
    several = len({curve.backbone for curve in curves}) > 1
    traces = []
    for curve in curves:
        name = f"{curve.strategy} on {curve.backbone}" if several else curve.strategy
        points = tuple((float(rows), accuracy) for rows, accuracy in curve.points)
        last = points[-1][0]
        if curve.law is None or curve.doubled is None:
            traces.append(Trace(name, points))
            continue
        steps = (last * 2 ** (step / LAW_POINTS) for step in range(LAW_POINTS + 1))
        dashed = tuple((rows, 1 - curve.law(rows)) for rows in steps)
        traces.append(Trace(name, points, dashed, (2 * last, curve.doubled)))
    note = "Lines are 95 % intervals."
    if any(trace.dashed for trace in traces):
        note += " Dashed: the fitted law, error = a + b n^−c, up to twice the rows."
    return Chart("Accuracy against labelled rows", note, "rows learned from", tuple(traces), "rows")


def _extent(traces: Sequence[Trace]) -> tuple[list[float], list[float]]:
    """Every x and every y that must be seen."""
    marks = [mark for trace in traces for mark in trace.points]
    marks += [trace.promise for trace in traces if trace.promise is not None]
    ys = [value for _, estimate in marks for value in _ends(estimate)]
    return [x for x, _ in marks], ys + [y for trace in traces for _, y in trace.dashed]


def _draw_trace(trace: Trace, index: int, across: Scale, up: Scale, *, aside: float, unit: str) -> Markup:
    def place(x: float) -> float:
        return across(math.log10(x)) + aside

    colour = index % svg.COLOURS
    body = Markup("")
    if len(trace.points) > 1:
        body += svg.polyline([(place(x), up(one.value)) for x, one in trace.points], f"curve s{colour}")
    if trace.dashed:
        path = "L".join(f"{num(place(x))} {num(up(y))}" for x, y in trace.dashed)
        body += Markup(f'<path class="curve s{colour}" stroke-dasharray="4 5" d="M{path}"/>')
    if trace.promise is not None:
        x, estimate = trace.promise
        low, high = _ends(estimate)[::2]
        body += svg.line(place(x), up(low), place(x), up(high), f"whisker s{colour}")
    for x, estimate in trace.points:
        low, value, high = _ends(estimate)
        body += svg.line(place(x), up(low), place(x), up(high), f"whisker s{colour}")
        hint = f"{trace.name}: {words.with_interval(estimate)} at {x:,.3g} {unit}"
        body += _mark(place(x), up(value), index, hint)
    return body


def _legend(names: Sequence[str], left: float, width: float) -> tuple[Markup, float]:
    """The marks with their names, flowing over as many lines as needed, and the height they take."""
    body, x, y = Markup(""), left, 2.0
    for index, name in enumerate(names):
        shown = svg.shorten(name, width - 18, SMALL)
        needed = 16 + svg.text_width(shown, SMALL) + 14
        if x > left and x + needed - 14 > left + width:
            x, y = left, y + 17
        body += _mark(x + 5, y + 6, index, name) + svg.label(x + 15, y + 10, shown, size=SMALL)
        x += needed
    return body, y + 18


def _mark(x: float, y: float, index: int, hint: str) -> Markup:
    """A shape besides a colour, so that neither a colour-blind reader nor a black and white print loses it."""
    shape = SHAPES[(index + index // svg.COLOURS) % len(SHAPES)]
    at = f'transform="translate({num(x)} {num(y)}) scale(1.5)"'
    return Markup(
        f'<path class="point f{index % svg.COLOURS}" {at} d="M0 0{shape}"><title>{escape(hint)}</title></path>'
    )


def _grid(up: Scale, across: Scale, left: float, right: float, floor: float) -> Markup:
    values = svg.ticks(up.low, up.high, 6)
    step = values[1] - values[0] if len(values) > 1 else 1.0
    body = Markup("")
    for value in values:
        text = svg.tick_text(value, step, percent=True)
        body += svg.line(left, up(value), right, up(value), "grid")
        body += svg.label(left - 6, up(value) + 4, text, anchor="end", kind="muted", size=SMALL)
    body += svg.line(left, floor, right, floor, "axis")
    taken = -math.inf
    for number in _log_ticks(across.low, across.high):
        x, text = across(math.log10(number)), f"{number:,.6g}"
        half = svg.text_width(text, SMALL) / 2 + 3
        body += svg.line(x, floor, x, floor + 4, "axis")
        if x - half > taken:
            body += svg.label(x, floor + 16, text, anchor="middle", kind="muted", size=SMALL)
            taken = x + half
    return body


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between 10^low and 10^high: powers of ten with their 2- and 5-fold, or more where that is few."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [number for number in found if low <= math.log10(number) <= high]
        if len(found) >= 3:
            break
    return found


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    """Lower end, value and upper end; the value itself where an end is not known."""
    value = estimate.value
    return (
        value if estimate.low is None else estimate.low,
        value,
        value if estimate.high is None else estimate.high,
    )
