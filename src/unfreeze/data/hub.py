"""A data set of the Hugging Face hub, read as one table whose split column names its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from unfreeze.data.parquet import SPLIT
from unfreeze.data.rows import PART_NAMES, Columns, IgnoredLog, Rows
from unfreeze.data.table import table_rows
from unfreeze.data.tables import HEAD_ROWS, Read, Table, hub_class_names, is_bytes_type
from unfreeze.errors import DataError, missing_extra

HUB_PREFIX = "hub:"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_hub_id(source: str) -> bool:
    """Whether a name can only mean a data set of the hub: ``OWNER/NAME``, or anything after ``hub:``."""
    return source.startswith(HUB_PREFIX) or HUB_ID.fullmatch(source) is not None


def read_hub(source: str, columns: Columns) -> Rows:
    """The rows of a hub data set. Raises DataError without the extra ``hub`` or when it cannot be had."""
    name = source.removeprefix(HUB_PREFIX)
    try:
        import datasets
    except ImportError:
        # A folder that was mistyped looks just like an id.
        absent = "" if source.startswith(HUB_PREFIX) else f"{source} does not exist here. "
        raise DataError(absent + str(missing_extra("hub", f"The hub data set '{name}'"))) from None
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # the library raises its own, requests' and OS errors alike
        text = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"{source} does not exist here and is no data set that the hub can give: {text}."
        ) from None
    return table_rows(
        _as_table(name, {split: part.data.table for split, part in splits.items()}), columns, source=source
    )


def _as_table(name: str, tables: Mapping[str, Any]) -> Table:
    known = {split: table for split, table in tables.items() if split.lower() in PART_NAMES}
    if not known:
        raise DataError(
            f"The hub data set '{name}' has no train, validation or test part: {', '.join(tables)}."
        )
    dropped = {split: table for split, table in tables.items() if split not in known}
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

    def read(columns: Sequence[str], log: IgnoredLog) -> Read:
        for split, table in dropped.items():
            log.add_many(f"in the part '{split}', which is neither train, validation nor test", len(table))
        return Read(whole.select(list(columns)), np.arange(1, len(whole) + 1))

    class_names = hub_class_names(next(iter(known.values())).schema.metadata)
    return Table(name=name, folder=None, head=head, read=read, class_names=class_names)
