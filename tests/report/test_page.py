"""The page: self-contained, escaped, complete, quick."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from unfreeze.report.charts import Level, LineChart, Series
from unfreeze.report.content import Metrics, ReportData, Section, Table
from unfreeze.report.page import render, write_report

VOID = {"meta", "img", "br", "path", "rect", "circle"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_tags_are_balanced_for_every_kind_of_run(toys):
    for data in (toys.images(), toys.many(40), toys.many(100), toys.texts()):
        assert Page(render(data)).open == []


def test_nothing_is_fetched_and_no_script_runs(toys):
    for data in (toys.images(), toys.many(40), toys.texts()):
        page = Page(render(data))
        assert "script" not in page.tags
        assert "link" not in page.tags
        assert "iframe" not in page.tags
        assert not [entry for entry in page.attributes if entry[1].startswith("on")]
        for tag, name, value in page.attributes:
            if name == "src":
                assert (tag, value[:23]) == ("img", "data:image/jpeg;base64,")
            if name in ("href", "xlink:href"):
                assert value.startswith("#")
        style = re.search(r"<style>(.*?)</style>", render(data), re.S)
        assert style is not None
        assert "url(" not in style[1]
        assert "@import" not in style[1]


def test_links_in_the_page_lead_somewhere(toys):
    section = Section("Phases", ("One phase.",))
    page = Page(render(replace(toys.images(), sections=(section,))))
    targets = {value for _, name, value in page.attributes if name == "id"}
    links = {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert links
    assert links <= targets


def test_names_that_look_like_markup_stay_text(toys):
    html = render(toys.many(40))
    assert "<script" not in html
    assert "{{ 7 * 7 }}" in html
    page = Page(html)
    assert "<script>alert(1)</script>" in page.words
    assert '" onmouseover="x' in page.words
    assert "a & b | c" in page.words
    assert not [entry for entry in page.attributes if entry[1] == "onmouseover"]


def test_no_control_character_or_surrogate_reaches_the_page(toys):
    html = render(toys.many(40))
    html.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", html)
    assert "nul\ufffdbyte" in html
    assert "undecodable\ufffd" in html


def test_the_headline_says_result_interval_and_majority(toys):
    words = Page(render(toys.images())).words.replace("\u202f", " ")
    assert (
        "85.7 % of 656 held-out images are right (95 % interval 82.8–88.1); "
        "always answering 'functional' would give 71.3 %." in words
    )


def test_every_part_of_a_full_run_is_shown_in_order(toys):
    html = render(toys.images())
    ids = re.findall(r'<section id="(\w+)"', html)
    assert ids == [
        "data",
        "choices",
        "thaw",
        "scores",
        "classes",
        "trust",
        "gallery1",
        "gallery2",
        "space",
        "origin",
    ]
    words = Page(html).words.replace("\u202f", " ")
    for said in (
        "Apache-2.0",
        "CC BY-NC-SA 4.0",
        "2 images occur both in train and in test",
        "truncated after 3,112 bytes",
        "Exact duplicates: 31",
        "and 30 more.",
        "lowest out-of-fold log-loss of 8 values",
        "Differs from fp32 PyTorch by 3.1e-06",
        "out of fold over 1,968 rows",
        "unfreeze train elpv/cells --strategy feature-extraction --seed 0",
        "b2:6f1c09aa41d7e0c3",
        "runs/cells-2026-03-02",
        "from 4.1 % to 2.4 %",
        "Below a probability of 83.0 % the classifier abstains",
        "Where the time went: 25.9 s in all",
    ):
        assert said in words, said


def test_optional_parts_are_left_out_when_there_is_nothing_to_show(toys):
    bare = replace(
        toys.images(),
        thaw=(),
        joined=None,
        reliability=(),
        mistakes=(),
        suspects=(),
        feature_space=None,
        timing=(),
    )
    ids = re.findall(r'<section id="(\w+)"', render(bare))
    assert ids == ["data", "choices", "scores", "classes", "origin"]


def test_a_section_brings_its_paragraphs_tables_and_charts(toys):
    chart = LineChart(
        "Learning curves",
        "epoch",
        "log-loss",
        (Series("train", (0.7, 0.5, 0.4)), Series("validation", (0.8, 0.6, 0.55))),
        levels=(Level(0.52, "the <probe>"),),
    )
    table = Table(("phase", "epochs"), (("head & neck", "5"),), frozenset({1}), caption="Phases")
    page = Page(
        render(
            replace(toys.images(), sections=(Section("Phases and curves", ("Two.",), (table,), (chart,)),))
        )
    )
    for said in ("Phases and curves", "Two.", "head & neck", "Learning curves", "the <probe>"):
        assert said in page.words, said
    described = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert any("validation: 0 0.8, 1 0.6, 2 0.55." in value for value in described)


def test_every_picture_has_a_text_alternative(toys):
    page = Page(render(toys.many(40)))
    pictures = page.tags.count("svg")
    assert pictures >= 9
    assert (
        sum((tag, name, value) == ("svg", "role", "img") for tag, name, value in page.attributes) == pictures
    )
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == pictures
    assert all(len(value) > 30 for value in labels)
    assert sum(tag == "img" and name == "alt" and bool(value) for tag, name, value in page.attributes) == 1


def test_pictures_of_mistakes_are_the_given_bytes(toys):
    data = toys.images()
    sources = [value for tag, name, value in Page(render(data)).attributes if (tag, name) == ("img", "src")]
    decoded = [base64.b64decode(source.split(",", 1)[1]) for source in sources]
    assert decoded == [example.image for example in (*data.mistakes, *data.suspects)]


def test_texts_are_cut_after_300_characters(toys):
    data = toys.texts()
    text = data.mistakes[0].text
    assert text is not None
    assert len(text) > 400
    html = render(data)
    shown = re.findall(r'<blockquote dir="auto">(.*?)</blockquote>', html, re.S)
    assert len(shown) == 7
    assert shown[0] == text[:300].rstrip() + " …"


def test_a_better_baseline_is_said_in_the_headline(toys):
    words = Page(render(toys.texts())).words.replace("\u202f", " ")
    assert (
        "TF-IDF + logistic regression is better by 2.4 points on the same rows (95 % interval +0.5 to +4.2)."
        in words
    )
    assert "For these texts it is the better classifier." in words
    assert "TF-IDF does better" in words


def test_many_classes_show_the_weakest_first_and_all_on_demand(toys):
    data = toys.many(40)
    page = Page(render(data))
    assert "The ten classes with the lowest F1 on the test rows (%)" in page.words
    assert "All 40 classes" in page.words
    assert "The pairs confused most" in page.words
    assert "Rows per class: the 12 largest and the 12 smallest of 40" in page.words


def test_a_hundred_classes_stay_a_small_page(toys):
    assert len(render(toys.many(100)).encode()) < 500_000


def test_writing_leaves_a_whole_file_and_nothing_else(toys, tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("old")
    data = toys.images()
    write_report(data, path)
    assert path.read_text(encoding="utf-8") == render(data)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_an_unwritable_place_is_an_os_error_and_keeps_the_old_page(toys, tmp_path: Path):
    with pytest.raises(OSError):
        write_report(toys.images(), tmp_path / "missing" / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_light_and_dark_define_the_same_colours(toys):
    style = re.search(r"<style>(.*?)</style>", render(toys.images()), re.S)
    assert style is not None
    light, dark = style[1].split("prefers-color-scheme:dark", 1)
    dark = dark[: dark.index("}}")]
    defined = set(re.findall(r"(--[\w-]+):", light))
    assert defined == set(re.findall(r"(--[\w-]+):", dark))
    assert set(re.findall(r"var\((--[\w-]+)\)", style[1])) <= defined


def test_text_and_background_have_readable_contrast(toys):
    style = re.search(r"<style>(.*?)</style>", render(toys.images()), re.S)
    assert style is not None
    light, dark = style[1].split("prefers-color-scheme:dark", 1)
    for scheme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+):(#[0-9a-f]{3,6})", scheme))
        pairs = [("ink", "card"), ("muted", "card"), ("muted", "bg"), ("accent", "card"), ("accent", "bg")]
        pairs += [("good", "good-soft"), ("warn", "warn-soft"), ("over", "accent")]
        for ink, ground in pairs:
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


def contrast(first: str, second: str) -> float:
    """The WCAG 2 contrast ratio of two hexadecimal colours."""
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_metrics_read_the_shape_that_json_gives_back():
    values = {
        "n": 4,
        "accuracy": 0.75,
        "accuracy_low": 0.5,
        "accuracy_high": 1.0,
        "balanced_accuracy": 0.7,
        "macro_f1": 0.6,
        "log_loss": 0.4,
        "ece": 0.1,
        "per_class": {
            "b": {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1},
            "a": {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 3},
        },
        "confusion": [[2, 1], [0, 1]],
        "labels": ["a", "b"],
        "top_k": {"1": 0.75, "2": 1.0},
    }
    read = Metrics.from_dict(values)
    assert read.labels == ("a", "b")
    assert [one.support for one in read.per_class] == [3, 1]
    assert read.confusion == ((2, 1), (0, 1))
    assert read.top_k == ((1, 0.75), (2, 1.0))
    assert (read.accuracy.low, read.balanced_accuracy.low, read.roc_auc) == (0.5, None, None)
    with pytest.raises(KeyError):
        Metrics.from_dict({name: value for name, value in values.items() if name != "ece"})


def test_the_page_depends_on_the_data_alone(toys):
    data: ReportData = toys.many(12)
    assert render(data) == render(data)


def test_a_class_without_test_rows_is_not_called_weak(toys):
    data = toys.many(40)
    absent = replace(data.test.per_class[7], precision=0.0, recall=0.0, f1=0.0, support=0)
    test = replace(data.test, per_class=(*data.test.per_class[:7], absent, *data.test.per_class[8:]))
    page = render(replace(data, test=test))
    weakest = page.split("The ten classes with the lowest F1", 1)[1].split("</table>", 1)[0]
    assert weakest.count('<th scope="row">') == 10
    assert data.test.labels[7] not in weakest
