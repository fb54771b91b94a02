"""Choosing the training rows that a run carries, and making them small."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.examples import Examples, unit
from unfreeze.contracts import Executor
from unfreeze.data.dataset import Dataset
from unfreeze.data.reading import in_order, read_raw
from unfreeze.engine.frozen_pass import Features, compute_features
from unfreeze.engine.threads import reading_threads
from unfreeze.runtime.decode import BadImage, Quarantined, open_picture
from unfreeze.runtime.texts import as_text

# What stands under an answer is a hand's breadth wide: a thumbnail of this side, or two lines of text.
PIXELS = 64
CHARACTERS = 200
# Enough for a likeness in every class of most data sets; a run stays small enough to be mailed.
MOST = 500
BYTES = 2_000_000
# A generous guess for one thumbnail or text with its name.
SHOWN_BYTES = 1_700
FEATURE_BYTES = np.dtype(np.float16).itemsize


def choose_examples(labels: NDArray[np.int32], *, width: int, seed: int) -> NDArray[np.intp]:
    """Positions of the examples among training rows with these labels, ascending.

    Classes take turns, each with its rows in an order that the seed draws: a rare class is there as a whole before a
    frequent one has more than it. ``width``: of the features, which the number of rows must leave room for.
    """
    most = min(MOST, BYTES // (FEATURE_BYTES * width + SHOWN_BYTES))
    drawn = np.random.default_rng(seed).permutation(len(labels))
    turn = np.zeros(len(labels), dtype=np.intp)
    for label in np.unique(labels):
        members = drawn[labels[drawn] == label]
        turn[members] = np.arange(len(members))
    order = drawn[np.argsort(turn[drawn], kind="stable")]
    return np.sort(order[:most])


def take_examples(
    dataset: Dataset,
    classifier: Classifier,
    *,
    features: Features,
    executor: Executor | None,
    batch_size: int,
    seed: int,
) -> Examples:
    """Examples from the readable training rows.

    ``features``: of the frozen pass; they are the classifier's own unless ``executor`` runs other weights than that
    pass did, which then computes them anew.
    """
    boundaries = classifier.head.boundaries
    train = features.rows[np.isin(features.rows, dataset.rows("train"))]
    width = sum(features.arrays[boundary].shape[1] for boundary in boundaries if boundary in features.arrays)
    rows = train[choose_examples(dataset.label[train], width=width, seed=seed)]
    shown = in_order(lambda row: _small(dataset, int(row)), rows, threads=reading_threads(None))
    kept = {int(row): one for row, one in zip(rows, shown, strict=True) if one is not None}
    rows = np.array(list(kept), dtype=np.intp)
    if executor is not None:
        features = compute_features(
            dataset,
            classifier.backbone,
            executor=executor,
            rows=rows,
            boundaries=tuple(sorted(boundaries)),
            batch_size=batch_size,
        )
    places = np.flatnonzero(np.isin(features.rows, rows))
    rows = features.rows[places]
    joined = np.concatenate([features.arrays[boundary][places] for boundary in boundaries], axis=1)
    return Examples(
        features=unit(joined).astype(np.float16),
        labels=dataset.label[rows],
        names=tuple(dataset.samples.name(int(row)) for row in rows),
        shown=tuple(kept[int(row)] for row in rows),
    )


def _small(dataset: Dataset, row: int) -> bytes | str | None:
    """A thumbnail or the beginning of a text; None for a row that cannot be read any more."""
    raw = read_raw(dataset.samples, row)
    if isinstance(raw, Quarantined):
        return None
    if dataset.modality == "text":
        text = as_text(raw)
        return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"
    assert isinstance(raw, bytes)
    try:
        return thumbnail(raw)
    except BadImage:
        return None


def thumbnail(raw: bytes) -> bytes:
    """A small JPEG of a picture, with nothing of its file but the pixels. Raises BadImage."""
    picture = open_picture(raw, most=PIXELS)
    buffer = BytesIO()
    # Left alone, Pillow writes the file's comment again.
    picture.save(buffer, format="JPEG", quality=80, comment=b"")
    return buffer.getvalue()
