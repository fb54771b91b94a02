"""``--resume`` goes on with the training that was stopped, and refuses any other one by the name of what differs."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import unfreeze
from unfreeze.choose.settings import Decisions
from unfreeze.config import TrainRequest, flag
from unfreeze.data.load import load_dataset
from unfreeze.engine.checkpoints import SAID_OF_DATA, check_same
from unfreeze.errors import RequestError
from unfreeze.progress import Silent
from unfreeze.training.identity import identify_choice, identify_training
from unfreeze.training.planning import make_plan
from unfreeze.training.prepare import open_backbone, read_data

pytestmark = pytest.mark.usefixtures("plain_torch")

FEW = {"strategy": "partial", "epochs": 2, "views": 2, "batch_size": 8, "precision": "fp32", "device": "cpu"}
IMAGES = FEW | {"image_size": 32}
TEXTS = FEW | {"backbone": "all-minilm-l6-v2", "max_length": 12, "freeze": 6, "train_size": 30}


@pytest.fixture
def images(tiny_vit):
    """Settings of a training of pictures."""
    return IMAGES | {"backbone": tiny_vit}


@pytest.fixture
def album(photos, tmp_path):
    """A copy of the photographs that a test may change."""
    return shutil.copytree(photos, tmp_path / "album")


@dataclass(frozen=True)
class Stopped:
    """A training that was stopped in the middle."""

    train: Callable[..., object]
    stopping: Callable[[int], AbstractContextManager[None]]

    def refuses(self, data):
        with pytest.raises(
            RequestError, match=r"--resume: the checkpoint was made with other (contents of the )?data\."
        ):
            self.train(data, resume=True)

    def goes_on(self, data):
        with self.stopping(1):
            self.train(data, resume=True)


@pytest.fixture
def stopped(tmp_path, stopping):
    """Stops a training of these data after three steps."""

    def stop(data, **settings):
        train = partial(unfreeze.train, output_dir=tmp_path / "run", **settings)
        with stopping(3):
            train(data)
        return Stopped(train, stopping)

    return stop


def repaint(path):
    """Another picture under the same name."""
    pixels = np.random.default_rng(9).integers(0, 256, (36, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def in_part(data, part):
    """The path of a row of this part of a folder, as it is split without being told otherwise."""
    dataset = load_dataset(str(data))
    return data / dataset.samples.name(int(dataset.rows(part)[0]))


@pytest.mark.parametrize(("part", "store"), [("train", "auto"), ("val", "off")])
def test_a_changed_picture_under_the_same_name_is_other_data(album, stopped, images, part, store):
    run = stopped(str(album), **images, store=store)
    changed = in_part(album, part)
    whole = changed.read_bytes()
    repaint(changed)
    run.refuses(str(album))
    # Written anew, with another time: what counts is what it holds. Rows that are tested have trained nothing.
    changed.write_bytes(whole)
    repaint(in_part(album, "test"))
    run.goes_on(str(album))


def test_a_row_that_can_be_read_again_is_other_data(album, stopped, images):
    path = in_part(album, "train")
    whole = path.read_bytes()
    path.write_bytes(b"no picture")
    run = stopped(str(album), **images)
    run.goes_on(str(album))
    path.write_bytes(whole)
    run.refuses(str(album))


def test_a_changed_cell_of_a_table_is_other_data(mails, stopped, tmp_path):
    table = tmp_path / "mails.csv"
    shutil.copy(mails, table)
    run = stopped(str(table), **TEXTS)
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    dataset = load_dataset(str(table), train_size=TEXTS["train_size"])
    trained = int(dataset.samples.name(int(dataset.rows("train")[0])).rpartition(":")[2])
    rows[trained][0] += "!"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    run.refuses(str(table))
    shutil.copy(mails, table)
    run.goes_on(str(table))


def test_other_inputs_of_a_list_are_other_data(stopped, images):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in range(40)]
    labels = ["a", "b"] * 20
    run = stopped((pictures, labels), **images)
    run.refuses(([255 - picture for picture in pictures], labels))
    run.goes_on((pictures, labels))


@pytest.fixture(scope="module")
def material_of():
    """What trainings with these settings are made of, as far as it is told; networks are opened once."""
    opened = {}

    def make(data, **settings):
        request = TrainRequest(data=str(data), **settings)
        request.check()
        decisions, dataset = Decisions(request), read_data(request)
        asked = tuple(
            settings.get(name)
            for name in ("backbone", "image_size", "fit", "max_length", "truncation", "pooling")
        )
        if asked not in opened:
            opened[asked] = open_backbone(dataset, Decisions(request), Silent())
        features = SimpleNamespace(contents=f"those of {Path(data).stem}")
        return SimpleNamespace(
            dataset=dataset, backbone=opened[asked], decisions=decisions, features=features
        )

    return make


def identity(material):
    """Of the training of the plan that was asked for."""
    classes = len(material.dataset.labels)
    plan = make_plan(material.backbone, len(material.dataset.rows("train")), classes, material.decisions)
    return identify_training(material, plan)


def check_told(before, now, name):
    with pytest.raises(
        RequestError, match=rf"this was made with another {flag(name)} \(.*, now .*\)\. Repeat"
    ):
        check_same(before, now, what="this was made")


CHANGES = [
    ("partial", {"seed": 1}),
    ("partial", {"val": 0.3}),
    ("partial", {"test": 0.3}),
    ("partial", {"train_size": 10}),
    ("partial", {"image_size": 48}),
    ("partial", {"fit": "crop"}),
    ("partial", {"strategy": "full"}),
    ("partial", {"recipe": "classic"}),
    ("partial", {"head": "mlp"}),
    ("partial", {"precision": "bf16"}),
    ("partial", {"store": "off"}),
    ("partial", {"freeze": 4}),
    ("partial", {"epochs": 3}),
    ("partial", {"batch_size": 4}),
    ("partial", {"augment": "strong"}),
    ("partial", {"views": 3}),
    ("partial", {"mixup": 0.2}),
    ("partial", {"label_smoothing": 0.1}),
    ("partial", {"bn": "train"}),
    ("partial", {"schedule": "linear"}),
    ("partial", {"patience": 1}),
    ("partial", {"ema": 0.9}),
    ("partial", {"pull_to_start": 0.01}),
    ("partial", {"interpolate": True}),
    ("partial", {"lr": 1e-4}),
    ("discriminative", {"layer_decay": 0.5}),
    ("discriminative", {"lr": 1e-4}),
    ("gradual", {"lr": 1e-4}),
    ("lora", {"rank": 4}),
    ("lora", {"alpha": 16.0}),
    ("lora", {"lora_dropout": 0.1}),
    ("lora", {"targets": "attention"}),
    ("lora", {"lora_blocks": 2}),
    ("adapters", {"reduction": 4}),
]


@pytest.mark.parametrize(("strategy", "change"), CHANGES, ids=str)
def test_another_setting_is_told_by_the_name_of_its_option(photos, images, material_of, strategy, change):
    settings = images | {"strategy": strategy}
    if "recipe" in change:
        # Which of them leave is the recipe's matter.
        fixed = ("epochs", "views", "batch_size")
        settings = {name: value for name, value in settings.items() if name not in fixed}
    before, now = (identity(material_of(photos, **settings | new)) for new in ({}, change))
    check_told(before, now, next(iter(change)))


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 8},
        {"truncation": "head+tail"},
        {"pooling": "cls"},
        {"token_dropout": 0.1},
    ],
    ids=str,
)
def test_another_setting_of_texts_is_told_by_the_name_of_its_option(mails, material_of, change):
    before, now = (identity(material_of(mails, **TEXTS | new)) for new in ({}, change))
    check_told(before, now, next(iter(change)))


def test_another_network_or_other_data_are_told_as_such(photos, album, images, material_of):
    before = identity(material_of(photos, **images))
    check_told(
        before, identity(material_of(photos, **images | {"backbone": "efficientnet-lite0"})), "backbone"
    )
    (album / "red" / "00.png").rename(album / "red" / "a.png")
    now = identity(material_of(album, **images))
    with pytest.raises(RequestError, match=r"this was made with other data\. Repeat"):
        check_same(before, now, what="this was made")
    now["data"] = before["data"]
    with pytest.raises(RequestError, match=r"this was made with other contents of the data\. Repeat"):
        check_same(before, now, what="this was made")


def test_the_same_said_in_other_words_is_no_difference(photos, images, material_of):
    before = identity(material_of(photos, **images))
    check_same(before, before, what="this was made")
    plain = {"freeze": 5, "augment": "light", "seed": 0, "head": "linear", "bn": "freeze", "val": 0.15}
    check_same(before, identity(material_of(photos, **images | plain)), what="this was made")


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"val": 0.3}, {"image_size": 48}, {"lr": 1e-4}, {"batch_size": 4}, {"ema": 0.5}],
    ids=str,
)
def test_a_choice_is_told_apart_by_the_same_names(photos, images, material_of, change):
    settings = images | {"strategy": "auto"}
    before, now = (identify_choice(material_of(photos, **settings | new)) for new in ({}, change))
    check_told(before, now, next(iter(change)))


def test_what_is_said_of_data_are_options():
    assert set(SAID_OF_DATA) == {
        flag(field) for field in TrainRequest.__dataclass_fields__ if field.endswith("_column")
    } | {"--train-size", "--val", "--test"}
