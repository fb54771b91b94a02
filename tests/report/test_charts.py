"""Charts: points stand where their values say, and labels stay apart and inside."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from unfreeze.proportions import wilson_interval
from unfreeze.report import charts, svg
from unfreeze.report.charts import Bar, BarChart, Level, LineChart, Series, draw
from unfreeze.report.content import FeatureSpace, ReliabilityBin
from unfreeze.report.heatmap import confused_pairs, confusion_matrix
from unfreeze.report.reliability import reliability_diagram
from unfreeze.report.scatter import scatter


def shapes(picture: str, tag: str, kind: str = "") -> list[ET.Element]:
    """Elements with this tag whose class list holds ``kind``; fails when the picture is no XML."""
    found = ET.fromstring(picture).iter(tag)
    return [one for one in found if not kind or kind in one.get("class", "").split()]


def number(element: ET.Element, name: str) -> float:
    return float(element.get(name, "nan"))


def test_points_lie_on_a_straight_map_of_their_values():
    chart = LineChart("t", "x", "y", (Series("a", (1.0, 2.0, 4.0)),))
    dots = shapes(draw(chart, width=400), "circle", "dot")
    heights = [number(dot, "cy") for dot in dots]
    assert heights[0] - heights[1] == pytest.approx((heights[1] - heights[2]) / 2, abs=0.2)
    across = [number(dot, "cx") for dot in dots]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)


def test_bars_are_as_long_as_their_values_and_stack_without_gaps():
    bars = (Bar("a", (30.0, 10.0), "40"), Bar("b", (10.0, 10.0), "20"))
    found = shapes(draw(BarChart("t", "rows", bars, ("train", "test")), width=400), "rect")[2:]
    widths = [number(rect, "width") for rect in found]
    assert widths[0] == pytest.approx(3 * widths[1], abs=0.3)
    assert widths[2] == pytest.approx(widths[1], abs=0.2)
    assert number(found[0], "x") + widths[0] == pytest.approx(number(found[1], "x"), abs=0.2)


def test_intervals_are_drawn_where_they_are_known():
    bars = (Bar("a", (0.5,), "50 %", low=0.4, high=0.6), Bar("b", (0.7,), "70 %"))
    assert len(shapes(draw(BarChart("t", "share", bars, percent=True), width=400), "path", "whisker")) == 1
    band = LineChart("t", "x", "y", (Series("a", (0.5, 0.6), low=(0.4, 0.5), high=(0.6, 0.7)),), percent=True)
    assert len(shapes(draw(band, width=400), "path", "band")) == 1


@pytest.mark.parametrize("width", [340.0, 860.0])
@pytest.mark.parametrize("count", [2, 9, 27, 80])
def test_names_under_the_axis_never_overlap(width, count):
    names = tuple(f"layer.{index}.block" for index in range(count))
    chart = LineChart("t", "stage", "y", (Series("a", tuple(np.linspace(0, 1, count))),), x_names=names)
    labels = [one for one in shapes(draw(chart, width=width), "text") if (one.text or "").startswith("layer")]
    assert labels[-1].text == names[-1]
    turned = [one.get("transform") is not None for one in labels]
    places = [number(one, "x") for one in labels]
    gaps = np.diff(places)
    if any(turned):
        assert gaps.min() >= 12.9
    else:
        assert gaps.min() >= svg.text_width(names[-1], svg.SMALL)


@pytest.mark.parametrize("width", [340.0, 860.0])
def test_texts_stay_inside_a_bar_chart(width):
    name = "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz " * 2
    bars = (Bar(name, (1.0,), "12 min 05 s", strong=True), Bar("b", (0.2,), "3.0 s", detail="1,968 computed"))
    picture = draw(BarChart("t", "seconds", bars), width=width)
    for one in shapes(picture, "text"):
        size = svg.text_width(one.text or "", number(one, "font-size"))
        start = {"start": 0.0, "middle": size / 2, "end": size}[one.get("text-anchor", "")]
        left = number(one, "x") - start
        assert left >= -1
        assert left + size <= width + 1


def test_the_names_of_close_levels_stand_apart():
    levels = (Level(0.50, "one"), Level(0.505, "two"))
    chart = LineChart("t", "x", "y", (Series("a", (0.4, 0.9)),), levels=levels)
    heights = [number(one, "y") for one in shapes(draw(chart, width=400), "text", "halo")]
    assert len(heights) == 2
    assert abs(heights[0] - heights[1]) >= 12


def test_one_point_no_point_and_missing_values_still_draw():
    for series in (Series("a", (0.5,)), Series("a", ()), Series("a", (float("nan"), 0.4, 0.6))):
        picture = draw(LineChart("t", "x", "y", (series,), percent=True), width=340)
        assert "nan" not in picture
        ET.fromstring(picture)
    ET.fromstring(draw(BarChart("t", "rows", ()), width=340))
    ET.fromstring(draw(BarChart("t", "rows", (Bar("a", (0.0,), "0"),)), width=340))


def test_ticks_are_round_and_inside():
    for low, high in ((0.0, 1.0), (0.713, 0.862), (-3.0, 250.0), (1e-6, 4e-6)):
        values = svg.ticks(low, high, 6)
        assert 2 <= len(values) <= 7
        assert low - 1e-9 <= values[0]
        assert values[-1] <= high * (1 + 1e-9)
        step = (values[1] - values[0]) / 10.0 ** np.floor(np.log10(values[1] - values[0]) + 1e-9)
        assert min(abs(step - nice) for nice in (1, 2, 5)) < 1e-6


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [
        ((1, 2, 3, 4), "1 2 3 4"),
        ((1, 2), "1 2"),
        ((5,), "5"),
        (range(1, 25), "5 10 15 20"),
        ((1, 2.5), "1.0 1.5 2.0 2.5"),
    ],
    ids=str,
)
def test_between_whole_numbers_there_is_no_tick(epochs, shown):
    places = tuple(map(float, epochs))
    chart = LineChart("t", "epoch", "y", (Series("a", tuple(0.5 for _ in places), places),))
    across = svg.Scale(places[0], places[-1], 0.0, 500.0)
    axis = ET.fromstring(f"<svg>{charts._x_axis(chart, across, 10.0, turned=False, step=1)}</svg>")
    assert " ".join(one.text for one in axis.iter("text")) == shown


def test_no_coordinate_is_written_as_negative_zero():
    assert [svg.num(value) for value in (-0.04, 0.0, -1.26, 3.0, float("inf"))] == [
        "0",
        "0",
        "-1.3",
        "3",
        "0",
    ]


def test_shortened_text_fits_and_short_text_is_left_alone():
    assert svg.shorten("short", 100) == "short"
    cut = svg.shorten("日本語のとても長いクラスの名前です", 80)
    assert cut.endswith("…")
    assert svg.text_width(cut) <= 80


@pytest.mark.parametrize("classes", [2, 3, 12, 20, 40, 100])
@pytest.mark.parametrize("width", [340.0, 860.0])
def test_a_confusion_matrix_draws_a_cell_for_every_count(classes, width):
    generator = np.random.default_rng(classes)
    confusion = generator.integers(0, 3, (classes, classes)) + np.diag(np.full(classes, 9))
    picture = confusion_matrix(confusion.tolist(), [f"class {i}" for i in range(classes)], width=width)
    right, wrong = shapes(picture, "rect", "right"), shapes(picture, "rect", "wrong")
    assert len(right) == classes
    assert len(wrong) == int((confusion > 0).sum()) - classes
    view = ET.fromstring(picture).get("viewBox", "").split()
    assert float(view[2]) <= width + 0.1
    ends = [number(cell, "x") + number(cell, "width") for cell in right + wrong]
    assert max(ends) <= float(view[2]) + 0.1


def test_a_larger_share_of_the_row_is_stronger():
    picture = confusion_matrix([[90, 10], [40, 60]], ["a", "b"], width=360)
    opacity = [float(cell.get("fill-opacity", "1")) for cell in shapes(picture, "rect", "wrong")]
    assert opacity == [pytest.approx(np.sqrt(0.1), abs=0.006), pytest.approx(np.sqrt(0.4), abs=0.006)]


def test_a_class_without_test_rows_does_no_harm():
    picture = confusion_matrix([[3, 1], [0, 0]], ["a", "b"], width=360)
    assert len(shapes(picture, "rect", "right")) == 1


def test_confused_pairs_come_most_frequent_first_and_leave_the_diagonal_out():
    pairs = confused_pairs([[5, 2, 0], [4, 1, 0], [0, 1, 9]], ["a", "b", "c"])
    assert pairs == [("b", "a", 4, 0.8), ("a", "b", 2, pytest.approx(2 / 7)), ("c", "b", 1, 0.1)]


def test_wilson_agrees_with_published_values():
    # Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    cases = (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    )
    for hits, count, low, high in cases:
        assert wilson_interval(hits / count, count) == pytest.approx((low, high), abs=1e-4)


def test_the_whiskers_of_reliability_are_over_groups():
    def whisker(effective):
        return reliability_diagram([ReliabilityBin(0.8, 0.9, 40, 0.85, 0.8, effective)])

    low, high = wilson_interval(0.8, 8.0)
    assert f"95 % interval {low * 100:.0f}–{high * 100:.0f}" in whisker(8.0)
    assert whisker(8.0) != whisker(40.0)


def test_reliability_shows_filled_bins_with_their_counts():
    bins = (
        ReliabilityBin(0.0, 0.25, 0, 0.0, 0.0, 0.0),
        ReliabilityBin(0.25, 0.5, 12, 0.4, 0.5, 12.0),
        ReliabilityBin(0.5, 1.0, 88, 0.9, 0.85, 88.0),
    )
    picture = reliability_diagram(bins)
    assert len(shapes(picture, "circle", "dot")) == 2
    said = [one.text for one in shapes(picture, "text")]
    assert "12" in said
    assert "88" in said


def test_two_classes_use_the_upper_half_of_the_confidence_axis():
    bins = (
        ReliabilityBin(0.467, 0.533, 10, 0.52, 0.5, 10.0),
        ReliabilityBin(0.933, 1.0, 90, 0.97, 0.96, 90.0),
    )
    texts = [one.text for one in shapes(reliability_diagram(bins), "text", "muted")]
    assert texts[texts.index("confidence (probability of the answer, %)") - 1] == "100"
    assert "50" in texts
    assert "10" in texts


def test_scatter_draws_every_point_and_greys_the_classes_left_out():
    xy = tuple((float(i), float(i % 3)) for i in range(30))
    space = FeatureSpace(xy, tuple(i % 10 for i in range(30)), "PCA", tuple(i == 4 for i in range(30)))
    picture = scatter(space, [f"<c{i}>" for i in range(10)], [1, 2])
    points = shapes(picture, "path", "point")
    assert len(points) == 30
    assert sum("other" in (one.get("class") or "") for one in points) == 24
    assert len(shapes(picture, "circle", "ring")) == 1
    assert len({re.sub(r"^M[\d. -]+?m", "m", one.get("d") or "") for one in points}) == 2
