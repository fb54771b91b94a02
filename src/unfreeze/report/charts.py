"""Line and bar charts as values, and their drawings as SVG that follows the page's light or dark colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup, escape

from unfreeze.report import svg
from unfreeze.report.svg import SMALL, Scale, label, line, num, shorten, text_width

# Drawing units: less holds no readable part of a name.
LEAST_NAME = 20.0


@dataclass(frozen=True)
class Series:
    """One line: ``y`` over ``x`` (0, 1, 2 … when left out), with the bounds of an interval where known."""

    name: str
    y: tuple[float, ...]
    x: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    marker_only: bool = False

    @property
    def positions(self) -> tuple[float, ...]:
        """The x of every point."""
        return self.x or tuple(float(index) for index in range(len(self.y)))

    @property
    def known(self) -> list[tuple[float, float]]:
        """The points (x, y) without those whose y is infinite or missing."""
        return [(x, y) for x, y in zip(self.positions, self.y, strict=True) if math.isfinite(y)]


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line with a name, such as the majority's share."""

    value: float
    name: str


@dataclass(frozen=True)
class Border:
    """A vertical line with the name of what begins there, such as a phase."""

    x: float
    name: str


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis. ``x_names`` stand for x = 0, 1, 2 …; ``percent``: y is a share."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_names: tuple[str, ...] = ()
    levels: tuple[Level, ...] = ()
    borders: tuple[Border, ...] = ()
    percent: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar made of stacked parts, the text at its end, and the bounds of an interval where they are known.

    ``detail`` follows the text where there is room, and is part of the hint.
    """

    name: str
    parts: tuple[float, ...]
    text: str
    low: float | None = None
    high: float | None = None
    strong: bool = False
    detail: str = ""


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars over one axis from 0 to ``maximum`` (the longest bar when left out)."""

    title: str
    x_label: str
    bars: tuple[Bar, ...]
    part_names: tuple[str, ...] = ()
    maximum: float | None = None
    percent: bool = False


def draw(chart: LineChart | BarChart, *, width: float) -> Markup:
    """The chart as SVG of this width; text keeps its size: draw once for a phone and once for a page."""
    return _draw_lines(chart, width) if isinstance(chart, LineChart) else _draw_bars(chart, width)


def value_text(value: float, *, percent: bool) -> str:
    """A value for a text alternative or a hint."""
    return f"{value * 100:.1f} %" if percent else f"{value:.4g}"


def _draw_lines(chart: LineChart, width: float) -> Markup:
    height = 300.0 if width > 500 else 250.0
    left, right, top = 46.0, 14.0, 10.0
    body = Markup("")
    if len(chart.series) > 1:
        names = [(f"f{index % svg.COLOURS}", one.name) for index, one in enumerate(chart.series)]
        drawn, used = svg.legend(names, left, 2, width - left - right)
        body, top = body + drawn, used + 8
    # The first name hangs to the left of its tick when turned, so the margin below follows the longest name.
    turned, bottom, step = _room_for_names(chart.x_names, width - left - right)
    floor = height + top - 10 - bottom - 18
    xs = [x for one in chart.series for x in one.positions if math.isfinite(x)] or [0.0]
    pad = 0.4 if chart.x_names else 0.0
    across = Scale(min(xs) - pad, max(xs) + pad, left, width - right)
    low, high = _y_range(chart)
    up = Scale(low, high, floor, top)
    body += _y_axis(chart, up, left, width - right)
    body += _x_axis(chart, across, floor, turned=turned, step=step)
    body += _levels(chart, up, left, width - right)
    body += _borders(chart, across, top, floor)
    for index, one in enumerate(chart.series):
        body += _series(one, f"{index % svg.COLOURS}", across, up, chart)
    end = floor + bottom + 18
    body += label(
        (left + width - right) / 2, end - 3, chart.x_label, anchor="middle", kind="muted", size=SMALL
    )
    body += label(11, (top + floor) / 2, chart.y_label, anchor="middle", kind="muted", turn=-90, size=SMALL)
    return svg.canvas(width, end + 2, _describe_lines(chart), body)


def _room_for_names(names: tuple[str, ...], width: float) -> tuple[bool, float, int]:
    """Whether the names under the axis are turned, the height they take, and every how many-th is shown."""
    if not names:
        return False, 20.0, 1
    slot = width / len(names)
    longest = max(text_width(name, SMALL) for name in names)
    if longest + 6 <= slot:
        return False, 20.0, 1
    return True, min(longest, 90.0) * 0.64 + 22, max(1, math.ceil(13 / slot))


