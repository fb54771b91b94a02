"""The feature space in two dimensions: a point for a sample, a colour and a shape for its class."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from unfreeze.report import svg
from unfreeze.report.content import FeatureSpace
from unfreeze.report.svg import Scale, num

# Shapes besides colours, so that neither a colour-blind reader nor a black and white print loses the classes.
SHAPES = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "m0 -3.6l3.4 6h-6.8z",
    "m-2.7 -2.7h5.4v5.4h-5.4z",
    "m0 -3.8l3.8 3.8l-3.8 3.8l-3.8 -3.8z",
)
MOST_COLOURED = 8


def scatter(
    space: FeatureSpace, labels: Sequence[str], highlight: Sequence[int], *, width: float = 360
) -> Markup:
    """The points: classes in ``highlight`` get colours, all others are grey; rings mark mistakes."""
    kept = list(highlight[:MOST_COLOURED])
    entries = [(f"f{rank}", labels[index]) for rank, index in enumerate(kept)]
    if set(space.label) - set(kept):
        entries.append(("other", "all other classes"))
    if any(space.wrong):
        entries.append(("ring", "answered wrongly"))
    head, used = svg.legend(entries, 4, 2, width - 8)
    top, height = used + 8, width * 0.86
    xs, ys = [x for x, _ in space.xy] or [0.0], [y for _, y in space.xy] or [0.0]
    across, up = Scale(min(xs), max(xs), 12, width - 12), Scale(min(ys), max(ys), top + height - 12, top + 12)
    body = [head, svg.box(1, top, width - 2, height, "frame")]
    ranks = {index: rank for rank, index in enumerate(kept)}
    wrong = space.wrong or (False,) * len(space.xy)
    # Grey points lie below the coloured ones.
    order = sorted(range(len(space.xy)), key=lambda row: space.label[row] in ranks)
    for row in order:
        rank = ranks.get(space.label[row])
        kind, shape = ("other", SHAPES[0]) if rank is None else (f"f{rank}", SHAPES[rank % len(SHAPES)])
        x, y = num(across(space.xy[row][0])), num(up(space.xy[row][1]))
        hint = escape(labels[space.label[row]])
        body.append(Markup(f'<path class="point {kind}" d="M{x} {y}{shape}"><title>{hint}</title></path>'))
        if wrong[row]:
            body.append(Markup(f'<circle class="ring" cx="{x}" cy="{y}" r="5"/>'))
    described = (
        f"Feature space of {len(space.xy)} samples ({space.method}). "
        f"Coloured classes: {', '.join(labels[index] for index in kept)}."
    )
    return svg.canvas(width, top + height + 1, described, Markup("").join(body))
