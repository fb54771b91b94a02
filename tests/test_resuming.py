"""``--resume`` goes on with the training that was stopped, and refuses any other one by the name of what differs."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import unfreeze
from unfreeze.errors import RequestError

pytestmark = pytest.mark.usefixtures("plain_torch")

FEW = {"strategy": "partial", "epochs": 2, "views": 2, "batch_size": 8, "precision": "fp32", "device": "cpu"}
IMAGES = FEW | {"image_size": 32}
TEXTS = FEW | {"backbone": "all-minilm-l6-v2", "max_length": 8, "freeze": 6, "train_size": 30}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Settings of a training of pictures, on a tiny vision transformer with random weights."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return IMAGES | {"backbone": f"timm:test_vit@{path}"}


@pytest.fixture
def album(photos, tmp_path):
    """A copy of the photographs that a test may change."""
    return shutil.copytree(photos, tmp_path / "album")


@pytest.fixture
def stopped(tmp_path, stopping):
    """Stops a training of these data after three steps; gives what goes on with it."""

    def stop(data, **settings):
        with stopping(3):
            unfreeze.train(data, output_dir=tmp_path / "run", **settings)
        return lambda data, **change: unfreeze.train(
            data, output_dir=tmp_path / "run", resume=True, **settings | change
        )

    return stop


def repaint(path):
    """Another picture under the same name."""
    pixels = np.random.default_rng(9).integers(0, 256, (36, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def in_part(data, part):
    """The path of a row of this part of a folder, as it is split without being told otherwise."""
    from unfreeze.data.load import load_dataset

    dataset = load_dataset(str(data))
    return data / dataset.samples.name(int(dataset.rows(part)[0]))


@pytest.mark.parametrize("store", ["auto", "off"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_changed_picture_under_the_same_name_is_other_data(album, stopped, images, store, part):
    resume = stopped(str(album), **images, store=store)
    repaint(in_part(album, part))
    with pytest.raises(RequestError, match=r"--resume: .* data "):
        resume(str(album))


def test_the_same_pictures_go_on_wherever_they_lie_now(album, stopped, images, tmp_path):
    resume = stopped(str(album), **images)
    # Written anew, with other times: what counts is what they hold. A row that is not trained on may be another one.
    moved = shutil.copytree(album, tmp_path / "moved")
    repaint(in_part(moved, "test"))
    assert resume(str(moved)).test.n


def test_a_row_that_can_be_read_again_is_other_data(album, stopped, images):
    path = in_part(album, "train")
    whole = path.read_bytes()
    path.write_bytes(b"no picture")
    resume = stopped(str(album), **images)
    path.write_bytes(whole)
    with pytest.raises(RequestError, match=r"--resume: .* data "):
        resume(str(album))


@pytest.mark.parametrize("store", ["auto", "off"])
def test_a_changed_cell_of_a_table_is_other_data(mails, stopped, tmp_path, store):
    table = tmp_path / "mails.csv"
    shutil.copy(mails, table)
    resume = stopped(str(table), **TEXTS, store=store)
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([f"{text}!", label] for text, label in rows[1:])])
    with pytest.raises(RequestError, match=r"--resume: .* data "):
        resume(str(table))
    shutil.copy(mails, table)
    assert resume(str(table)).test.n


def test_other_inputs_of_a_list_are_other_data(stopped, images):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in range(40)]
    labels = ["a", "b"] * 20
    resume = stopped((pictures, labels), **images)
    with pytest.raises(RequestError, match=r"--resume: .* data "):
        resume(([255 - picture for picture in pictures], labels))
    assert resume((pictures, labels)).test.n
