"""What a person sees: the page, the terminal at 80 columns, the notebook, the tables of pandas."""

import builtins
import html
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from unfreeze.comparing.comparison import conclude
from unfreeze.comparing.page import render
from unfreeze.comparing.ranking import Ranked, rank
from unfreeze.comparing.terminal import broken
from unfreeze.errors import RequestError
from unfreeze.report.content import Estimate

LONG = "lora:rank=16+lr=1e-3+targets=blocks.0.attn.qkv,blocks.1.attn.qkv"


def concluded(cells, ranking=()):
    return conclude(
        cells,
        ranking,
        folder=Path("runs/out"),
        source="photos & <more>",
        modality="image",
        command="unfreeze compare 'photos & <more>'",
        created="2026-01-01 12:00 UTC",
    )


@pytest.fixture
def strategies(make_cell, share_right):
    """Five strategies over three seeds; one has a long name, one failed once, one always."""
    cells = []
    for seed in range(3):
        cells += [
            make_cell(
                "feature-extraction", share_right(130 + seed), seed=seed, trained=2_562, shared_seconds=41.0
            ),
            make_cell(
                "full", share_right(171 - seed), seed=seed, trained=100_000, seconds=612.0, joules=51_234.0
            ),
            make_cell(LONG, share_right(169 + seed, 20), seed=seed, seconds=3_700.0, trained=2_600),
            make_cell("partial", share_right(20, 100), seed=seed, seconds=None)
            if seed
            else make_cell(
                "partial", [True], seed=seed, state="failed", sentence="The loss is not finite <here>."
            ),
            make_cell("scratch", [True], seed=seed, state="failed", sentence="It broke."),
        ]
    return concluded(cells)


@pytest.fixture
def sizes(make_cell):
    errors = {50: 0.3, 100: 0.2, 200: 0.14, 400: 0.1}
    return concluded(
        [
            make_cell(name, np.arange(400) >= round(400 * (error + more)), seed=seed, size=size)
            for size, error in errors.items()
            for name, more in (("feature-extraction", 0.05), ("full", 0.0))
            for seed in range(2)
        ]
    )


@pytest.fixture
def ranking():
    def entry(name, count, **changes):
        given = {
            "backbone": name,
            "state": "finished",
            "right": ("".join("1" if row < count else "0" for row in range(200)),),
            "rows_hash": ("x",),
            "accuracy": Estimate(count / 200, count / 200 - 0.04, count / 200 + 0.04),
            "log_loss": 0.4,
            "parameters": 85_800_000,
            "width": 1_024,
            "bytes": 343_000_000,
            "latency_seconds": 0.0812,
            "rows_per_second": 1_234.0,
            "executor": "torch-fp32",
        }
        return Ranked(**(given | changes))

    return concluded(
        [],
        rank(
            [
                entry("tf_efficientnet_lite0", 150, parameters=3_371_008, latency_seconds=0.004),
                entry("timm:vit_small_patch14_dinov2.lvd142m@/data/weights/dinov2_small.safetensors", 180),
                Ranked(backbone="resnet18.a1_in1k", state="failed", sentence="It cannot be downloaded."),
            ]
        ),
    )


def printed(comparison, *, encoding="utf-8", width=80):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    comparison.print(Console(file=file, width=width, highlight=False, force_terminal=False))
    file.flush()
    return raw.getvalue().decode(encoding)


# -- the terminal


