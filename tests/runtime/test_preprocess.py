"""A preprocessing that a file describes is one that a network can read, or it is refused."""

import pytest

from unfreeze.runtime.preprocess import MOST_SIDE, MOST_TOKENS, preprocess_from_dict

IMAGE = {"kind": "image", "height": 224, "width": 160, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
TEXT = {"kind": "text", "max_length": 128, "pad_id": 0, "tokenizer_hash": "0" * 64}


@pytest.mark.parametrize("values", [IMAGE | {"crop_fraction": 0.875, "fit": "crop"}, TEXT])
def test_what_was_written_comes_back(values):
    found = preprocess_from_dict(values)
    assert preprocess_from_dict(found.to_dict()) == found
    assert (
        found.to_dict().items()
        >= {name: given for name, given in values.items() if name not in ("mean", "std")}.items()
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"height": MOST_SIDE + 1}, "height must be a whole number from 1 to 4096"),
        ({"width": 10**9}, "width must be a whole number"),
        ({"width": 0}, "width must be a whole number"),
        ({"height": -1}, "height must be a whole number"),
        ({"height": 160.0}, "height must be a whole number"),
        ({"height": True}, "height must be a whole number"),
        ({"height": "160"}, "height must be a whole number"),
        ({"mean": [0.5]}, "mean must hold three numbers"),
        ({"mean": None}, "mean must hold three numbers"),
        ({"mean": [float("nan")] * 3}, "must be finite"),
        ({"std": [1, 1, 0]}, "std above 0"),
        ({"crop_fraction": 1e-9}, "crop_fraction must be from"),
        ({"crop_fraction": float("nan")}, "crop_fraction must be from"),
        ({"crop_fraction": "1"}, "crop_fraction must be a number"),
        ({"fit": "stretch"}, "fit must be one of squash, crop, pad"),
        ({"interpolation": ["bicubic"]}, "interpolation must be one of"),
        ({"alpha": "black"}, "alpha must be one of white"),
        ({"draft": "no"}, "draft must be true or false"),
        ({"depth": 3}, "depth"),
        ({"kind": "sound"}, "unknown kind"),
    ],
)
def test_an_image_that_no_network_reads_is_refused(changes, told):
    with pytest.raises((TypeError, ValueError), match=told):
        preprocess_from_dict(IMAGE | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_length": MOST_TOKENS + 1}, "max_length must be a whole number from 1 to 131072"),
        ({"max_length": 0}, "max_length must be"),
        ({"pad_id": -1}, "pad_id must be"),
        ({"pad_id": None}, "pad_id must be"),
        ({"truncation": "tail"}, "truncation must be one of"),
        ({"tokenizer_hash": 3}, "tokenizer_hash must be a text"),
    ],
)
def test_a_text_that_no_network_reads_is_refused(changes, told):
    with pytest.raises((TypeError, ValueError), match=told):
        preprocess_from_dict(TEXT | changes)