def _y_range(chart: LineChart) -> tuple[float, float]:
    values = [level.value for level in chart.levels]
    for one in chart.series:
        values += [*one.y, *one.low, *one.high]
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 0.5
    low, high = (low - pad if low < 0 or low - pad > 0 else 0.0), high + pad
    return (max(low, 0.0), min(high, 1.0)) if chart.percent else (low, high)


def _y_axis(chart: LineChart, up: Scale, left: float, right: float) -> Markup:
    values = svg.ticks(up.low, up.high, 6)
    step = values[1] - values[0] if len(values) > 1 else 1.0
    body = Markup("")
    for value in values:
        text = svg.tick_text(value, step, percent=chart.percent)
        body += line(left, up(value), right, up(value), "grid")
        body += label(left - 6, up(value) + 4, text, anchor="end", kind="muted", size=SMALL)
    return body


def _x_axis(chart: LineChart, across: Scale, floor: float, *, turned: bool, step: int) -> Markup:
    body = line(across.start, floor, across.stop, floor, "axis")
    if not chart.x_names:
        whole = all(float(x).is_integer() for one in chart.series for x in one.positions)
        # There is no epoch one and a half.
        values = svg.ticks(across.low, across.high, min(6, int(across.high - across.low)) if whole else 6)
        gap = values[1] - values[0] if len(values) > 1 else 1.0
        for value in values:
            text = svg.tick_text(value, gap, percent=False)
            body += label(across(value), floor + 15, text, anchor="middle", kind="muted", size=SMALL)
        return body
    last = len(chart.x_names) - 1
    for index, name in enumerate(chart.x_names):
        # The last name is always shown, so one that stands too close before it is not.
        if index != last and (index % step or last - index < step):
            continue
        x = across(index)
        if turned:
            text = shorten(name, 90, SMALL)
            body += label(x + 4, floor + 13, text, anchor="end", kind="muted", turn=-40, size=SMALL)
        else:
            body += label(x, floor + 15, name, anchor="middle", kind="muted", size=SMALL)
    return body


def _levels(chart: LineChart, up: Scale, left: float, right: float) -> Markup:
    body = Markup("")
    taken: list[float] = []
    for level in sorted(chart.levels, key=lambda entry: -entry.value):
        y = up(level.value)
        at = y - 5
        if any(abs(at - other) < 13 for other in taken):
            at = y + 13
        taken.append(at)
        name = shorten(level.name, right - left - 10, SMALL)
        body += line(left, y, right, y, "level") + label(
            right, at, name, anchor="end", kind="halo", size=SMALL
        )
    return body


def _borders(chart: LineChart, across: Scale, top: float, floor: float) -> Markup:
    body = Markup("")
    ends = [*(border.x for border in chart.borders[1:]), across.high]
    for border, end in zip(chart.borders, ends, strict=False):
        x = across(border.x)
        # A phase of one epoch has no room for its name; the description has it.
        room = across(end) - x - 6
        body += line(x, top, x, floor, "level")
        if room > LEAST_NAME:
            body += label(x + 4, top + 10, shorten(border.name, room, SMALL), kind="halo", size=SMALL)
    return body


def _series(one: Series, colour: str, across: Scale, up: Scale, chart: LineChart) -> Markup:
    known = one.known
    points = [(across(x), up(y)) for x, y in known]
    body = Markup("")
    if one.low and one.high and len(points) == len(one.y):
        bounds = list(zip(one.low, one.high, strict=True))
        if one.marker_only or len(points) == 1:
            for (x, _), (low, high) in zip(points, bounds, strict=True):
                body += line(x, up(low), x, up(high), f"whisker s{colour}")
        else:
            there = [f"{num(x)} {num(up(high))}" for (x, _), (_, high) in zip(points, bounds, strict=True)]
            back = [f"{num(x)} {num(up(low))}" for (x, _), (low, _) in zip(points, bounds, strict=True)]
            body += Markup(f'<path class="band f{colour}" d="M{"L".join(there + back[::-1])}Z"/>')
    if points and not one.marker_only:
        body += svg.polyline(points, f"curve s{colour}")
    if len(points) <= 60:
        for (position, y), (px, py) in zip(known, points, strict=True):
            name = chart.x_names[int(position)] if chart.x_names else f"{position:g}"
            hint = escape(f"{one.name}, {name}: {value_text(y, percent=chart.percent)}")
            at = f'cx="{num(px)}" cy="{num(py)}" r="3.6"'
            body += Markup(f'<circle class="dot f{colour}" {at}><title>{hint}</title></circle>')
    return body


