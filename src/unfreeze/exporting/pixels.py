"""The gate of ``preprocess.onnx``: real rows through it and the exported graph, beside the trained model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unfreeze.errors import UnfreezeError, first_line
from unfreeze.exporting.gate_rows import GateRows
from unfreeze.exporting.parity import Parity, check, columns_of
from unfreeze.runtime.decode import decode_picture, fit_picture, inspect_image
from unfreeze.runtime.exported import Exported
from unfreeze.runtime.preprocess import ImagePreprocess
from unfreeze.runtime.reading import Raw

# Measured: none. One is left for versions of Pillow that take the two passes of a resize, between which it rounds, in
# another order, and for processors that fuse a product with a sum.
MOST_LEVELS = 1


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


@dataclass(eq=False)
class Resizer:
    """``preprocess.onnx`` beside Pillow: gives Pillow's result of each picture, and keeps the graph's.

    ``images``: by the graph, in the order of the calls; of a large JPEG it gets what training's resize gets, the
    codec's smaller scale. ``in_full``: by the graph too, of those alone, decoded in full.
    """

    file: Path
    preprocess: ImagePreprocess
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    in_full: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(self.file), providers=["CPUExecutionProvider"])

    def prepare(self, raw: Raw) -> NDArray[np.uint8]:
        """What ``decode_image`` gives. Raises BadImage."""
        assert isinstance(raw, bytes)
        picture = decode_picture(raw, self.preprocess)
        wanted = fit_picture(picture, self.preprocess)
        whole = inspect_image(raw)
        if (whole.width, whole.height) != picture.size:
            full = decode_picture(raw, replace(self.preprocess, draft=False))
            self.in_full[len(self.images)] = self._resized(full)
        self.images.append(self._resized(picture))
        return wanted

    def _resized(self, picture: Image.Image) -> NDArray[np.uint8]:
        try:
            (image,) = self._session.run(None, {"picture": np.asarray(picture)})
        except Exception as problem:  # onnxruntime has errors of its own
            first = first_line(problem)
            raise UnfreezeError(
                f"preprocess.onnx does not run on {picture.width} x {picture.height} pixels ({first}), so the export "
                "was deleted."
            ) from None
        return np.asarray(image)


def check_pixels(resizer: Resizer, exported: Exported, rows: GateRows) -> Pixels:
    """Compare the graph followed by the export with the trained model's answers to ``rows``, which it prepared."""
    parity = check(exported, rows, prepared=resizer.images)
    if parity.problem:
        return Pixels(parity, 0, 0, 0.0)
    levels = max(
        int(np.abs(image.astype(np.int16) - wanted).max())
        for image, wanted in zip(resizer.images, rows.prepared, strict=True)
    )
    columns = columns_of(exported, rows)
    gaps = [
        float(np.abs(exported.run([image])[1][0, columns] - rows.reference[row]).max())
        for row, image in resizer.in_full.items()
    ]
    return Pixels(parity, levels, len(gaps), max(gaps, default=0.0))