@pytest.mark.parametrize("made", ["strategies", "sizes", "ranking"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_wider_than_eighty_columns(request, made, encoding):
    lines = printed(request.getfixturevalue(made), encoding=encoding).splitlines()
    assert max(map(len, lines)) <= 80


def test_numbers_stay_whole_and_names_break_where_a_word_ends(strategies):
    text = printed(strategies)
    # A row of the tables by its name, and the numbers that must stand in it together.
    for start, *cells in (
        ["feature-", "65.5 (61.7–69.3)", "65.5", "–", "−19.5 (−23.4…−15.6)"],
        ["full", "85.0 (82.1–87.9)", "+19.5 (", "best"],
        ["full", "100.0 k", "100 %", "10 min 12 s", "900 MB", "51.2 kJ"],
        ["partial", "10.0 ("],
        ["scratch", "failed"],
    ):
        rows = [line for line in text.splitlines() if line.startswith(start)]
        assert any(all(cell in row for cell in cells) for row in rows), (start, rows)
    pieces = [
        line.split()[0] for line in text.splitlines() if line.startswith(("lora:", "rank=", "targets="))
    ]
    assert pieces[0].startswith("lora:")
    assert "".join(broken(LONG, 17)) == LONG
    assert all(len(piece) <= 17 for piece in broken(LONG, 17))
    assert broken("lora:rank=16+lr=1e-3", 14) == ["lora:rank=16+", "lr=1e-3"]


def test_the_terminal_shows_failures_the_verdict_and_where_the_page_is(strategies):
    text = " ".join(printed(strategies).split())
    assert "! partial (seed 0) failed: The loss is not finite <here>." in text
    assert "full and lora:rank=16" in text
    assert "are tied at n=500" in text
    assert "Not in the times: the frozen pass, which all share (41.0 s)." in text
    assert "runs/out/compare.html" in text


def test_the_ranking_is_two_tables_that_fit(ranking):
    text = printed(ranking)
    assert "90.0 (86.0–94.0)" in text
    assert re.search(r"tf_efficientnet_lite0 +3\.4 M +1,024 +343 MB +4 ms +1,234/s", text)
    assert "is best (90.0 %)" in " ".join(text.split())
    assert "resnet18.a1_in1k failed: It cannot be downloaded." in text


def test_a_row_says_what_auto_chose_and_how_many_seeds_it_is_of(make_cell, share_right):
    def cell(name, seed, **changes):
        return make_cell(name, share_right(150), seed=seed, **changes)

    failed = {"state": "failed", "sentence": "It broke."}
    cells = [cell("feature-extraction", seed) for seed in range(3)]
    cells += [cell("auto", seed, chosen=name) for seed, name in enumerate(["partial", "lora", "lora"])]
    cells += [cell("auto:head=mlp", seed, chosen="full") for seed in range(3)]
    cells += [cell("full", seed, **(failed if seed else {})) for seed in range(3)]
    comparison = concluded(cells)
    text = " ".join(printed(comparison, width=120).split())
    assert "200 test rows, 3 seeds, n=500" in text
    page = re.sub(r"<[^>]+>", " ", render(comparison))
    for name in ("auto (lora 2x, partial 1x)", "auto:head=mlp (full)", "full (1 of 3 seeds)"):
        # In the table of accuracies and in that of costs.
        assert page.count(f" {name} ") == 2, name
    assert comparison.results[1].chosen == ("partial", "lora", "lora")


def test_a_first_result_of_fewer_seeds_does_not_stand_for_all(make_cell, share_right):
    cells = [
        make_cell("feature-extraction", share_right(150), seed=0),
        make_cell("feature-extraction", [True], seed=1, state="failed", sentence="It broke."),
        *(make_cell("full", share_right(150), seed=seed) for seed in range(2)),
    ]
    text = printed(concluded(cells))
    assert "200 test rows, 2 seeds, n=500" in text
    assert "feature-extraction (1 of 2 seeds)" in " ".join(text.split())


# -- the page


@pytest.mark.parametrize("made", ["strategies", "sizes", "ranking"])
def test_the_page_is_one_file_that_fetches_nothing(request, made):
    page = render(request.getfixturevalue(made))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<iframe", page)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page
    assert "photos &amp; &lt;more&gt;" in page
    assert "<more>" not in page


def test_the_page_has_the_table_the_picture_and_the_verdict(strategies):
    page = render(strategies)
    text = re.sub(r"<[^>]+>", " ", page)
    for words in ("85.0", "82.1–87.9", "10 min 12 s", "51.2 kJ", "are tied at n=500", "to the floor"):
        assert words in text.replace("\u202f", " "), words
    assert (
        "of the accelerator alone where one was used, else of the process with its libraries; energy is"
        in text
    )
    assert "The best was chosen by the test rows that its own accuracy is counted on" in text
    assert page.count("<svg") == 2
    assert "Accuracy against training time. feature-extraction: 65.5 % (61.7–69.3) at 10 s." in page
    assert "The loss is not finite &lt;here&gt;." in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        tree = ET.fromstring(drawing)
        # A mark in the legend and one in the picture for each strategy with a time, an upright line for its interval.
        assert len([path for path in tree if path.get("class", "").startswith("point")]) == 6
        assert len([path for path in tree if path.get("class", "").startswith("whisker")]) == 3


def test_marks_differ_in_shape_as_well_as_in_colour(make_cell, share_right):
    cells = [make_cell(f"full:epochs={n}", share_right(100 + n), seconds=float(n)) for n in range(1, 13)]
    drawing = concluded(cells).cost_chart().draw(860)
    marks = re.findall(r'class="point (f\d)"[^>]*d="([^"]+)"', drawing)
    assert len(set(marks)) == 12


def test_the_page_of_sizes_has_curve_law_classes_and_answer(sizes):
    page = render(sizes)
    text = re.sub(r"<[^>]+>", " ", page).replace("\u202f", " ")
    for words in (
        "Would more labels help? Yes",
        "twice as many rows (800)",
        "Accuracy against labelled rows",
        "recall at 200",
        "recall at 400",
        "+ 3",
        "By class, full",
        "of the errors left",
    ):
        assert words in text, words
    chart = next(
        drawing for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "labelled rows" in drawing
    )
    assert chart.count("stroke-dasharray") == 2
    # Four sizes and the promise, for each of two strategies.
    assert chart.count('class="whisker') == 10


# -- Python


def test_best_plot_and_pictures(strategies, sizes, ranking, tmp_path):
    assert strategies.best().strategy == "full"
    assert ranking.best().backbone.startswith("timm:vit_small")
    picture = strategies.plot()
    picture.save(tmp_path / "plot.svg")
    tree = ET.parse(tmp_path / "plot.svg").getroot()
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert picture._repr_html_().startswith('<img alt="Accuracy against training time.')
    assert "Accuracy of the probe against speed" in ranking.plot().description
    assert "Expected at 800 rows" in sizes.plot_curve().description
    with pytest.raises(RequestError, match="needs two sizes"):
        strategies.plot_curve()


def test_nothing_finished_has_no_best_and_no_picture(make_cell):
    empty = concluded([make_cell("full", [True], state="failed", sentence="It broke.")])
    for ask in (empty.best, empty.plot):
        with pytest.raises(RequestError, match="Nothing of this comparison finished"):
            ask()
    assert "It broke." in render(empty)


def test_pandas_gets_a_row_a_strategy(strategies, ranking):
    pytest.importorskip("pandas")
    table = strategies.to_pandas()
    assert list(table["strategy"]) == ["feature-extraction", "full", LONG, "partial", "scratch"]
    assert table["accuracy"][1] == pytest.approx(0.85)
    assert table["to_floor_low"][1] > 0.1
    assert bool(table["accuracy"].isna()[4])
    assert list(ranking.to_pandas()["backbone"])[1] == "tf_efficientnet_lite0"


def test_without_pandas_its_install_line_is_named(strategies, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match="pip install pandas"):
        strategies.to_pandas()


def test_a_notebook_shows_the_table_and_the_verdict(strategies):
    html = strategies._repr_html_()
    assert "<th>to the floor</th>" in html
    assert "are tied at n=500" in html


def test_what_is_written_as_json_has_no_rows_and_no_gaps(strategies, sizes, ranking):
    for comparison in (strategies, sizes, ranking):
        values = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
        assert values["verdict"] == list(comparison.sentences)
        assert "truth" not in json.dumps(values)
    first = strategies.to_dict()["results"][1]
    assert first["accuracy"]["value"] == pytest.approx(0.85)
    assert sizes.to_dict()["curves"][1]["law"]["c"] > 0.3


@pytest.fixture
def with_copies(make_cell):
    """Two seeds with 100 test rows; of the first ten the floor knows none, and full all."""
    known = np.arange(100) < 10
    marks = {0: "~" * 8 + "=" * 2 + "." * 80 + "?" * 10, 1: "~" * 10 + "." * 90}
    cells = []
    for seed in range(2):
        copies = {
            "copy_marks": marks[seed],
            "nearest_copy": f"{seed} <new>.png (like old.png, similarity 0.987)",
        }
        cells += [
            make_cell("feature-extraction", ~known & (np.arange(100) % 2 > 0), seed=seed, **copies),
            make_cell("full", known | (np.arange(100) % 5 > 1), seed=seed, **copies),
        ]
    return cells


def test_copies_of_learnt_rows_are_told_once_with_what_is_reached_without_them(with_copies):
    comparison = concluded(with_copies)
    (told,) = comparison.warnings
    assert told == (
        "Of 190 test rows of 2 seeds 18 look nearly the same to the network as one that was learnt from, such as 0 "
        "<new>.png (like old.png, similarity 0.987), and 2 are the same to the last byte as one that was learnt from: "
        "results on them say little of new ones. Of the others full has 60.0 % and feature-extraction has 50.0 % "
        "right. Take them out, or keep what belongs together in one part with --group-column."
    )
    values = comparison.to_dict()
    assert values["warnings"] == [told]
    assert "copy_marks" not in json.dumps(values)
    assert f"! {told}" in " ".join(printed(comparison).split())
    page = html.unescape(render(comparison)).replace("\u202f%", " %")
    assert page.count(told) == 1
    assert told in html.unescape(comparison._repr_html_())


def test_rows_that_all_seeds_test_are_counted_once(with_copies):
    told = "Of 100 test rows 10 look nearly the same to the network as one that was learnt from"
    same = [replace(cell, rows_hash="the same rows") for cell in with_copies]
    assert concluded(same).warnings[0].startswith(told)


def test_copies_are_told_of_the_largest_size_and_the_best_alone_and_not_where_there_are_none(with_copies):
    (floor, best) = with_copies[:2]
    (told,) = concluded([floor, replace(best, copy_marks="=" * 10 + "." * 90, nearest_copy="")]).warnings
    assert told.startswith(
        "Of 100 test rows 10 are the same to the last byte as one that was learnt from: results"
    )
    known = [replace(cell, copy_marks="." * 100, nearest_copy="") for cell in (floor, best)]
    assert concluded(known).warnings == ()
    smaller = [replace(cell, size=20) for cell in (floor, best)]
    assert concluded([*smaller, *(replace(cell, size=40) for cell in known)]).warnings == ()
    # A record from before it was looked at.
    assert concluded([replace(cell, copy_marks="", nearest_copy="") for cell in with_copies]).warnings == ()
    (alone,) = concluded([floor]).warnings
    assert "Of the others feature-extraction has 50.0 % right." in alone


def test_one_backbone_or_a_failed_one_is_no_ranking(ranking):
    assert replace(ranking, ranking=ranking.ranking[:1]).sentences == ()
