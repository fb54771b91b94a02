"""Pixels decoded by any program reach the trained model's answer through ``preprocess.onnx``, or no file is left."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from unfreeze import runtime
from unfreeze.errors import UnfreezeError
from unfreeze.exporting import resizing
from unfreeze.exporting.run import export
from unfreeze.runtime.decode import decode_image, decode_picture

pytestmark = pytest.mark.usefixtures("plain_torch")


@pytest.fixture
def large_photos(tmp_path):
    """JPEGs of several times the network's size, which training decodes at a smaller scale."""
    chance = np.random.default_rng(4)
    for name, colour in (("green", (70, 150, 80)), ("red", (150, 80, 70))):
        (tmp_path / "large" / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.clip(chance.normal(colour, 30, (300, 400, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "large" / name / f"{number}.jpg")
    return tmp_path / "large"


def test_the_card_says_how_the_rows_did_through_both_graphs(image_onnx):
    card = json.loads((image_onnx.file.parent / "export.json").read_text())
    found = card["parity"]["preprocess"]
    assert (found["rows"], found["agreement"], found["problem"]) == (card["parity"]["rows"], 1.0, "")
    assert (found["levels"], found["reduced_jpegs"]) == (0, 0)
    assert found["gap"] == pytest.approx(card["parity"]["gap"], abs=1e-6)


def test_two_graphs_without_pillow_answer_as_the_runtime_does(image_onnx, raw_files):
    folder = image_onnx.file.parent
    sessions = [
        onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in ("preprocess.onnx", "model.onnx")
    ]
    exported = runtime.load(folder)
    for path in raw_files:
        raw = path.read_bytes()
        pixels = np.asarray(decode_picture(raw, exported.card.reads))
        (image,) = sessions[0].run(None, {"picture": pixels})
        assert np.array_equal(image, decode_image(raw, exported.card.reads)), path.name
        _, probabilities = sessions[1].run(None, {"images": image[None]})
        assert np.abs(probabilities - exported.predict_proba([path])).max() < 1e-6


@pytest.mark.parametrize("how", ["filter", "fit", "size"])
def test_a_wrong_preprocess_graph_is_caught_and_all_is_deleted(
    image_run, quick_onnx, tmp_path, monkeypatch, how
):
    real = resizing.write_preprocess

    def wrong(preprocess, folder):
        other = {
            "filter": {"interpolation": "nearest"},
            "fit": {"fit": "pad", "height": preprocess.height, "width": preprocess.width},
            "size": {"height": preprocess.height + 1},
        }[how]
        return real(replace(preprocess, **other), folder)

    monkeypatch.setattr(resizing, "write_preprocess", wrong)
    with pytest.raises(UnfreezeError, match="export was deleted") as caught:
        export(image_run.run.folder, output=tmp_path / "out")
    assert caught.value.exit_status == 1
    assert not list(tmp_path.glob("*out*"))


def test_large_jpegs_are_compared_as_training_decodes_them_and_counted(
    image_run, quick_onnx, large_photos, tmp_path
):
    done = export(image_run.run.folder, output=tmp_path / "out", data=str(large_photos))
    assert done.pixels.levels == 0
    assert done.pixels.parity.rows == done.pixels.reduced > 0
    assert 0 < done.pixels.reduced_gap < 0.2
    assert "large JPEGs" in done.pixels.sentence
