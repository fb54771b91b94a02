"""How a raw input becomes what a backbone reads: frozen values, and the arithmetic that follows them.

Images are resized by Pillow, in every part of the program: training, store, prediction, serving.
It is what the backbones were pretrained with, it needs no torch, and it lets other threads run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Fit = Literal["squash", "crop", "pad"]


@dataclass(frozen=True)
class ImagePreprocess:
    """From a file's bytes to uint8 (height, width, 3).

    ``fit``: squash to the size, crop the centre (shortest side resized to size / ``crop_fraction``), or pad with
    the mean colour. ``mean`` and ``std`` belong to pixel values in 0..1 and are applied inside the backbone.
    ``alpha``: transparent pixels are laid over white. ``draft``: JPEGs are decoded at the smallest of the codec's
    scales (1/2, 1/4, 1/8) that is still at least as large as what the resize needs.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit = "squash"
    crop_fraction: float = 1.0
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] = "bicubic"
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
    truncation: Literal["head", "head+tail"] = "head"
    kind: Literal["text"] = "text"

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self)


Preprocess = ImagePreprocess | TextPreprocess


def preprocess_from_dict(values: dict[str, object]) -> Preprocess:
    """The value that ``to_dict`` wrote; raises TypeError or ValueError when it is not one."""
    kind = values.get("kind")
    if kind == "image":
        given = dict(values)
        for name in ("mean", "std"):
            triple = given[name]
            if not isinstance(triple, list | tuple) or len(triple) != 3:
                raise ValueError(f"{name} must hold three numbers")
            given[name] = tuple(float(number) for number in triple)
        return ImagePreprocess(**given)  # type: ignore[arg-type]
    if kind == "text":
        return TextPreprocess(**values)  # type: ignore[arg-type]
    raise ValueError(f"unknown kind of preprocessing: {kind!r}")
