"""Which rows are asked for: enough, of the newest step, and unlike each other."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unfreeze.adapting.asking import as_asked, rows_to_label, write_questions
from unfreeze.adapting.signs import entropy
from unfreeze.data.inputs import open_items, unlabelled
from unfreeze.data.load import load_whole
from unfreeze.data.rows import IMAGE_SUFFIXES
from unfreeze.runtime.decode import FORMATS
from unfreeze.runtime.labels import Labels


def ask(scene, rows=None):
    return rows_to_label(scene, scene.probabilities(scene.target), scene.rows if rows is None else rows)


def test_twenty_rows_are_asked_for_each_once(domains):
    found = ask(domains().scene)
    assert len(found) == len(set(found)) == 20


@pytest.mark.filterwarnings("error")
def test_where_few_rows_differ_the_rest_fills_up(domains):
    scene = domains(target_rows=240).scene
    same = {boundary: np.tile(block[:6], (40, 1)) for boundary, block in scene.target.items()}
    found = ask(replace(scene, target=same))
    assert len(found) == len(set(found)) == 20
    # Every content there is is among them.
    assert set(found % 6) == set(range(6))


def test_of_fewer_rows_all_are_asked_for(domains):
    assert sorted(ask(domains(target_rows=12).scene)) == list(range(12))


def test_rows_are_those_of_the_newest_step(domains):
    order = np.repeat([0, 1, 2], [100, 160, 40])
    found = ask(replace(domains().scene, order=order))
    assert len(found) == 20
    assert set(order[found]) == {2}
    order = np.repeat([0, 1], [292, 8])
    assert sorted(ask(replace(domains().scene, order=order))) == list(range(292, 300))


def test_rows_that_are_labelled_already_are_not_asked_for(domains):
    # Named rows stand behind the target's own, and are of the newest step as well.
    order = np.repeat([0, 1], [200, 100])
    found = ask(replace(domains().scene, order=order), rows=290)
    assert found.min() >= 200
    assert found.max() < 290


def test_one_class_alone_has_an_entropy_of_zero_and_not_of_minus_zero():
    assert str(entropy(np.array([1.0, 0.0]))) == "0.0"
    assert entropy(np.array([0.5, 0.5])) == pytest.approx(np.log(2))


LABELS = Labels(("ham", "spam"))
TEXTS = ["@anna hi", "=1+1 free", "- an item", "'@quoted' she said", "-5", "plain", "it's", 'a "quoted", one']


def questions(folder, inputs, modality):
    """The table that is written of all of these inputs."""
    dataset = unlabelled(open_items(inputs, modality=modality), modality=modality, labels=LABELS)
    rows = np.arange(len(inputs))
    return write_questions(folder, dataset, rows, np.tile([0.25, 0.75], (len(rows), 1)), LABELS.names)


def test_texts_that_look_like_formulas_come_back_as_they_were(tmp_path):
    path = questions(tmp_path / "asked", TEXTS, "text")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # A spreadsheet that opens the table computes nothing.
    assert [row["text"] for row in rows[:5]] == [*(f"'{text}" for text in TEXTS[:4]), "-5"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": row["supposed"]} for row in rows)
    filled = load_whole(str(path), text_column="text", label_column="label", labels=LABELS)
    restored = as_asked(filled, list(rows[0]))
    assert [restored.samples.read(row) for row in range(len(TEXTS))] == TEXTS
    # Of a table that somebody else wrote an apostrophe is a part of the text.
    kept = as_asked(filled, ["text", "label", "from"])
    assert kept.samples.read(0) == "'@anna hi"


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures_are_written_under_an_ending_that_is_read(tmp_path, kind):
    # A table may hold pictures, or name files by any ending.
    Image.new("RGB", (8, 8)).save(tmp_path / "picture", format=kind)
    path = questions(tmp_path / "asked", [tmp_path / "picture"], "image")
    (written,) = (file for file in path.parent.iterdir() if file != path)
    assert written.suffix in IMAGE_SUFFIXES
    assert written.read_bytes() == (tmp_path / "picture").read_bytes()
