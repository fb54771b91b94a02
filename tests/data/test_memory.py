"""Inputs in memory: paths, pictures, arrays and strings with labels."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unfreeze.data.load import load_dataset
from unfreeze.errors import DataError, RequestError
from unfreeze.runtime.decode import decode_image
from unfreeze.runtime.preprocess import ImagePreprocess

EXACT = ImagePreprocess(height=5, width=7, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="nearest")
LABELS = ["a", "b"] * 6


def arrays(shape=(5, 7, 3)) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(12)]


def test_strings_are_texts_and_labels_follow():
    data = load_dataset(([f"text {n}" for n in range(12)], LABELS))
    assert data.modality == "text"
    assert data.samples.read(3) == "text 3"
    assert [data.labels.names[code] for code in data.label] == LABELS


def test_paths_are_images(tmp_path, picture):
    paths = []
    for number in range(12):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(picture(number))
    for inputs in (paths, [str(path) for path in paths]):
        data = load_dataset((inputs, LABELS))
        assert data.modality == "image"
        assert data.samples.read(5) == picture(5)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (
            [f"caf\udce9{n}.png" for n in range(12)],
            LABELS,
            r"caf\\udce90.png cannot be read: its name is not UTF-8",
        ),
        ([f"text {n}" for n in range(12)], ["a", "caf\udce9"] * 6, r"The label caf\\udce9 is not UTF-8"),
    ],
)
def test_names_that_are_not_utf8_are_named(inputs, labels, message):
    with pytest.raises(DataError, match=message):
        load_dataset((inputs, labels))


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (5, 7, 1)])
def test_arrays_keep_their_pixels(shape):
    inputs = arrays(shape)
    data = load_dataset((inputs, LABELS))
    for row in (0, 11):
        out = decode_image(data.samples.read(row), EXACT)
        expected = inputs[row].reshape(5, 7, -1)
        np.testing.assert_array_equal(out, np.broadcast_to(expected, (5, 7, 3)))


def test_one_big_array_is_a_list_of_pictures():
    stack = np.stack(arrays())
    data = load_dataset((stack, np.array([0, 1] * 6)))
    assert data.labels.names == ("0", "1")
    np.testing.assert_array_equal(decode_image(data.samples.read(4), EXACT), stack[4])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "F", "I;16", "P", "1"])
def test_pictures_of_any_mode_decode_as_their_file_would(mode):
    if mode == "I;16":
        image = Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800)
    elif mode == "F":
        image = Image.fromarray(np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7))
    else:
        image = Image.fromarray(arrays()[0]).convert(mode)
    data = load_dataset(([image] * 12, LABELS))
    buffer = BytesIO()
    image.save(buffer, format="TIFF")
    expected = decode_image(buffer.getvalue(), EXACT)
    np.testing.assert_array_equal(decode_image(data.samples.read(0), EXACT), expected)


def test_a_pictures_rotation_is_applied_once():
    shown = arrays()[0]
    exif = Image.Exif()
    exif[0x0112] = 3
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(shown[::-1, ::-1])).save(buffer, format="PNG", exif=exif.tobytes())
    data = load_dataset(([Image.open(buffer)] * 12, LABELS))
    np.testing.assert_array_equal(decode_image(data.samples.read(0), EXACT), shown)


@pytest.mark.parametrize(
    ("labels", "names"),
    [([1, 0] * 6, ("0", "1")), ([1.0, 0.0] * 6, ("0", "1")), ([True, False] * 6, ("false", "true"))],
)
def test_labels_are_spelled_as_in_tables(labels, names):
    assert load_dataset(([f"t{n}" for n in range(12)], labels)).labels.names == names
    as_array = np.array(labels)
    assert load_dataset(([f"t{n}" for n in range(12)], as_array)).labels.names == names


def test_missing_labels_and_empty_texts_are_listed():
    texts = [f"text {n}" for n in range(12)]
    texts[2] = " "
    data = load_dataset((texts, [None, *LABELS[1:]]))
    assert {entry.name: entry.reason for entry in data.ignored} == {
        "item 1": "no label",
        "item 3": "an empty text",
    }
    assert data.samples.name(1) == "item 4"
    assert data.samples.read(1) == "text 3"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((["a", "b"], ["x"]), "2 inputs but 1 labels"),
        (([], []), "empty"),
        (([object()] * 3, ["a", "b", "a"]), "Input 1 is a object"),
        (([np.zeros((4, 4, 3))] * 3, ["a", "b", "a"]), "array of float64 with shape"),
        (([np.zeros((4, 4, 7), np.uint8)] * 3, ["a", "b", "a"]), "pictures are uint8"),
        (([Path("a.png"), Path("b.txt")], ["a", "b"]), "all be image files"),
        ((["text 1", "text 2", "text 3"], ["a", "a", "a"]), "one class only"),
    ],
)
def test_unusable_inputs_are_named_errors(source, message):
    with pytest.raises(DataError, match=message):
        load_dataset(source)


def test_what_is_no_source_is_a_wrong_request():
    with pytest.raises(RequestError, match="A dict is no data set"):
        load_dataset({"a": 1})
    with pytest.raises(RequestError, match="A tuple of 3"):
        load_dataset((1, 2, 3))
    with pytest.raises(RequestError, match="--label-column names a column"):
        load_dataset((["a"] * 6, LABELS[:6]), label_column="x")
