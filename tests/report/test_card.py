"""The model card: front matter that parses, Markdown in which names stay names."""

from __future__ import annotations

import re
from dataclasses import replace

import yaml

from unfreeze.report.card import model_card


def front_matter(card: str) -> dict:
    _, header, _ = card.split("---\n", 2)
    return yaml.safe_load(header)


def test_front_matter_holds_what_a_hub_reads(toys):
    values = front_matter(model_card(toys.images()))
    assert values["license"] == "apache-2.0"
    assert values["library_name"] == "unfreeze"
    assert values["pipeline_tag"] == "image-classification"
    assert values["metrics"] == ["accuracy", "f1"]
    assert {"unfreeze", "feature-extraction", "tf_efficientnet_lite0"} <= set(values["tags"])
    measured = values["model-index"][0]["results"][0]["metrics"]
    assert measured[0] == {"type": "accuracy", "value": 0.8567, "name": "accuracy"}


def test_the_base_is_named_where_its_repository_is_known(toys):
    data = toys.images()
    assert "base_model" not in front_matter(model_card(data))
    known = replace(data, backbone=replace(data.backbone, published_as="timm/resnet50.a1_in1k"))
    assert front_matter(model_card(known))["base_model"] == "timm/resnet50.a1_in1k"


def test_a_licence_that_the_hub_does_not_know_is_named(toys):
    data = toys.images()
    odd = front_matter(model_card(replace(data, backbone=replace(data.backbone, licence="DINOv3: research"))))
    assert (odd["license"], odd["license_name"]) == ("other", "DINOv3: research")
    assert (
        front_matter(model_card(replace(data, backbone=replace(data.backbone, licence=None))))["license"]
        == "unknown"
    )


def test_numbers_limits_and_licences_are_said(toys):
    card = model_card(toys.images())
    for said in (
        "85.7 % of 656 held-out images are right (95 % interval 82.8–88.1)",
        "| accuracy | 85.7 % (82.8–88.1) | 85.8 % (84.2–87.2) |",
        "| defective | 75.3 | 74.5 | 74.9 | 188 |",
        "Validation: out of fold over 1,968 rows.",
        "## Limits",
        "CC BY-NC-SA 4.0",
        "2 images occur both in train and in test",
        "unfreeze train elpv/cells --strategy feature-extraction --seed 0",
    ):
        assert said in card, said


def test_names_that_look_like_markup_stay_text(toys):
    card = model_card(toys.many(12))
    card.encode("utf-8")
    assert "<script" not in card
    assert "\\*\\*bold\\*\\*" in card
    assert "\x00" not in card
    body = card[card.index("## Classes") : card.index("## Data")]
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert len(rows) == 14
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


def test_a_command_with_backticks_cannot_leave_its_block(toys):
    card = model_card(replace(toys.images(), command="unfreeze train '```\n# x'"))
    assert "````sh\nunfreeze train '```\n# x'\n````" in card


def test_many_classes_are_left_to_the_numbers(toys):
    assert "120 classes; their scores stand in `metrics.json`." in model_card(toys.many(120))