def _describe_lines(chart: LineChart) -> str:
    said = [f"{chart.title}. {chart.y_label} by {chart.x_label}."]
    for one in chart.series:
        pairs = one.known
        if len(pairs) > 24:
            best = max(pairs, key=lambda pair: pair[1])
            worst = min(pairs, key=lambda pair: pair[1])
            pairs = sorted({pairs[0], best, worst, pairs[-1]})
        values = (
            f"{chart.x_names[int(x)] if chart.x_names else f'{x:g}'} {value_text(y, percent=chart.percent)}"
            for x, y in pairs
        )
        said.append(f"{one.name}: {', '.join(values)}.")
    said += [f"{border.name} from {chart.x_label} {border.x:g} on." for border in chart.borders]
    said += [f"{level.name}: {value_text(level.value, percent=chart.percent)}." for level in chart.levels]
    return " ".join(said)


def _draw_bars(chart: BarChart, width: float) -> Markup:
    names = [bar.name for bar in chart.bars]
    room = min(max((text_width(name) for name in names), default=0) + 10, width * 0.4)
    roomy = width > 500
    end = max((text_width(_end_text(bar, roomy=roomy)) for bar in chart.bars), default=0) + 12
    left, right, top = room, width - end, 4.0
    body = Markup("")
    if len(chart.part_names) > 1:
        entries = [(f"f{index % svg.COLOURS}", name) for index, name in enumerate(chart.part_names)]
        drawn, used = svg.legend(entries, 0, 2, width)
        body, top = body + drawn, used + 6
    maximum = chart.maximum or max((max(sum(bar.parts), bar.high or 0) for bar in chart.bars), default=1) or 1
    across = Scale(0, maximum, left, right)
    pitch = 26.0 if len(chart.bars) <= 12 else 20.0
    floor = top + pitch * len(chart.bars)
    values = svg.ticks(0, maximum, 5 if roomy else 3)
    step = values[1] - values[0] if len(values) > 1 else 1.0
    for value in values:
        text = svg.tick_text(value, step, percent=chart.percent)
        body += line(across(value), top, across(value), floor, "grid")
        body += label(across(value), floor + 14, text, anchor="middle", kind="muted", size=SMALL)
    for index, bar in enumerate(chart.bars):
        body += _bar(bar, chart, across, top + pitch * index, pitch, roomy=roomy)
    middle = (left + right) / 2
    body += label(middle, floor + 30, chart.x_label, anchor="middle", kind="muted", size=SMALL)
    return svg.canvas(width, floor + 35, _describe_bars(chart), body)


def _bar(bar: Bar, chart: BarChart, across: Scale, top: float, pitch: float, *, roomy: bool) -> Markup:
    thick = pitch - 8
    middle = top + pitch / 2 + 4
    weight = "strong" if bar.strong else ""
    body = label(across.start - 8, middle, shorten(bar.name, across.start - 8), anchor="end", kind=weight)
    reach = 0.0
    for index, part in enumerate(bar.parts):
        stacked = len(bar.parts) > 1
        kind = (
            f"f{index % svg.COLOURS}"
            if stacked
            else ("f0" if bar.strong or not _has_strong(chart) else "quiet")
        )
        hint = (
            f"{bar.name}, {chart.part_names[index]}: {part:g}"
            if stacked
            else f"{bar.name}: {_end_text(bar, roomy=True)}"
        )
        body += svg.box(across(reach), top + 4, across(reach + part) - across(reach), thick, kind, title=hint)
        reach += part
    furthest = across(reach)
    if bar.low is not None and bar.high is not None:
        furthest = max(furthest, across(bar.high))
        body += line(across(bar.low), top + pitch / 2, across(bar.high), top + pitch / 2, "whisker ink")
    return body + label(furthest + 6, middle, _end_text(bar, roomy=roomy), kind=f"{weight} halo".strip())


def _end_text(bar: Bar, *, roomy: bool) -> str:
    return f"{bar.text} · {bar.detail}" if bar.detail and roomy else bar.text


def _has_strong(chart: BarChart) -> bool:
    return any(bar.strong for bar in chart.bars)


def _describe_bars(chart: BarChart) -> str:
    said = "; ".join(f"{bar.name} {_end_text(bar, roomy=True)}" for bar in chart.bars[:40])
    return f"{chart.title}. {chart.x_label}. {said}."
