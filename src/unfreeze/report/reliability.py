"""The reliability diagram: how often the classifier is right when it is so and so sure."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from unfreeze.proportions import wilson_interval
from unfreeze.report import svg
from unfreeze.report.content import ReliabilityBin
from unfreeze.report.svg import SMALL, Scale, label, line


def reliability_diagram(bins: Sequence[ReliabilityBin], *, width: float = 360) -> Markup:
    """Accuracy over confidence with 95 % Wilson intervals and the diagonal, above a histogram of counts."""
    filled = [entry for entry in bins if entry.count]
    left, right, top = 46.0, 12.0, 10.0
    side = width - left - right
    floor = top + side * 0.82
    across, up = Scale(0, 1, left, width - right), Scale(0, 1, floor, top)
    # Confidence never falls below one over the number of classes, so the empty left part is cut away.
    start = 0.5 if filled and all(entry.confidence >= 0.5 for entry in filled) else 0.0
    if start:
        across = Scale(start, 1, left, width - right)
    body = Markup("")
    for value in svg.ticks(0, 1, 5):
        body += line(left, up(value), width - right, up(value), "grid")
        body += label(left - 6, up(value) + 4, f"{value * 100:.0f}", anchor="end", kind="muted", size=SMALL)
    body += line(across(start), up(start), across(1), up(1), "level")
    for entry in filled:
        low, high = wilson_interval(entry.accuracy, entry.effective)
        x = across(max(entry.confidence, start))
        hint = (
            f"{entry.count} rows, on average {entry.confidence * 100:.1f} % sure, "
            f"{entry.accuracy * 100:.1f} % right (95 % interval {low * 100:.0f}–{high * 100:.0f})"
        )
        body += line(x, up(low), x, up(high), "whisker s0")
        body += Markup(
            f'<circle class="dot f0" cx="{svg.num(x)}" cy="{svg.num(up(entry.accuracy))}" r="4.2">'
            f"<title>{escape(hint)}</title></circle>"
        )
    base = floor + 78
    body += _histogram(filled, across, start, floor + 22, base)
    for value in svg.ticks(start, 1, 5):
        text = f"{value * 100:.0f}"
        body += label(across(value), base + 15, text, anchor="middle", kind="muted", size=SMALL)
    axis = "confidence (probability of the answer, %)"
    body += label((left + width - right) / 2, base + 32, axis, anchor="middle", kind="muted", size=SMALL)
    body += label(11, (top + floor) / 2, "right (%)", anchor="middle", kind="muted", turn=-90, size=SMALL)
    body += label(11, (floor + 22 + base) / 2, "rows", anchor="middle", kind="muted", turn=-90, size=SMALL)
    return svg.canvas(width, base + 37, _describe(filled), body)


def _histogram(
    bins: Sequence[ReliabilityBin], across: Scale, start: float, top: float, base: float
) -> Markup:
    most = max((entry.count for entry in bins), default=1)
    body = line(across.start, base, across.stop, base, "axis")
    for entry in bins:
        low, high = across(max(entry.low, start)), across(entry.high)
        height = max((base - top - 12) * entry.count / most, 1)
        body += svg.box(
            low + 0.5, base - height, high - low - 1, height, "quiet", title=f"{entry.count} rows"
        )
        text = str(entry.count) if entry.count < 10_000 else f"{entry.count / 1000:.0f}k"
        # Numbers wider than their bar would run into each other.
        if svg.text_width(text, 9) <= high - low + 2:
            body += label((low + high) / 2, base - height - 3, text, anchor="middle", kind="muted", size=9)
    return body


def _describe(bins: Sequence[ReliabilityBin]) -> str:
    said = "; ".join(
        f"{entry.confidence * 100:.0f} % sure, {entry.accuracy * 100:.0f} % right, {entry.count} rows"
        for entry in bins
    )
    return f"Reliability diagram. {said}."
