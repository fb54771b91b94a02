"""An exported file answers as its card says, or not at all."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unfreeze.backbones import with_truncation
from unfreeze.errors import RequestError
from unfreeze.predicting import ExportedPredictor
from unfreeze.runtime.card import KEY, Card
from unfreeze.runtime.exported import Exported, load
from unfreeze.runtime.tokenize import TextEncoder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 4
PREPROCESS = {
    "kind": "image", "height": SIDE, "width": SIDE, "mean": [0.5] * 3, "std": [0.5] * 3, "fit": "squash",
    "crop_fraction": 1.0, "interpolation": "bicubic", "alpha": "white", "draft": True,
}  # fmt: skip
CARD = Card(
    format="onnx",
    modality="image",
    labels=("green", "red"),
    threshold=0.6,
    preprocess=PREPROCESS,
    strategy="full",
    run="0",
    backbone="1",
)
WEIGHTS = np.array([[0, 0.02], [0.02, 0], [0, 0]], dtype=np.float32)


def made(
    folder, *, card=None, weights=WEIGHTS, names=("logits", "probabilities"), last="Softmax", reads="images"
):
    """A file whose network adds up red and green; ``names`` of its outputs, ``last``: what gives probabilities."""
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", [reads], ["float"], to=kinds.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], [names[0]]),
        helper.make_node(last, [names[0]], [names[1]]),
    ]
    classes = weights.shape[1]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(reads, kinds.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, kinds.FLOAT, ["batch", classes]) for name in names],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {KEY: CARD.to_json() if card is None else card})
    onnx.save(model, folder / "model.onnx")
    return folder


def changed(**values):
    return json.dumps(json.loads(CARD.to_json()) | values)


def picture(colour):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("names", [("logits", "probabilities"), ("probabilities", "logits")])
def test_outputs_are_taken_by_their_names(tmp_path, names):
    # The order in which a graph lists its outputs says nothing about them.
    made(tmp_path)
    file = onnx.load(tmp_path / "model.onnx")
    kept = sorted(file.graph.output, key=lambda output: names.index(output.name))
    del file.graph.output[:]
    file.graph.output.extend(kept)
    onnx.save(file, tmp_path / "model.onnx")
    green, red = load(tmp_path).predict([picture("green"), picture("red")])
    assert (green.label, red.label) == ("green", "red")
    assert 0.9 < red.probability < 1


CARDS = {
    "three labels": ({"labels": ["a", "b", "c"]}, "it has 3 labels for logits"),
    "a label twice": ({"labels": ["a", "a"]}, "labels must be two or more that differ"),
    "numbers for labels": ({"labels": [1, 2]}, "labels must be a list of texts"),
    "a word for labels": ({"labels": "ab"}, "labels must be a list of texts"),
    "a word for a threshold": ({"threshold": "x"}, "threshold must be a number"),
    "a threshold that is none": ({"threshold": float("nan")}, "threshold must be from 0 to 1"),
    "lineage of numbers": ({"lineage": [1]}, "lineage must be a list of texts"),
    "a list for a strategy": ({"strategy": []}, "strategy must be a text"),
    "a list for parity": ({"parity": []}, "parity must be an object"),
    "another size": ({"preprocess": PREPROCESS | {"width": 8}}, "its card says 4 x 8 pixels"),
    "a huge size": ({"preprocess": PREPROCESS | {"height": 60_000}}, "height must be a whole number from 1 to 4096"),
    "no size": ({"preprocess": PREPROCESS | {"height": None}}, "height must be a whole number"),
    "a crop of nothing": ({"preprocess": PREPROCESS | {"crop_fraction": 1e-9}}, "crop_fraction must be from"),
    "an unknown fit": ({"preprocess": PREPROCESS | {"fit": []}}, "fit must be one of squash, crop, pad"),
    "no spread": ({"preprocess": PREPROCESS | {"std": [1, 0, 1]}}, "std above 0"),
    "no preprocessing": ({"preprocess": 3}, "preprocess must be an object"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "told"), CARDS.values(), ids=CARDS)
def test_a_card_that_does_not_fit_is_refused_when_it_is_opened(tmp_path, values, told):
    with pytest.raises(RequestError, match=told):
        load(made(tmp_path, card=changed(**values)))


def test_a_graph_of_other_inputs_or_outputs_is_refused_when_it_is_opened(tmp_path):
    with pytest.raises(RequestError, match=r"contradicts its card: it reads pixels and gives logits"):
        load(made(tmp_path, reads="pixels"))
    with pytest.raises(RequestError, match=r"and gives a, b"):
        load(made(tmp_path, names=("a", "b")))
    made(tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    del model.graph.output[1:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(RequestError, match="gives logits"):
        load(tmp_path)


@pytest.mark.parametrize(
    "values", [{"names": ("probabilities", "logits")}, {"weights": WEIGHTS * np.nan}, {"last": "Relu"}]
)
def test_outputs_that_are_no_probabilities_are_no_answer(tmp_path, values):
    with pytest.raises(RequestError, match="its outputs are no probabilities of 2 labels"):
        load(made(tmp_path, **values)).predict([picture("red")])


def test_a_width_that_the_graph_leaves_open_is_checked_when_it_answers(tmp_path):
    made(tmp_path, weights=np.pad(WEIGHTS, ((0, 0), (0, 1))))
    model = onnx.load(tmp_path / "model.onnx")
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = "classes"
    # What the runtime works out by itself stays open too.
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "channels"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(RequestError, match=r"no probabilities of 2 labels|2 labels for"):
        load(tmp_path).predict([picture("red")])


def test_a_graph_that_cannot_compute_is_a_sentence(tmp_path):
    made(tmp_path, weights=np.zeros((5, 2), dtype=np.float32))
    with pytest.raises(RequestError, match=r"model\.onnx (cannot compute an answer|is no ONNX model)"):
        load(tmp_path).predict([picture("red")])


PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def seen():
    """An exported model whose answers are even, and the pictures that its graph has read."""
    read = []

    def graph(arrays):
        read.extend(arrays["images"])
        even = np.full((len(arrays["images"]), 2), 0.5, np.float32)
        return even, even

    return Exported(graph, CARD, None), read


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_pil_image_is_read_as_its_file_is(seen, tmp_path, orientation):
    model, read = seen
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "one.png", exif=exif)
    model.predict([tmp_path / "one.png", Image.open(tmp_path / "one.png")])
    np.testing.assert_array_equal(read[1], read[0])
    np.testing.assert_array_equal(read[0], np.rot90(PIXELS, {1: 0, 3: 2, 6: -1}[orientation]))


FORMS = {mode: Image.fromarray(PIXELS).convert(mode) for mode in ("CMYK", "YCbCr", "LAB", "F", "I", "RGBA")}
FORMS["one channel"] = PIXELS[..., :1]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_pictures_of_every_mode_are_answered(seen, form):
    model, read = seen
    assert model.predict(form)[0].error is None
    assert model.predict_proba([form, form]).shape == (2, 2)
    assert len(read) == 3


UNREADABLE = {
    "no image": (b"no image", "item 1: its content is not an image"),
    "floats": (PIXELS / 255, "item 1: cannot be read: Input 1 is an array of float64"),
    "a number": (5, "item 1: cannot be read: Input 1 is a int: give paths"),
    "a null byte": ("a\0b", "cannot be read: .*null"),
    "no file": ("nowhere.png", "nowhere.png: cannot be read: No such file"),
}


@pytest.mark.parametrize(("given", "told"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_a_row_with_an_error_or_a_sentence(seen, given, told):
    model, _ = seen
    for inputs in (given, [given]):
        (row,) = model.predict(inputs)
        assert (row.label, row.error is None) == (None, False)
        with pytest.raises(RequestError, match=told):
            model.predict_proba(inputs)


def test_a_picture_that_breaks_off_when_it_is_decoded_is_a_row_with_an_error(seen):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 100).save(file, "PNG")
    cut = Image.open(io.BytesIO(file.getvalue()[:-2000]))
    assert "truncated" in seen[0].predict([cut])[0].error


def test_texts_are_read_and_refused_as_by_the_run(text_run, tmp_path):
    backbone = text_run.run.model().classifier.backbone
    card = replace(CARD, modality="text", preprocess=backbone.preprocess.to_dict())

    def graph(arrays):
        even = np.full((len(arrays["ids"]), 2), 0.5, np.float32)
        return even, even

    model = Exported(graph, card, backbone.assets["tokenizer.json"])
    for name, content in {"blank": b" \n", "latin": "caf\xe9".encode("latin-1"), "sound": b"cash"}.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    told = ["the text is empty", "it is not UTF-8 text: convert it", None]
    for predictor in (ExportedPredictor(model), text_run.run.model()):
        samples = predictor.open_inputs([str(tmp_path)])
        assert [row.error for row in predictor.iterate(samples)] == told
    assert [row.error for row in model.predict(["", "cash"])] == ["the text is empty", None]
    assert ExportedPredictor(model).notes(5) == ()
    model.predict(["cash " * 40])
    assert (
        ExportedPredictor(model).notes(6)[0].startswith("1 of 6 texts (16.7%) are longer than the 16 tokens")
    )


@pytest.mark.parametrize("truncation", ["head", "head+tail"])
def test_long_texts_are_cut_as_the_card_says(text_run, truncation):
    backbone = with_truncation(text_run.run.model().classifier.backbone, truncation)
    card = replace(CARD, modality="text", preprocess=backbone.preprocess.to_dict())
    read = []

    def graph(arrays):
        read.extend(arrays["ids"])
        even = np.full((len(arrays["ids"]), 2), 0.5, np.float32)
        return even, even

    tokenizer, text = backbone.assets["tokenizer.json"], "cash " * 40 + "prize " * 40
    Exported(graph, card, tokenizer).predict([text])
    (wanted,) = TextEncoder(backbone.preprocess, tokenizer).encode([text])
    assert read[0].tolist() == wanted.tolist()
    assert len(set(wanted[1:-1].tolist())) == (1 if truncation == "head" else 2)


def test_one_input_has_one_row_of_probabilities(seen, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "one.png")
    for given in (
        str(tmp_path / "one.png"),
        tmp_path / "one.png",
        picture("red"),
        PIXELS,
        Image.fromarray(PIXELS),
    ):
        assert seen[0].predict_proba(given).shape == (1, 2)
