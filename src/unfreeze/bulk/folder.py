"""The folder of predictions in pieces: what it was made of, and which pieces are whole.

``predictions/part-N.parquet`` holds the good rows of piece N, ``bad/part-N.parquet`` name and reason of the others,
where there are any. The bad ones are written first: a piece is done when its predictions have their name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from unfreeze.errors import RequestError
from unfreeze.runtime.files import parse_json, remove_torn, write_atomically
from unfreeze.runtime.predictions import FORMATS, Prediction, parquet_schema

MANIFEST, GOOD, BAD = "manifest.json", "predictions", "bad"
VERSION = 1
# Fields of the manifest, and what a person calls them.
NAMED = {
    "run": "another run",
    "inputs": "other inputs, or inputs that were changed since",
    "column": "another --column",
    "top_k": "another --top-k",
    "piece_rows": "another --piece-rows",
    "version": "another version of Unfreeze",
}


@dataclass(frozen=True)
class Written:
    """How many rows a piece came to: ``good`` ones with a label, ``bad`` ones with a reason."""

    good: int
    bad: int


def check_folder(folder: Path | None) -> Path:
    """The folder to write to; raises RequestError when none is named, or a file."""
    if folder is None:
        raise RequestError("--engine ray writes many files: name a folder for them with --output.")
    if folder.is_file() or folder.suffix.lower() in FORMATS:
        raise RequestError(
            f"--output {folder} names one file, and --engine ray writes many: name a folder for them."
        )
    return folder


def open_folder(folder: Path, manifest: Mapping[str, object]) -> None:
    """Begin a folder, which is locked, or take up one that the same command began.

    Raises RequestError when it holds anything else, or predictions that were made of something else.
    """
    path = folder / MANIFEST
    remove_torn(folder)
    wanted = {"version": VERSION} | dict(manifest)
    if path.exists():
        _compare(folder, _read(path), wanted)
    else:
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise RequestError(
                f"--output {folder} is not empty and holds no predictions of --engine ray: choose another folder."
            )
        write_atomically(path, json.dumps(wanted, indent=2) + "\n")
    for name in (GOOD, BAD):
        (folder / name).mkdir(exist_ok=True)


def is_done(folder: Path, number: int) -> bool:
    """Whether a piece is whole."""
    return (folder / GOOD / part_name(number)).is_file()


def write_piece(folder: Path, number: int, predictions: Iterable[Prediction], *, top_k: int) -> Written:
    """Write the rows of a piece, good and bad apart, each file under its name only when it is whole."""
    import pyarrow as pa

    good: list[dict[str, object]] = []
    bad: list[dict[str, object]] = []
    for row in predictions:
        if row.error is None:
            good.append(row.to_row(top_k))
        else:
            bad.append({"input": row.input, "reason": row.error})
    beside = folder / BAD / part_name(number)
    if bad:
        schema = pa.schema([("input", pa.string()), ("reason", pa.string())])
        _write(pa.Table.from_pylist(bad, schema=schema), beside)
    else:
        # Left by a worker that died before its predictions had their name, when the input was still bad.
        beside.unlink(missing_ok=True)
    _write(pa.Table.from_pylist(good, schema=parquet_schema(top_k)), folder / GOOD / part_name(number))
    return Written(len(good), len(bad))


def written(folder: Path, number: int) -> Written:
    """How many rows the files of a piece hold."""
    return Written(*(_rows(folder / name / part_name(number)) for name in (GOOD, BAD)))


def part_name(number: int) -> str:
    """The name of the files of a piece."""
    return f"part-{number:06}.parquet"


def _rows(path: Path) -> int:
    from pyarrow import parquet

    return int(parquet.read_metadata(path).num_rows) if path.exists() else 0


def _write(table: Any, path: Path) -> None:
    from pyarrow import parquet

    content = BytesIO()
    parquet.write_table(table, content)
    write_atomically(path, content.getvalue())


def _read(path: Path) -> Mapping[str, object]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise RequestError(f"{path} cannot be read: choose another --output, or remove that folder.")
    return found


def _compare(folder: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise RequestError(
                f"--output {folder} holds predictions of {NAMED[name]}. Repeat the command that began it, or choose "
                "another folder."
            )
