"""Rows of predictions: the record, and the files they are written to."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from unfreeze.errors import RequestError
from unfreeze.runtime.files import own_temporary, remove_abandoned, sync_file, sync_folder
from unfreeze.runtime.remote import is_remote, name_of, scrubbed
from unfreeze.runtime.uploads import check_writable, upload_file

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
# Rows of a Parquet file that are in memory at the same time.
PARQUET_ROWS = 10_000
# A spreadsheet reads a cell that begins with one of these as a formula; a leading apostrophe makes it text.
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Prediction:
    """The answer for one input.

    ``label`` is the most probable class and ``probability`` its calibrated probability; both are None when the input
    could not be read, and ``error`` says why. ``abstain`` is true below the run's threshold. ``top`` holds the most
    probable classes in falling order.
    """

    input: str
    label: str | None
    probability: float | None
    abstain: bool
    error: str | None
    top: tuple[tuple[str, float], ...]

    @classmethod
    def of(
        cls,
        name: str,
        probabilities: NDArray[np.floating],
        labels: tuple[str, ...],
        *,
        threshold: float | None,
        top_k: int,
    ) -> Prediction:
        """The answer that calibrated probabilities (classes,) of an input come to; below ``threshold`` it abstains."""
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        top = tuple((labels[index], float(probabilities[index])) for index in order)
        label, best = top[0]
        return cls(name, label, best, threshold is not None and best < threshold, None, top)

    @classmethod
    def unread(cls, name: str, reason: str) -> Prediction:
        """The row of an input that could not be read."""
        return cls(name, None, None, False, reason, ())

    def to_row(self, top_k: int) -> dict[str, object]:
        """One flat row; the columns depend on ``top_k`` only."""
        row: dict[str, object] = {
            "input": self.input,
            "label": self.label,
            "probability": self.probability,
            "abstain": self.abstain,
            "error": self.error,
        }
        if top_k > 1:
            for rank in range(top_k):
                name, probability = self.top[rank] if rank < len(self.top) else (None, None)
                row[f"top{rank + 1}_label"] = name
                row[f"top{rank + 1}_probability"] = probability
        return row


def write_predictions(predictions: Iterable[Prediction], output: str | Path, *, top_k: int) -> int:
    """Write rows to a CSV, TSV, JSONL or Parquet file as they come; returns how many.

    A file is there when all of its rows are in it; ``output`` may be a URL, which is written then. Raises RequestError
    for another ending or an unwritable place, UnfreezeError when a store refuses the file, OSError when a disk fails.
    """
    check_output(output)
    if not is_remote(output):
        return _write(predictions, Path(output), top_k=top_k)
    with TemporaryDirectory(prefix="unfreeze-") as folder:
        file = Path(folder) / name_of(output)
        count = _write(predictions, file, top_k=top_k)
        upload_file(file, output)
    return count


def _write(predictions: Iterable[Prediction], path: Path, *, top_k: int) -> int:
    rows = (prediction.to_row(top_k) for prediction in predictions)
    columns = columns_of(top_k)
    # Another process may write to the same place: each has a file of its own, and one of them stays.
    temporary = own_temporary(path.parent, path.name)
    remove_abandoned(path.parent.glob(f".{escape(path.name)}.*.tmp"))
    try:
        count = (
            _write_parquet(rows, temporary, top_k)
            if path.suffix.lower() == ".parquet"
            else _write_text(rows, temporary, path, columns)
        )
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return count


def columns_of(top_k: int) -> list[str]:
    """The columns of a file of predictions, in their order."""
    return list(Prediction("", None, None, False, None, ()).to_row(top_k))


def parquet_schema(top_k: int) -> Any:
    """The Arrow schema of a Parquet file of predictions."""
    import pyarrow as pa

    def kind(name: str) -> pa.DataType:
        if name.endswith("probability"):
            return pa.float64()
        return pa.bool_() if name == "abstain" else pa.string()

    return pa.schema([(name, kind(name)) for name in columns_of(top_k)])


def check_output(output: str | Path) -> None:
    """Raise RequestError when predictions cannot be written to ``output``."""
    path = Path(name_of(output) if is_remote(output) else output)
    if path.suffix.lower() not in FORMATS:
        raise RequestError(
            f"--output {scrubbed(str(output))} has an unknown ending: use one of {', '.join(FORMATS)}."
        )
    if is_remote(output):
        check_writable(output)
        return
    if not path.parent.is_dir():
        raise RequestError(f"--output {path}: the folder {path.parent} does not exist.")
    if path.is_dir():
        raise RequestError(f"--output {path} is a folder: name a file.")
    if not os.access(path.parent, os.W_OK):
        raise RequestError(f"--output {path}: the folder {path.parent} cannot be written.")


def write_rows(
    rows: Iterable[dict[str, object]],
    file: TextIO,
    *,
    delimiter: str = ",",
    columns: Sequence[str] | None = None,
) -> int:
    """Write rows with equal keys as CSV; returns how many. Cells that look like formulas are defused.

    ``columns`` are the header; by default the keys of the first row, and nothing is written without one.
    """
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    # Before Python 3.13 the module leaves a lone carriage return bare, and readers take it for the row's end.
    quoted = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    if columns is not None:
        writer.writerow(columns)
    count = 0
    for row in rows:
        if count == 0 and columns is None:
            writer.writerow(row)
        cells = [_cell(value) for value in row.values()]
        (quoted if any("\r" in str(cell) for cell in cells) else writer).writerow(cells)
        count += 1
    return count


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return "true" if value else "false"
    # Behind apostrophes too, so that whoever takes one off has what was given.
    if isinstance(value, str) and value.lstrip("'").startswith(FORMULAS) and not _is_number(value):
        return "'" + value
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write_text(
    rows: Iterator[dict[str, object]], temporary: Path, path: Path, columns: Sequence[str]
) -> int:
    ending = path.suffix.lower()
    with temporary.open("x", encoding="utf-8", newline="") as file:
        if ending == ".jsonl":
            count = 0
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
            return count
        return write_rows(rows, file, delimiter="\t" if ending == ".tsv" else ",", columns=columns)


def _write_parquet(rows: Iterator[dict[str, object]], temporary: Path, top_k: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = parquet_schema(top_k)
    count = 0
    with temporary.open("xb") as file, pq.ParquetWriter(file, schema) as writer:
        while chunk := list(islice(rows, PARQUET_ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    return count
