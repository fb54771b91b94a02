"""The two domains as data: the source again as the run was trained on it, and the target without its labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unfreeze.adapting.asking import as_asked
from unfreeze.adapting.request import AdaptRequest
from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.loading import Loaded
from unfreeze.data.columns import content_column
from unfreeze.data.dataset import Dataset, Modality, Samples
from unfreeze.data.inputs import open_inputs, unlabelled
from unfreeze.data.load import load_whole
from unfreeze.data.remote import open_listed, visible
from unfreeze.data.samples import join_samples
from unfreeze.data.shards import is_shard_pattern, is_shards, open_shards
from unfreeze.data.tables import TABLE_SUFFIXES, Table, open_table
from unfreeze.errors import RequestError, did_you_mean
from unfreeze.regular import names_anything, names_file, names_folder
from unfreeze.runtime.remote import is_remote, list_files, scrubbed

# More different values of an order than this are joined to so many steps of equal size.
MOST_STEPS = 20
STEPS = 10


@dataclass(frozen=True, eq=False)
class Target:
    """Rows of the new domain: a data set whose rows have no label. ``order`` (rows,): their steps, or None."""

    dataset: Dataset
    order: NDArray[np.intp] | None


def open_target(request: AdaptRequest, loaded: Loaded) -> Target:
    """The target's rows: inputs only, whatever columns or folders might tell of their classes.

    Raises RequestError for a target that is empty, of the other modality, or without the column that orders it.
    """
    classifier = loaded.classifier
    modality = classifier.backbone.modality
    opened = [_open(name, modality, request.column) for name in request.target]
    samples = opened[0] if len(opened) == 1 else join_samples(tuple(opened), ("",) * len(opened))
    order = None
    if len(opened) > 1:
        order = np.repeat(np.arange(len(opened)), [len(one) for one in opened])
    elif request.order_column is not None:
        order = _steps(request.target[0], request.order_column, len(samples))
    return Target(unlabelled(samples, modality=modality, labels=classifier.labels), order)


def _open(name: str, modality: Modality, column: str | None) -> Samples:
    if name == "-":
        raise RequestError("--target reads no lines: give a folder, files or a table.")
    return open_inputs([name], modality=modality, lines=None, column=column)


def _steps(name: str, column: str, rows: int) -> NDArray[np.intp]:
    """The step of each row of a table, by the order of the column's values."""
    table = _table_of(name)
    if table is None:
        raise RequestError(f"--order-column needs a table as --target, and {scrubbed(name)} is none.")
    known = table.head.schema.names
    if column not in known:
        raise RequestError(
            f"{scrubbed(name)} has no column {column!r}: it has {', '.join(known)}.{did_you_mean(column, known)}"
        )
    values = table.read([column]).table.column(column)
    if len(values) != rows or values.null_count:
        raise RequestError(
            f"{scrubbed(name)}: the column {column!r} orders only some of the rows. Fill it, or leave it out."
        )
    ranks = np.asarray(pc.rank(_ordered(values), tiebreaker="dense").to_numpy(zero_copy_only=False)) - 1
    if ranks.max() < MOST_STEPS:
        return ranks.astype(np.intp)
    places = np.empty(rows, dtype=np.intp)
    places[np.argsort(ranks, kind="stable")] = np.arange(rows) * STEPS // rows
    return places


def _ordered(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values as numbers where all of them are numbers: as text, 10 would stand before 9."""
    try:
        return pc.cast(values, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return values


def _table_of(name: str) -> Table | None:
    """The table of a file or of shards, on this disk or behind a URL; None for files and folders of them."""
    if is_remote(name):
        return open_listed(visible(list_files(name)))
    path = Path(name)
    if names_folder(path):
        return open_shards(path) if is_shards(path) else None
    if is_shard_pattern(name) and not names_anything(path):
        return open_shards(name)
    return open_table(path) if path.suffix.lower() in TABLE_SUFFIXES and names_file(path) else None


def open_truth(request: AdaptRequest, classifier: Classifier) -> Dataset:
    """The one target with its own labels, which nothing but scores may rest on.

    Raises RequestError or DataError where they cannot be read, or name a class that the classifier does not know.
    """
    (name,) = request.target
    return _open_labelled(name, _table_of(name), request.column, request, classifier)


def open_labels(name: str, request: AdaptRequest, classifier: Classifier) -> Dataset:
    """The few labelled rows of the target.

    Raises RequestError or DataError for what the run cannot have seen.
    """
    column, modality = request.column, classifier.backbone.modality
    table = _table_of(name)
    if table is not None and column not in table.head.column_names:
        # A table that adapt wrote to be labelled has columns of its own, whatever those of the target are.
        column = None
    dataset = _open_labelled(name, table, column, request, classifier)
    if dataset.modality != modality:
        raise RequestError(
            f"--target-labels {scrubbed(name)} holds {dataset.modality}s, and the run reads {modality}s."
        )
    return dataset if table is None else as_asked(dataset, table.head.column_names)


def _open_labelled(
    name: str, table: Table | None, column: str | None, request: AdaptRequest, classifier: Classifier
) -> Dataset:
    """Rows with labels, in a ``table`` where they are one."""
    modality, label = classifier.backbone.modality, request.label_column
    if table is not None:
        column = content_column(table, modality=modality, asked=column, label=label)
    elif is_remote(name) or names_folder(Path(name)):
        column = None
    return load_whole(
        name,
        text_column=column if modality == "text" else None,
        image_column=column if modality == "image" else None,
        label_column=label,
        labels=classifier.labels,
    )
