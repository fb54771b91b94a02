"""Predictions with their explanations, written as one page and a picture for each image: ``predict --explain``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze.bundle.classifier import Classifier
from unfreeze.data.dataset import Samples
from unfreeze.data.reading import read_raw
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.explaining import as_png, draw_heat, explain_image, explain_text
from unfreeze.report.page import make_environment
from unfreeze.runtime.decode import Quarantined, decode_image
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.predictions import Prediction
from unfreeze.runtime.preprocess import ImagePreprocess

PAGE = "explanations.html"


@dataclass(frozen=True)
class Shown:
    """An answer with the file of its picture, or its text in weighed pieces, or why those cannot be weighed."""

    row: Prediction
    picture: str | None = None
    pieces: Sequence[tuple[str, float]] = ()
    problem: str | None = None


def open_folder(folder: Path) -> None:
    """Make the folder, which must be new or empty; RequestError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as problem:
        raise RequestError(f"--explain {folder} cannot be written: {problem.strerror or problem}.") from None
    if used:
        raise RequestError(f"--explain {folder} is not empty: name a new folder.")


def explained(
    classifier: Classifier, samples: Samples, rows: Iterable[Prediction], folder: Path
) -> Iterator[Prediction]:
    """The predictions of ``samples`` as they come; when the last has gone, ``folder`` holds why each was given.

    An explanation takes about as long as 50 predictions.
    """
    shown: list[Shown] = []
    for number, row in enumerate(rows):
        if row.label is not None:
            raw = read_raw(samples, number)
            if not isinstance(raw, Quarantined):
                shown.append(_explain(classifier, raw, row, folder / f"{number:06}.png"))
        yield row
    environment = make_environment()
    template = resources.files("unfreeze").joinpath("explained.html").read_text(encoding="utf-8")
    write_atomically(folder / PAGE, environment.from_string(template).render(shown=shown))


def _explain(classifier: Classifier, raw: bytes | str, row: Prediction, file: Path) -> Shown:
    assert row.label is not None
    place, preprocess = classifier.labels.index(row.label), classifier.backbone.preprocess
    if not isinstance(preprocess, ImagePreprocess):
        text = raw if isinstance(raw, str) else raw.decode("utf-8", errors="replace")
        try:
            return Shown(row, pieces=explain_text(classifier, text, place))
        except UnfreezeError as problem:
            return Shown(row, pieces=[(text, 0.0)], problem=str(problem))
    assert isinstance(raw, bytes)
    pixels = decode_image(raw, preprocess)
    picture = Image.fromarray(pixels).convert("RGBA")
    picture.alpha_composite(Image.open(BytesIO(draw_heat(explain_image(classifier, pixels, place)))))
    file.write_bytes(as_png(np.concatenate([pixels, np.asarray(picture.convert("RGB"))], axis=1)))
    return Shown(row, picture=file.name)
