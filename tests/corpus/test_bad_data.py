"""Hundreds of bad inputs: each is a sentence, a row that is left out by name, or harmless; never a traceback."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("bad_inputs", Path(__file__).parent / "inputs.py")
inputs = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = inputs
spec.loader.exec_module(inputs)

DATA = {
    f"{kind}: {name}": make
    for kind, makers in (
        ("pictures", inputs.pictures()),
        ("folders", inputs.folders()),
        ("names", inputs.strange_names()),
        ("tables", inputs.tables()),
        ("tables", inputs.parquets()),
        ("archives", inputs.archives()),
    )
    for name, make in makers
}
# One bad picture in a folder costs that picture, and no training that could have been.
LEAVES_DATA = [name for name in DATA if name.startswith(("pictures: ", "names: "))]
# What the file of a model may hold instead of one.
NO_MODELS = {"nothing": b"", "text": b"no model", "pickle": b"\x80\x04N."}
# More than this is not read by whoever made a mistake.
MOST_CHARACTERS = 1_600


def explained(answer):
    """Exit status 2, nothing on standard output, and one sentence or two."""
    assert answer.status == 2, (answer.out, answer.err)
    assert answer.out == ""
    assert answer.err.startswith("Error: ")
    assert "Traceback" not in answer.err
    assert len(answer.err) < MOST_CHARACTERS, answer.err
    # A control character in a name must not reach the terminal as one.
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", answer.err), repr(answer.err)


def test_the_corpus_is_as_large_as_it_says(image_run):
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    bad, changes = len(DATA) + len(inputs.CONFIGS), len(dict(inputs.bundles(image_run.run.folder)))
    assert bad + changes >= 400
    damages = len(inputs.DAMAGES) + len(NO_MODELS)
    assert f"{bad} inputs, {changes} changes to a run folder, {damages} damages to an export" in page
    assert f"{bad} bad inputs: " in page
    assert f"{changes} changes to a run folder: " in page
    corpus = Path(__file__).parents[1] / "fuzz" / "corpus"
    kept = sum(1 for path in corpus.rglob("*") if path.is_file())
    assert f"{kept} inputs that once found one are kept" in " ".join(page.split())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", DATA)
def test_data_is_read_or_explained(name, command, tmp_path):
    data = DATA[name](tmp_path)
    answer = command("check", data, "--json")
    if name.startswith("archives: "):
        explained(answer)
    elif answer.status == 0 or name in LEAVES_DATA:
        assert answer.status == 0, answer.err
        json.loads(answer.out)
    elif answer.out:
        # Of what no row of can be read, the rows are listed beside the sentence.
        found = json.loads(answer.out)
        assert len(found["quarantined"]) == found["rows"]
        explained(replace(answer, out=""))
    else:
        explained(answer)
    assert not (tmp_path.parent / "escape.txt").exists()


@pytest.mark.parametrize("name", inputs.CONFIGS)
def test_a_config_file_is_read_or_explained(name, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_bytes(inputs.CONFIGS[name])
    # The data do not exist, so that nothing is trained: a file that could be read is not what the sentence is about.
    answer = command("train", tmp_path / "gone", "--config", config, "--output-dir", tmp_path / "run")
    explained(answer)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "escaped").exists()


@pytest.fixture(scope="module")
def changes(image_run):
    return dict(inputs.bundles(image_run.run.folder))


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_changed_run_answers_as_before_or_not_at_all(
    image_run, changes, command, tmp_path, photos, plain_torch
):
    picture = photos / "red" / "00.png"

    def answers(run):
        answer = command("predict", run, picture, "--json")
        return answer, answer.out

    _, before = answers(image_run.run.folder)
    for name, change in changes.items():
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(image_run.run.folder, run)
        change(run)
        answer, out = answers(run)
        if answer.status == 0:
            assert out == before, name
            assert "link to the outside" not in name
        else:
            assert answer.status in (1, 2), name
            assert "Traceback" not in answer.err, name
            assert answer.err.startswith("Error: "), (name, answer.err)
            assert len(answer.err) < MOST_CHARACTERS, (name, answer.err)


@pytest.mark.slow
def test_a_damaged_export_is_explained(image_onnx, command, tmp_path, photos):
    model = image_onnx.file
    content, beside = model.read_bytes(), [path for path in model.parent.iterdir() if path != model]
    for number, how in enumerate((*inputs.DAMAGES, *NO_MODELS)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for path in beside:
            if path.is_file():
                shutil.copy(path, folder)
        put = NO_MODELS.get(how)
        (folder / model.name).write_bytes(inputs.damaged(content, how) if put is None else put)
        answer = command("predict", folder / model.name, photos / "red" / "00.png", "--json")
        assert answer.status in (0, 1, 2), how
        assert "Traceback" not in answer.err, how
        if answer.status:
            assert answer.err.startswith("Error: "), (how, answer.err)
            assert len(answer.err) < MOST_CHARACTERS, (how, answer.err)
