"""A loaded run answers as the training measured."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unfreeze
from unfreeze.engine import choice
from unfreeze.errors import DataError, RequestError


@pytest.fixture(scope="module")
def image_model(image_run):
    return unfreeze.load(image_run.run.folder)


@pytest.fixture(scope="module")
def text_model(text_run):
    return unfreeze.load(text_run.run.folder)


def saved_predictions(run):
    with (run.folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_predict_after_loading_as_they_did_in_the_test(image_run, image_model):
    saved = saved_predictions(image_run.run)
    answers = image_model.predict([image_run.data / row["input"] for row in saved])
    assert len(saved) == image_run.run.test.n
    for row, answer in zip(saved, answers, strict=True):
        assert answer.label == row["label"]
        assert answer.probability == pytest.approx(float(row["probability"]), abs=1e-5)
        assert answer.abstain == (row["abstain"] == "true")


def test_texts_predict_after_loading_as_they_did_in_the_test(text_run, text_model):
    with text_run.data.open(newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    saved = saved_predictions(text_run.run)
    lines = [int(row["input"].rpartition(":")[2]) for row in saved]
    answers = text_model.predict([texts[line - 1] for line in lines])
    for row, answer in zip(saved, answers, strict=True):
        assert answer.label == row["label"]
        assert answer.probability == pytest.approx(float(row["probability"]), abs=1e-5)
        assert answer.abstain == (row["abstain"] == "true")


def test_a_path_a_string_a_picture_and_an_array_give_the_same_answer(photos, image_model):
    path = photos / "red" / "00.png"
    picture = Image.open(path)
    forms = [path, str(path), picture, np.asarray(picture)]
    probabilities = [image_model.predict(form)[0].probability for form in forms]
    assert probabilities == pytest.approx([probabilities[0]] * 4, abs=1e-6)


def test_probabilities_sum_to_one_and_agree_with_the_labels(photos, image_model):
    paths = sorted(photos.rglob("*.png"))
    chances = image_model.predict_proba(paths)
    assert chances.shape == (28, 2)
    assert np.allclose(chances.sum(axis=1), 1.0, atol=1e-9)
    labels = [answer.label for answer in image_model.predict(paths)]
    assert labels == [image_model.labels[index] for index in chances.argmax(axis=1)]


def test_answers_do_not_depend_on_the_batch(text_model):
    texts = ["prize winner claim", "minister storm border at the long harvest of the strike", "agenda"]
    alone = np.concatenate([text_model.predict_proba(text) for text in texts])
    assert np.allclose(text_model.predict_proba(texts, batch_size=2), alone, atol=1e-5)


def test_features_are_what_the_head_reads(photos, image_model):
    paths = sorted(photos.rglob("*.png"))[:3]
    features = image_model.features(paths)
    head = image_model.classifier.head
    assert features.shape == (3, head.width)
    logits = head.logits(features) / image_model.classifier.temperature
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(
        chances / chances.sum(axis=1, keepdims=True), image_model.predict_proba(paths), atol=1e-6
    )


def test_a_truncated_picture_among_good_ones_is_a_row_with_an_error_in_its_place(
    photos, image_model, tmp_path
):
    good = photos / "red" / "00.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:300])
    missing = tmp_path / "missing.png"
    inputs = [good, broken, photos / "green" / "01.png", missing]
    answers = image_model.predict(inputs)
    assert [answer.input for answer in answers] == [str(path) for path in inputs]
    assert [answer.error is None for answer in answers] == [True, False, True, False]
    assert answers[1].label is None
    assert answers[1].probability is None
    assert not answers[1].abstain
    assert answers[2].probability == pytest.approx(image_model.predict(inputs[2])[0].probability, abs=1e-6)


def test_inputs_that_cannot_be_read_at_all_are_rows_with_errors(tmp_path, image_model):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    answers = image_model.predict([broken, broken])
    assert all(answer.error for answer in answers)
    with pytest.raises(RequestError, match=r"broken\.png cannot be read"):
        image_model.predict_proba(broken)


def test_a_text_of_white_space_is_a_row_with_an_error(text_model, tmp_path):
    (tmp_path / "blank.txt").write_text(" \n")
    answers = text_model.predict(["", "claim your prize", " \n\t"])
    assert [answer.error for answer in answers] == ["the text is empty", None, "the text is empty"]
    assert answers[0].label is None
    with pytest.raises(RequestError, match="item 1 cannot be read: the text is empty"):
        text_model.predict_proba([""])
    assert text_model.predict_proba(["", "cash"], blank=True).shape == (2, 3)
    samples = text_model.open_inputs([str(tmp_path / "blank.txt")])
    assert [answer.error for answer in text_model.iterate(samples)] == ["the text is empty"]


def test_texts_that_were_cut_are_counted_in_what_it_notes(text_run):
    model = unfreeze.load(text_run.run.folder)
    assert model.notes(1) == ()
    model.predict(["prize " * 15, "prize " * 14, "prize " * 99, ""], batch_size=1)
    assert model.notes(4) == (
        "2 of 4 texts (50.0%) are longer than the 16 tokens that are read of each, and were cut.",
    )


def test_chunks_keep_order_and_answers(photos, image_model, monkeypatch):
    paths = sorted(photos.rglob("*.png"))[:7]
    whole = image_model.predict(paths)
    monkeypatch.setattr("unfreeze.model.CHUNK_ROWS", 3)
    pieces = image_model.predict(paths)
    assert [answer.input for answer in pieces] == [answer.input for answer in whole]
    assert [a.probability for a in pieces] == pytest.approx([a.probability for a in whole], abs=1e-6)


def test_features_of_all_rows_are_never_held_at_once(photos, tmp_path, image_model, monkeypatch):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    paths = [*sorted(photos.rglob("*.png"))[:7], broken]
    samples = image_model.open_inputs([str(path) for path in (paths[0], broken, *paths[1:])])
    whole, errors = image_model.probabilities(samples, batch_size=2)
    asked = []
    features = image_model._features

    def noted(samples, **settings):
        asked.append((len(samples), settings["expected_rows"]))
        return features(samples, **settings)

    monkeypatch.setattr(image_model, "_features", noted)
    monkeypatch.setattr("unfreeze.model.CHUNK_TEXTS", 4)
    pieces, again = image_model.probabilities(samples, batch_size=2)
    # What is worth compiling is decided by all of them.
    assert asked == [(4, 9), (4, 9), (1, 9)]
    assert list(again.items()) == list(errors.items())
    assert list(errors) == [1, 8]
    np.testing.assert_allclose(pieces, whole, atol=1e-6)


def test_the_most_probable_classes_come_in_falling_order_and_end_with_the_last(text_model):
    (answer,) = text_model.predict("claim your prize", top_k=9)
    assert answer.top[0][0] == answer.label
    assert sorted(name for name, _ in answer.top) == ["ham", "news", "spam"]
    chances = [chance for _, chance in answer.top]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1.0)


def test_it_abstains_exactly_below_its_threshold(text_run, text_model):
    with text_run.data.open(newline="") as file:
        answers = text_model.predict([row["text"] for row in csv.DictReader(file)])
    threshold = text_model.classifier.threshold
    if threshold is None:
        assert not any(answer.abstain for answer in answers)
    else:
        assert all(answer.abstain == (answer.probability < threshold.probability) for answer in answers)


def test_inputs_of_the_wrong_kind_are_refused(image_model, text_model):
    with pytest.raises(DataError, match="reads texts"):
        text_model.predict(Path("photo.png"))
    with pytest.raises(DataError):
        image_model.predict([3.5])
    with pytest.raises(DataError, match="no inputs"):
        image_model.predict([])


def test_a_fresh_process_gives_the_golden_answers(image_run, tmp_path):
    """The folder is moved first: nothing of it may depend on where it was made."""
    moved = tmp_path / "moved"
    shutil.copytree(image_run.run.folder, moved)
    code = (
        "import json, sys, torch, unfreeze\n"
        "from safetensors.torch import load_file\n"
        "from unfreeze.contracts import State\n"
        "model = unfreeze.load(sys.argv[1])\n"
        "golden = load_file(sys.argv[1] + '/golden.safetensors')\n"
        "worst = (model.classifier.logits(State(golden['h'])) - golden['logits']).abs().max()\n"
        "print(json.dumps([float(worst), 'transformers' in sys.modules, 'openvino' in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(moved)], capture_output=True, text=True, check=True
    )
    worst, transformers, openvino = json.loads(done.stdout)
    assert worst < 1e-4
    assert not transformers
    assert not openvino


@pytest.mark.parametrize(("error", "taken"), [(1e-6, "openvino-fp32"), (0.5, "torch-fp32")])
def test_many_rows_go_through_what_was_measured_to_be_right(
    image_run, photos, monkeypatch, tmp_path, error, taken
):
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path))
    monkeypatch.setattr("unfreeze.model.COMPILE_ROWS", 3)
    measured = choice.measure_error
    monkeypatch.setattr(choice, "measure_error", lambda *given: replace(measured(*given), relative_max=error))
    model = unfreeze.load(image_run.run.folder)
    found = [str(path) for path in sorted((photos / "red").iterdir())[:4]]
    answers = model.predict(found)
    assert model._executors[True].name == taken
    few = unfreeze.load(image_run.run.folder).predict(found[:2])
    assert [one.label for one in answers[:2]] == [one.label for one in few]
