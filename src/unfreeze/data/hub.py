"""A data set of the Hugging Face hub, read as one table whose split column names its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from unfreeze.data.dataset import Ignored, Inference
from unfreeze.data.links import Links
from unfreeze.data.parquet import SPLIT, open_parquet
from unfreeze.data.rows import PART_NAMES, Columns, Rows
from unfreeze.data.table import table_rows
from unfreeze.data.tables import HEAD_ROWS, Read, Table, hub_class_names, is_bytes_type
from unfreeze.errors import DataError, RequestError, missing_extra
from unfreeze.runtime.parts import in_parts
from unfreeze.runtime.remote import list_files

HUB_PREFIX = "hub:"
# A file as the library names it, with the revision that it has looked up.
HUB_FILE = re.compile(r"(hf://datasets/[^@]+@[^/]+)/(.+)")
# The library keeps the files that it fetched, and what it makes of them.
LIBRARY_COPIES = 2
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

T = TypeVar("T")


def is_hub_id(source: str) -> bool:
    """Whether a name can only mean a data set of the hub: ``OWNER/NAME``, or anything after ``hub:``."""
    return source.startswith(HUB_PREFIX) or HUB_ID.fullmatch(source) is not None


def read_hub(source: str, columns: Columns) -> Rows:
    """The rows of a hub data set. Raises DataError without the extra ``hub`` or when it cannot be had."""
    name = source.removeprefix(HUB_PREFIX)
    # Whoever reads it again later cannot take it for a folder that is gone.
    recorded = f"{HUB_PREFIX}{name}"
    try:
        import datasets
    except ImportError:
        # A folder that was mistyped looks just like an id.
        absent = "" if source.startswith(HUB_PREFIX) else f"{source} does not exist here. "
        raise DataError(absent + str(missing_extra("hub", f"The hub data set '{name}'"))) from None
    try:
        # What load_dataset does, with a look at the files before they are fetched.
        builder = datasets.load_dataset_builder(name)
        opened = _open_in_parts(name, builder)
        if opened is None:
            builder.download_and_prepare()
            splits = builder.as_dataset()
    except RequestError:
        raise
    except Exception as error:  # the library raises its own, requests' and OS errors alike
        text = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"{source} does not exist here and is no data set that the hub can give: {text}."
        ) from None
    if opened is not None:
        return table_rows(opened, columns, source=recorded)
    return table_rows(
        _as_table(name, {split: part.data.table for split, part in splits.items()}), columns, source=recorded
    )


def _open_in_parts(name: str, builder: Any) -> Table | None:
    """The opened table where the data set is Parquet files that may not lie on this disk as a whole.

    None for anything else, and for what the library has prepared already. Rows are those that it gives, in their
    order.
    """
    given = getattr(builder.config, "data_files", None)
    is_parquet = type(builder).__module__.startswith("datasets.packaged_modules.parquet")
    if not given or not is_parquet or Path(builder.cache_dir).exists():
        return None
    files = {str(split): [HUB_FILE.fullmatch(str(file)) for file in found] for split, found in given.items()}
    known = _known(name, files)
    matches = [match for found in known.values() for match in found]
    bases = {match[1] if match else None for match in matches}
    base = bases.pop()
    if base is None or bases:
        return None
    listing = list_files(base).only([match[2] for match in matches if match])
    found = in_parts(listing, copies=LIBRARY_COPIES)
    if found is None:
        return None
    places, why = found
    parts = [PART_NAMES[split.lower()] for split, files_of_it in known.items() for _ in files_of_it]
    table = open_parquet(list(places.values()), name=name, folder=Links(base=base), parts=parts)
    features = (getattr(builder.info, "features", None) or {}).items()
    class_names = {
        column: tuple(feature.names) for column, feature in features if type(feature).__name__ == "ClassLabel"
    }
    ignored = tuple(
        Ignored(f"{len(of_split)} files", _neither(split), len(of_split))
        for split, of_split in files.items()
        if split not in known
    )
    return replace(
        table,
        class_names=class_names or table.class_names,
        ignored=ignored,
        notes=(Inference("remote files", "read in parts", why),),
    )


def _known(name: str, splits: Mapping[str, T]) -> dict[str, T]:
    """The parts that are train, validation or test. Raises DataError when there is none."""
    known = {split: found for split, found in splits.items() if split.lower() in PART_NAMES}
    if not known:
        raise DataError(
            f"The hub data set '{name}' has no train, validation or test part: {', '.join(splits)}."
        )
    return known


def _neither(split: str) -> str:
    return f"in the part '{split}', which is neither train, validation nor test"


def _as_table(name: str, tables: Mapping[str, Any]) -> Table:
    known = _known(name, tables)
    dropped = {split: table for split, table in tables.items() if split not in known and len(table)}
    parts = []
    for split, table in known.items():
        if SPLIT in table.column_names:
            table = table.drop_columns([SPLIT])
        values = pa.array([split]).take(pa.array(np.zeros(len(table), dtype=np.int32)))
        parts.append(table.append_column(SPLIT, values))
    whole = pa.concat_tables(parts, promote_options="default")
    head = whole.slice(0, HEAD_ROWS)
    for position, field in enumerate(head.schema):
        if is_bytes_type(field.type):
            head = head.set_column(position, field.name, pa.nulls(len(head), type=field.type))

    def read(columns: Sequence[str]) -> Read:
        return Read(whole.select(list(columns)), np.arange(1, len(whole) + 1))

    class_names = hub_class_names(next(iter(known.values())).schema.metadata)
    ignored = tuple(
        Ignored(f"{len(table):,} rows", _neither(split), len(table)) for split, table in dropped.items()
    )
    return Table(name=name, folder=None, head=head, read=read, class_names=class_names, ignored=ignored)
