"""The gate of ``preprocess.onnx``: real rows through it and the exported graph, beside the trained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import Dataset
from unfreeze.data.reading import read_raw
from unfreeze.exporting.parity import Parity, check
from unfreeze.runtime.decode import Quarantined, decode_image, decode_picture
from unfreeze.runtime.exported import Exported
from unfreeze.runtime.preprocess import ImagePreprocess
from unfreeze.runtime.reading import Raw

# Measured: none. One is left for versions of Pillow that take the two passes of a resize, between which it rounds, in
# another order, and for processors that fuse a product with a sum.
MOST_LEVELS = 1

Resize = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Pixels:
    """``levels``: the largest difference of a pixel between the graph's result and Pillow's, of 255.

    ``reduced``: rows whose JPEG the codec decodes at a smaller scale in training; ``reduced_gap``: how far a
    probability of theirs moves when another program decodes them in full.
    """

    parity: Parity
    levels: int
    reduced: int
    reduced_gap: float

    @property
    def problem(self) -> str:
        """What is wrong with the graph, or empty."""
        if self.parity.problem or self.levels <= MOST_LEVELS:
            return self.parity.problem
        return f"a pixel differs from Pillow's by {self.levels} levels"

    @property
    def sentence(self) -> str:
        """What was measured."""
        told = (
            f"Through preprocess.onnx: {self.parity.agreement:.1%} answered alike, "
            f"pixels differ by at most {self.levels} of 255 levels."
        )
        if not self.reduced:
            return told
        return (
            f"{told} {self.reduced:,} of them are large JPEGs, which training decodes at a smaller scale; "
            f"decoded in full their probabilities move by up to {self.reduced_gap:.1e}."
        )

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return self.parity.to_dict() | {
            "levels": self.levels,
            "levels_bound": MOST_LEVELS,
            "reduced_jpegs": self.reduced,
            "reduced_jpegs_gap": self.reduced_gap,
        }


def check_pixels(
    file: Path, exported: Exported, dataset: Dataset, rows: NDArray[np.intp], reference: NDArray[np.float64]
) -> Pixels:
    """Compare ``file`` followed by the export with ``reference``, the trained model's probabilities (rows, classes).

    The graph gets what training's resize gets: of a large JPEG the codec's smaller scale.
    """
    resize, preprocess = _open(file), exported.card.reads
    assert isinstance(preprocess, ImagePreprocess)
    levels = [0]

    def prepare(raw: Raw) -> NDArray[np.uint8]:
        assert isinstance(raw, bytes)
        image = resize(np.asarray(decode_picture(raw, preprocess)))
        wanted = decode_image(raw, preprocess)
        levels.append(int(np.abs(image.astype(np.int16) - wanted).max()))
        return image

    parity = check(exported, dataset, rows, reference, prepare=prepare)
    reduced, gap = (0, 0.0) if parity.problem else _in_full(resize, exported, dataset, rows, reference)
    return Pixels(parity, max(levels), reduced, gap)


def _open(file: Path) -> Resize:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def resize(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        (image,) = session.run(None, {"picture": picture})
        return np.asarray(image)

    return resize


def _in_full(
    resize: Resize,
    exported: Exported,
    dataset: Dataset,
    rows: NDArray[np.intp],
    reference: NDArray[np.float64],
) -> tuple[int, float]:
    """How many rows training decodes at a smaller scale, and the largest change of a probability without that."""
    preprocess = exported.card.reads
    assert isinstance(preprocess, ImagePreprocess)
    columns = [exported.labels.index(name) for name in dataset.labels.names]
    count, gap = 0, 0.0
    for row, wanted in zip(rows, reference, strict=True):
        raw = read_raw(dataset.samples, int(row))
        if isinstance(raw, Quarantined | str):
            continue
        full = decode_picture(raw, replace(preprocess, draft=False))
        if full.size != decode_picture(raw, preprocess).size:
            found = exported.run([resize(np.asarray(full))])[1][0, columns]
            count, gap = count + 1, max(gap, float(np.abs(found - wanted).max()))
    return count, gap
