"""Links among what every command is given: what leads out of a folder is not read, and is named."""

import csv
import json
import shutil
from io import StringIO

import pytest

OUT = "a link that leads out of the data folder"


@pytest.fixture
def linked(photos, tmp_path):
    """A copy of the photographs with links to a picture and a folder outside of it."""
    folder = tmp_path / "linked"
    shutil.copytree(photos, folder)
    (folder / "red" / "secret.png").symlink_to(photos / "red" / "00.png")
    (folder / "red" / "everything").symlink_to(photos, target_is_directory=True)
    return folder


@pytest.fixture
def notes(tmp_path):
    """Texts in class folders, one of them a link to the outside."""
    folder = tmp_path / "notes"
    (tmp_path / "secret.txt").write_text("a secret that nobody may read")
    for name, words in (("ham", "see you at the meeting"), ("spam", "win a prize now")):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            (folder / name / f"{number:02}.txt").write_text(f"{words} {number}")
    (folder / "ham" / "secret.txt").symlink_to(tmp_path / "secret.txt")
    return folder


def test_predictions_have_a_row_for_each_that_says_why(command, image_run, linked, plain_torch):
    answer = command("predict", image_run.run.folder, linked)
    assert answer.status == 0, answer.err
    rows = list(csv.DictReader(StringIO(answer.out)))
    bad = {row["input"]: row["error"] for row in rows if row["error"]}
    names = [str(linked / "red" / name) for name in ("everything", "secret.png")]
    assert bad == dict.fromkeys(names, f"cannot be read: {OUT}; put a copy there")
    assert all(row["label"] == "" for row in rows if row["error"])
    assert len(rows) == len(list(image_run.data.rglob("*.png"))) + 2


def test_predictions_of_texts_have_one_too(command, text_run, notes, plain_torch):
    answer = command("predict", text_run.run.folder, notes, "--json")
    assert answer.status == 0, answer.err
    rows = json.loads(answer.out)["predictions"]
    bad = [row for row in rows if row["error"]]
    assert [row["input"] for row in bad] == [str(notes / "ham" / "secret.txt")]
    assert OUT in bad[0]["error"]
    assert len(rows) == 25


def test_an_exported_model_reads_none_either(command, image_onnx, linked):
    answer = command("predict", image_onnx.file, linked, "--json")
    assert answer.status == 0, answer.err
    bad = [row for row in json.loads(answer.out)["predictions"] if row["error"]]
    assert len(bad) == 2
    assert all(OUT in row["error"] and row["label"] is None for row in bad)


def test_the_audit_lists_them(command, linked):
    found = json.loads(command("check", linked, "--json").out)
    assert str(found).count(OUT) >= 2


def test_what_is_measured_leaves_them_out(command, image_run, linked, plain_torch):
    answer = command("evaluate", image_run.run.folder, linked, "--json")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["n"] == len(list(image_run.data.rglob("*.png")))


def test_an_adaptation_learns_from_none(command, text_run, notes, tmp_path, plain_torch):
    folder = tmp_path / "adapted"
    answer = command(
        "adapt", text_run.run.folder, "--target", notes, "--output-dir", folder, "--method", "norm"
    )  # fmt: skip
    assert answer.status == 0, answer.err
    name = str(notes / "ham" / "secret.txt")
    said = "".join(answer.err.split())  # lines are broken where the terminal ends
    assert "".join(f"Left out: {name}: cannot be read: {OUT}".split()) in said
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        bad = [row["input"] for row in csv.DictReader(file) if row["error"]]
    assert bad == [name]
