"""int8 lies beside float32 only where it is faster and as accurate, and its ranges come from training rows."""

import json
import shutil

import numpy as np
import pytest

from unfreeze import runtime
from unfreeze.errors import RequestError
from unfreeze.exporting import quantizing
from unfreeze.exporting.quantizing import FILE, calibration_rows, why_not
from unfreeze.exporting.run import export
from unfreeze.runtime.card import read_card

pytestmark = pytest.mark.usefixtures("plain_torch")

FASTER = {1: (2.0, 1.0), 32: (20.0, 10.0)}
SLOWER_ALONE = {1: (1.0, 1.5), 32: (20.0, 10.0)}


@pytest.mark.parametrize(
    ("seconds", "accuracy", "told"),
    [
        (FASTER, (0.940, 0.935), ""),
        (FASTER, (0.940, 0.951), ""),
        (FASTER, (0.940, 0.930), "loses 1.0 points of accuracy, and 0.5 are allowed"),
        (SLOWER_ALONE, (0.940, 0.940), "not faster here with batches of 1"),
        ({1: (1.0, 1.0), 32: (1.0, 2.0)}, (0.9, 0.9), "not faster here with batches of 1 and 32"),
    ],
)
def test_int8_is_kept_only_where_it_is_faster_and_within_half_a_point(seconds, accuracy, told):
    assert told in why_not(seconds, accuracy)
    assert bool(told) == bool(why_not(seconds, accuracy))


class Rows:
    """A data set of which only the parts matter."""

    def __init__(self, train, val):
        self.parts = {"train": np.arange(train), "val": np.arange(train, train + val)}

    def rows(self, part):
        return self.parts[part]


@pytest.mark.parametrize(("train", "gate"), [(500, 40), (90, 60), (20, 20)])
def test_ranges_come_from_training_rows_alone_and_apart_from_the_gate_where_there_are_enough(train, gate):
    data = Rows(train, 30)
    checked = np.concatenate([data.rows("val"), data.rows("train")[:gate]])
    found = calibration_rows(data, checked)
    assert len(found) == min(train, quantizing.CALIBRATION_ROWS)
    assert np.isin(found, data.rows("train")).all()
    assert len(np.unique(found)) == len(found)
    assert bool(np.isin(found, checked).any()) == (train < quantizing.CALIBRATION_ROWS)


def test_what_is_measured_stands_in_the_card_and_the_file_predicts(
    image_run, quick_onnx, photos, tmp_path, monkeypatch, command
):
    monkeypatch.setattr(quantizing, "measure_seconds", lambda *_: FASTER)
    monkeypatch.setattr(quantizing, "MOST_LOSS", 1.0)
    done = command("export", image_run.run.folder, "--quantize", "--output", tmp_path / "out")
    assert done.status == 0, done.err
    assert "2.00 times as fast with batches of 1" in done.out
    card = read_card((tmp_path / "out" / "export.json").read_text(), source="out")
    assert card.int8["method"] == "static"
    assert card.int8["seconds"] == {"1": [2.0, 1.0], "32": [20.0, 10.0]}
    assert card.int8["bytes"][1] < card.int8["bytes"][0] / 3
    assert card.parity["agreement"] == 1.0
    small, plain = runtime.load(tmp_path / "out" / FILE), runtime.load(tmp_path / "out")
    assert small.card.int8 == plain.card.int8 == card.int8
    assert small.card.parity["gap"] > plain.card.parity["gap"]
    pictures = sorted((photos / "red").iterdir())
    difference = np.abs(small.predict_proba(pictures) - plain.predict_proba(pictures)).max()
    assert 1e-4 < difference < 0.6


def test_a_file_that_is_not_worth_having_is_not_left_behind(image_run, quick_onnx, tmp_path, monkeypatch):
    def copied(file, target, plain, prepared):
        shutil.copy(file, target)
        return "static"

    monkeypatch.setattr(quantizing, "write_int8", copied)
    monkeypatch.setattr(quantizing, "measure_seconds", lambda *_: SLOWER_ALONE)
    done = export(image_run.run.folder, quantize=True, output=tmp_path / "out")
    assert not done.int8.shipped
    assert "not kept: it is not faster here with batches of 1" in done.int8.sentence
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.onnx",
        "preprocess.onnx",
        "README.md",
        "export.json",
    }
    card = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (card["int8"]["shipped"], card["int8"]["flips"]) == (False, 0)


def test_where_it_cannot_be_quantised_the_export_stays_and_the_reason_is_said(
    image_run, quick_onnx, tmp_path, monkeypatch
):
    def broken(*_):
        raise RuntimeError("an operator is not known")

    monkeypatch.setattr(quantizing, "write_int8", broken)
    done = export(image_run.run.folder, quantize=True, output=tmp_path / "out")
    assert done.file.is_file()
    assert not (tmp_path / "out" / FILE).exists()
    assert "cannot quantise this network (an operator is not known)" in done.int8.sentence


def test_other_formats_are_refused_in_a_sentence(image_run, tmp_path, command):
    wanted = ("export", image_run.run.folder, "--quantize", "--format", "pt2", "--output", tmp_path / "out")
    done = command(*wanted)
    assert done.status == 2
    assert "--quantize writes ONNX, and --format is pt2" in done.err
    with pytest.raises(RequestError, match="leave one of them out"):
        export(image_run.run.folder, quantize=True, format="openvino")
    assert not (tmp_path / "out").exists()
