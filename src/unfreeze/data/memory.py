"""Samples that are in memory already: a pair of inputs and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.data.dataset import Inference, Modality, Samples
from unfreeze.data.rows import (
    IMAGE_SUFFIXES,
    NOT_GIVEN,
    NOT_UTF8,
    TEXT_SUFFIXES,
    Columns,
    IgnoredLog,
    Rows,
    escaped,
    has_utf8,
    suffix_of,
)
from unfreeze.data.samples import FileSamples, ListSamples, strings
from unfreeze.errors import DataError, RequestError
from unfreeze.runtime.pictures import picture_problem

SOURCE = "inputs and labels in memory"


def read_pair(source: tuple[Any, ...], columns: Columns) -> Rows:
    """The rows of (inputs, labels). Raises RequestError for flags, DataError for unusable inputs."""
    if len(source) != 2:
        raise RequestError(f"A tuple of {len(source)} is no data set: give a pair (inputs, labels).")
    if columns.flags():
        raise RequestError(
            f"{next(iter(columns.flags()))} names a column, but {SOURCE} have none: leave it out."
        )
    inputs, given = list(source[0]), list(source[1])
    if len(inputs) != len(given):
        raise DataError(f"{len(inputs)} inputs but {len(given)} labels: give one label for each input.")
    if not inputs:
        raise DataError("The list of inputs is empty.")
    log = IgnoredLog()
    labels = [_label(value) for value in given]
    keep = []
    for position, (item, label) in enumerate(zip(inputs, labels, strict=True)):
        if label is None:
            log.add(f"item {position + 1}", "no label")
        elif isinstance(item, str) and not item.strip():
            log.add(f"item {position + 1}", "an empty text")
        else:
            keep.append(position)
    names = tuple(dict.fromkeys(label for label in labels if label is not None))
    if wrong := next((name for name in names if not has_utf8(name)), None):
        raise DataError(f"The label {escaped(wrong)} is not UTF-8: give another name to its class.")
    index = {name: code for code, name in enumerate(names)}
    modality, reason, samples, identity = _samples(inputs, np.array(keep, dtype=np.intp))
    return Rows(
        source=SOURCE,
        modality=modality,
        samples=samples,
        names=names,
        code=np.array([index[str(labels[position])] for position in keep], dtype=np.int32),
        part=np.full(len(keep), NOT_GIVEN, dtype=np.int8),
        identity=strings(identity),
        ignored=log.entries(),
        inferred=(Inference("modality", modality, reason),),
    )


def _samples(inputs: list[Any], rows: Any) -> tuple[Modality, str, Samples, list[str]]:
    if all(isinstance(item, str | Path) for item in inputs):
        suffixes = {suffix_of(str(item)) for item in inputs if str(item).strip()}
        if suffixes and suffixes <= IMAGE_SUFFIXES:
            return "image", "all inputs are paths of image files", *_files(inputs, rows, "image")
        if any(isinstance(item, Path) for item in inputs):
            if suffixes <= TEXT_SUFFIXES:
                return "text", "all inputs are paths of text files", *_files(inputs, rows, "text")
            raise DataError("Paths must all be image files or all be .txt files.")
        texts = tuple(item.encode("utf-8", errors="replace").decode("utf-8") for item in inputs)
        return "text", "all inputs are strings", ListSamples(texts, rows), [texts[row] for row in rows]
    for position, item in enumerate(inputs):
        if problem := picture_problem(item, position):
            raise DataError(problem)
    # Pictures in memory have no name of their own: the split follows their position.
    return "image", "all inputs are pictures", ListSamples(tuple(inputs), rows), [str(row) for row in rows]


def _files(inputs: list[Any], rows: Any, modality: Modality) -> tuple[Samples, list[str]]:
    paths = [Path(item).as_posix() for item in inputs]
    if wrong := next((path for path in paths if not has_utf8(path)), None):
        raise DataError(f"{escaped(wrong)} cannot be read: {NOT_UTF8}.")
    lines = None if len(set(paths)) == len(paths) else np.arange(1, len(paths) + 1)
    return FileSamples(Path(), strings(paths), modality, rows, lines), [paths[row] for row in rows]


def _label(value: object) -> str | None:
    """The class name of a label, spelled as in tables; None when it is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
