"""Predictions with their explanations, written as one page and a picture for each image: ``predict --explain``."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unfreeze.bundle.claim import whole_or_nothing
from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.examples import Examples
from unfreeze.data.dataset import Samples
from unfreeze.data.reading import read_raw
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.explaining import as_png, draw_heat, explain_image, explain_text
from unfreeze.neighbours import features_of
from unfreeze.report.page import make_environment
from unfreeze.report.words import printable
from unfreeze.runtime.decode import Quarantined
from unfreeze.runtime.exported import TOKENIZER
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.predictions import Prediction
from unfreeze.runtime.preprocess import ImagePreprocess
from unfreeze.runtime.reading import Reader
from unfreeze.runtime.remote import here_alone
from unfreeze.runtime.texts import as_text

PAGE = "explanations.html"
# Training rows shown beside an answer.
NEAREST = 4


@dataclass(frozen=True)
class Near:
    """A training row: its class, the cosine to the answered input, and its picture (base64 of a JPEG) or text."""

    label: str
    similarity: float
    picture: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Shown:
    """An answer with the file of its picture, or its text in weighed pieces, or why those cannot be weighed.

    ``near``: the training rows most like it.
    """

    row: Prediction
    near: Sequence[Near] = ()
    picture: str | None = None
    pieces: Sequence[tuple[str, float]] = ()
    problem: str | None = None


def open_folder(folder: Path) -> None:
    """Make the folder, which must be new or empty; RequestError where it cannot be."""
    if refused := here_alone(folder, "--explain"):
        raise RequestError(refused)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as problem:
        raise RequestError(f"--explain {folder} cannot be written: {problem.strerror or problem}.") from None
    if used:
        raise RequestError(f"--explain {folder} is not empty: name a new folder.")


def explained(
    classifier: Classifier,
    samples: Samples,
    rows: Iterable[Prediction],
    folder: Path,
    *,
    examples: Examples | None,
) -> Iterator[Prediction]:
    """The predictions of ``samples`` as they come; when the last has gone, ``folder`` holds why each was given.

    Where they are not asked for to the last, the pictures made so far are removed again. An explanation takes about as
    long as 50 predictions. ``examples``: the run's training rows, where it carries any. Raises UnfreezeError when the
    disk fails.
    """
    backbone = classifier.backbone
    reader = Reader(backbone.preprocess, backbone.assets.get(TOKENIZER))
    shown: list[Shown] = []
    try:
        for number, row in enumerate(rows):
            if row.label is not None:
                raw = read_raw(samples, number)
                if not isinstance(raw, Quarantined):
                    prepared = reader.prepare(raw)
                    near = () if examples is None else _near(classifier, examples, prepared)
                    file = folder / f"{number:06}.png"
                    shown.append(replace(_explain(classifier, raw, prepared, row, file), near=near))
            yield row
        page = _page(shown)
        with whole_or_nothing(folder, flag="--explain"):
            write_atomically(folder / PAGE, page)
    except BaseException:
        for one in shown:
            if one.picture is not None:
                with suppress(OSError):
                    (folder / one.picture).unlink()
        raise


def _page(shown: Sequence[Shown]) -> str:
    template = resources.files("unfreeze").joinpath("explained.html").read_text(encoding="utf-8")
    return printable(make_environment().from_string(template).render(shown=shown))


def _near(classifier: Classifier, examples: Examples, prepared: NDArray[Any]) -> tuple[Near, ...]:
    (found,) = examples.nearest(features_of(classifier, [prepared]), NEAREST)
    names, shown = classifier.labels.names, examples.shown
    return tuple(
        Near(
            names[int(examples.labels[place])],
            similarity,
            picture=base64.b64encode(one).decode() if isinstance(one := shown[place], bytes) else None,
            text=one if isinstance(one, str) else None,
        )
        for place, similarity in found
    )


def _explain(
    classifier: Classifier, raw: bytes | str, prepared: NDArray[Any], row: Prediction, file: Path
) -> Shown:
    assert row.label is not None
    place, preprocess = classifier.labels.index(row.label), classifier.backbone.preprocess
    if not isinstance(preprocess, ImagePreprocess):
        text = as_text(raw)
        try:
            return Shown(row, pieces=explain_text(classifier, text, place))
        except UnfreezeError as problem:
            return Shown(row, pieces=[(text, 0.0)], problem=str(problem))
    picture = Image.fromarray(prepared).convert("RGBA")
    picture.alpha_composite(Image.open(BytesIO(draw_heat(explain_image(classifier, prepared, place)))))
    with whole_or_nothing(file, flag="--explain"):
        write_atomically(file, as_png(np.concatenate([prepared, np.asarray(picture.convert("RGB"))], axis=1)))
    return Shown(row, picture=file.name)
