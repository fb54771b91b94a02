"""Which few target rows to label: a handful of true labels is the fix that always works (arXiv 2304.00792)."""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from unfreeze.adapting.moments import moments_of
from unfreeze.adapting.scene import Scene
from unfreeze.data.dataset import Dataset
from unfreeze.data.samples import ColumnSamples
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.predictions import FORMULAS, write_rows

FEWEST, MOST = 20, 100
# The table to be filled.
LABELS = "labels.csv"
# Columns that only such a table has.
SUPPOSED, FROM = "supposed", "from"
# What Pillow calls formats whose files end otherwise.
SUFFIXES = {"jpeg": "jpg", "jpeg2000": "jp2"}
# Rows to ask for each class.
A_CLASS = 5


def rows_to_label(scene: Scene, answers: NDArray[np.float64], rows: int) -> NDArray[np.intp]:
    """Positions of the target rows most worth labelling, among the first ``rows`` of the scene, the most telling first.

    Of a target that changes in steps they are of the newest one. One from each of as many clusters as there are rows to
    ask for, weighted by how unsure the answers (rows, classes) are: what is unsure and unlike the others (Zhdanov
    2019). Where fewer rows differ from each other, the most unsure of the rest fill up.
    """
    possible = scene.newest[scene.newest < rows]
    wanted = min(len(possible), max(FEWEST, min(MOST, A_CLASS * scene.classes)))
    ordered = np.sort(answers[possible], axis=1)
    unsure = 1.0 - (ordered[:, -1] - ordered[:, -2]) + 1e-3
    picked = np.arange(len(possible))
    if wanted < len(possible):
        last = max(scene.target)
        picked = _one_of_each_cluster(scene.target[last][possible], unsure, wanted, scene.seed)
        rest = np.setdiff1d(np.argsort(-unsure, kind="stable"), picked, assume_unique=True)
        picked = np.concatenate([picked, rest[: wanted - len(picked)]])
    return possible[picked[np.argsort(-unsure[picked], kind="stable")]]


def _one_of_each_cluster(
    features: NDArray[np.float32], weight: NDArray[np.float64], count: int, seed: int
) -> NDArray[np.intp]:
    """The rows of the features nearest to the centres of ``count`` clusters, or of as many as there can be."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    count = min(count, len(np.unique(features, axis=0)))
    block = moments_of({0: features}).standardise({0: features})[0]
    block = PCA(min(32, *block.shape), random_state=seed).fit_transform(block)
    found = KMeans(count, n_init=1, random_state=seed).fit(block, sample_weight=weight)
    distance = ((block - found.cluster_centers_[found.labels_]) ** 2).sum(axis=1)
    chosen = [
        members[np.argmin(distance[members])]
        for members in (np.flatnonzero(found.labels_ == cluster) for cluster in range(count))
        if len(members)
    ]
    return np.array(chosen, dtype=np.intp)


def write_questions(
    folder: Path,
    dataset: Dataset,
    rows: NDArray[np.intp],
    answers: NDArray[np.float64],
    labels: tuple[str, ...],
) -> Path:
    """A folder with ``labels.csv``, whose column ``label`` is to be filled; returns the table's path.

    Once filled, ``train`` and ``--target-labels`` read it; rows that stay empty are left out. Images lie beside it,
    since a target may keep them inside a table. ``answers`` (rows of the table, classes): what the model supposes.
    """
    folder.mkdir()
    table: list[dict[str, object]] = []
    for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        raw, best = dataset.samples.read(int(row)), int(answer.argmax())
        content = raw
        if isinstance(raw, bytes):
            content = f"{place:03d}{_suffix(raw)}"
            write_atomically(folder / str(content), raw)
        table.append(
            {
                dataset.modality: content,
                "label": None,
                SUPPOSED: labels[best],
                "probability": round(float(answer[best]), 3),
                FROM: dataset.samples.name(int(row)),
            }
        )
    text = io.StringIO()
    write_rows(table, text)
    path = folder / LABELS
    write_atomically(path, text.getvalue())
    return path


def as_asked(dataset: Dataset, columns: Collection[str]) -> Dataset:
    """The rows of a filled table as the target has them: texts that look like formulas are written defused.

    ``columns``: all of the table's, by which it is known; any other table's rows stay as they are.
    """
    samples = dataset.samples
    if not {SUPPOSED, FROM}.issubset(columns) or not isinstance(samples, ColumnSamples):
        return dataset
    pattern = f"^'('*[{re.escape(''.join(FORMULAS))}])"
    texts = pc.replace_substring_regex(samples.column, pattern=pattern, replacement=r"\1")
    return replace(dataset, samples=replace(samples, column=texts))


def _suffix(data: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        kind = (image.format or "png").lower()
    return f".{SUFFIXES.get(kind, kind)}"
