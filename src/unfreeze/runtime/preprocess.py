"""How a raw input becomes what a backbone reads: frozen values, and the arithmetic that follows them.

Images are resized by Pillow, in every part of the program: training, store, prediction, serving.
It is what the backbones were pretrained with, it needs no torch, and it lets other threads run.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from unfreeze.config import RANGES

Fit = Literal["squash", "crop", "pad"]
Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]
Truncation = Literal["head", "head+tail"]
# Pixels of a side and tokens of a text, as far as a user can ask for them: pretrained networks read 1,024 pixels at
# most, and what a file asks for beyond that is an attack on the memory.
MOST_SIDE, MOST_TOKENS = int(RANGES["image_size"][1]), int(RANGES["max_length"][1])
# Pretrained networks were trained with 0.875 to 1.15.
CROP_FRACTIONS = 0.1, 2.0


@dataclass(frozen=True)
class ImagePreprocess:
    """From a file's bytes to uint8 (height, width, 3).

    ``fit``: squash to the size, crop the centre (shortest side resized to size / ``crop_fraction``, with black around
    it where that is less than the size), or pad with the mean colour. ``mean`` and ``std`` belong to pixel values in
    0..1 and are applied inside the backbone. ``alpha``: transparent pixels are laid over white. ``draft``: JPEGs are
    decoded at the smallest of the codec's scales (1/2, 1/4, 1/8) that is still at least as large as what the resize
    needs.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit = "squash"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bicubic"
    alpha: Literal["white"] = "white"
    draft: bool = True
    kind: Literal["image"] = "image"

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self)


@dataclass(frozen=True)
class TextPreprocess:
    """From a string to token ids.

    ``max_length`` counts special tokens. ``truncation``: keep the beginning, or the beginning and the end.
    ``tokenizer_hash``: SHA-256 of the ``tokenizer.json`` that belongs to it.
    """

    max_length: int
    pad_id: int
    tokenizer_hash: str
    truncation: Truncation = "head"
    kind: Literal["text"] = "text"

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self)


Preprocess = ImagePreprocess | TextPreprocess


def preprocess_from_dict(values: dict[str, object]) -> Preprocess:
    """The value that ``to_dict`` wrote; raises TypeError or ValueError when it is not one, or one of no use."""
    kind = values.get("kind")
    if kind == "image":
        given = dict(values)
        for name in ("mean", "std"):
            triple = given.get(name)
            if not isinstance(triple, list | tuple) or len(triple) != 3:
                raise ValueError(f"{name} must hold three numbers")
            given[name] = tuple(float(number) for number in triple)
        image = ImagePreprocess(**given)  # type: ignore[arg-type]
        _check_image(image)
        return image
    if kind == "text":
        text = TextPreprocess(**values)  # type: ignore[arg-type]
        _check_text(text)
        return text
    raise ValueError(f"unknown kind of preprocessing: {str(kind)[:80]!r}")


def _check_image(value: ImagePreprocess) -> None:
    _check_whole("height", value.height, 1, MOST_SIDE)
    _check_whole("width", value.width, 1, MOST_SIDE)
    if not all(map(math.isfinite, (*value.mean, *value.std))) or min(value.std) <= 0:
        raise ValueError("mean and std must be finite, and std above 0")
    low, high = CROP_FRACTIONS
    if isinstance(value.crop_fraction, bool) or not isinstance(value.crop_fraction, int | float):
        raise TypeError("crop_fraction must be a number")
    if not low <= value.crop_fraction <= high:
        raise ValueError(f"crop_fraction must be from {low} to {high}")
    if not isinstance(value.draft, bool):
        raise TypeError("draft must be true or false")
    _check_word("fit", value.fit, get_args(Fit))
    _check_word("interpolation", value.interpolation, get_args(Interpolation))
    _check_word("alpha", value.alpha, ("white",))


def _check_text(value: TextPreprocess) -> None:
    _check_whole("max_length", value.max_length, 1, MOST_TOKENS)
    _check_whole("pad_id", value.pad_id, 0, 2**31 - 1)
    _check_word("truncation", value.truncation, get_args(Truncation))
    if not isinstance(value.tokenizer_hash, str):
        raise TypeError("tokenizer_hash must be a text")


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}")


def _check_word(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}")
