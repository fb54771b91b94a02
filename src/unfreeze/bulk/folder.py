"""The folder of predictions in pieces, here or behind a URL: what it was made of, and which pieces are whole.

``predictions/part-N.parquet`` holds the good rows of piece N, ``bad/part-N.parquet`` name and reason of the others,
where there are any. The bad ones are written first: a piece is done when its predictions have their name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.regular import open_file
from unfreeze.runtime.files import parse_json, remove_torn, write_atomically
from unfreeze.runtime.predictions import FORMATS, Prediction, parquet_schema
from unfreeze.runtime.remote import AT_ONCE, is_remote, name_of, scrubbed
from unfreeze.runtime.uploads import Objects, check_writable

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


class Folder(Protocol):
    """Files by their names in a folder. A file that is written is there as a whole or not at all."""

    def names(self) -> set[str]:
        """All files that are whole."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of one of that name."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """The file to read."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine, or of a file system that all machines of a cluster see."""

    path: Path

    def names(self) -> set[str]:
        """All files but hidden ones, which are locks and files that are not whole."""
        files = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return {file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts)}

    def write(self, name: str, content: bytes) -> None:
        """Write a file, durable before it has its name."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """The file to read."""
        return open_file(self.path / name)


def check_output(output: str | None) -> str:
    """The folder or URL to write to.

    Raises RequestError when none is named, when it is a file, or a URL that cannot be written.
    """
    if output is None:
        raise RequestError("--engine ray writes many files: name a folder for them with --output.")
    remote = is_remote(output)
    if (not remote and Path(output).is_file()) or Path(name_of(output)).suffix.lower() in FORMATS:
        raise RequestError(
            f"--output {scrubbed(output)} names one file, and --engine ray writes many: name a folder for them."
        )
    if remote:
        check_writable(output)
    return output if remote else str(Path(output).absolute())


def folder_of(output: str) -> Folder:
    """The folder at a path or URL."""
    return Objects(output) if is_remote(output) else LocalFolder(Path(output))


def open_folder(output: str, manifest: Mapping[str, object]) -> Folder:
    """Begin a folder, which is locked, or take up one that the same command began.

    Raises RequestError when it holds anything else, or predictions that were made of something else.
    """
    folder, shown = folder_of(output), scrubbed(output)
    if not is_remote(output):
        remove_torn(Path(output))
    wanted = {"version": VERSION} | dict(manifest)
    names = folder.names()
    if MANIFEST in names:
        _compare(shown, _read(folder, shown), wanted)
    else:
        if names:
            raise RequestError(
                f"--output {shown} is not empty and holds no predictions of --engine ray: choose another folder."
            )
        folder.write(MANIFEST, (json.dumps(wanted, indent=2) + "\n").encode())
    return folder


def write_piece(folder: Folder, number: int, predictions: Iterable[Prediction], *, top_k: int) -> Written:
    """Write the rows of a piece, good and bad apart, each file under its name only when it is whole."""
    import pyarrow as pa

    good: list[dict[str, object]] = []
    bad: list[dict[str, object]] = []
    for row in predictions:
        if row.error is None:
            good.append(row.to_row(top_k))
        else:
            bad.append({"input": row.input, "reason": row.error})
    beside = part_name(BAD, number)
    if bad:
        schema = pa.schema([("input", pa.string()), ("reason", pa.string())])
        folder.write(beside, _parquet(pa.Table.from_pylist(bad, schema=schema)))
    else:
        # Left by a worker that died before its predictions had their name, when the input was still bad.
        folder.remove(beside)
    folder.write(part_name(GOOD, number), _parquet(pa.Table.from_pylist(good, schema=parquet_schema(top_k))))
    return Written(len(good), len(bad))


def pieces_done(folder: Folder) -> frozenset[int]:
    """The numbers of the pieces that are whole."""
    names = folder.names()
    return frozenset(number for number in map(_number, names) if number is not None)


def written(folder: Folder) -> Written:
    """How many rows all files hold."""
    names = folder.names()
    # A store takes its time for each, and is asked for many at once.
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="unfreeze-count") as pool:
        return Written(
            *(
                sum(pool.map(partial(_rows, folder), [name for name in names if name.startswith(f"{kind}/")]))
                for kind in (GOOD, BAD)
            )
        )


def part_name(kind: str, number: int) -> str:
    """The name of a file of a piece."""
    return f"{kind}/part-{number:06}.parquet"


def _number(name: str) -> int | None:
    """The number of the piece whose predictions a file holds."""
    found = re.fullmatch(rf"{GOOD}/part-(\d+)\.parquet", name)
    return int(found[1]) if found else None


def _rows(folder: Folder, name: str) -> int:
    from pyarrow import parquet

    with folder.open(name) as file:
        return int(parquet.read_metadata(file).num_rows)


def _parquet(table: Any) -> bytes:
    from pyarrow import parquet

    content = BytesIO()
    parquet.write_table(table, content)
    return content.getvalue()


def _read(folder: Folder, shown: str) -> Mapping[str, object]:
    try:
        with folder.open(MANIFEST) as file:
            found = parse_json(file.read().decode())
    except (OSError, ValueError, UnfreezeError):
        found = None
    if not isinstance(found, dict):
        raise RequestError(
            f"{shown}/{MANIFEST} cannot be read: choose another --output, or remove that folder."
        )
    return found


def _compare(shown: str, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise RequestError(
                f"--output {shown} holds predictions of {NAMED[name]}. Repeat the command that began it, or choose "
                "another folder."
            )
