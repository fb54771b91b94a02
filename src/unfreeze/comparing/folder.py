"""The folder of a comparison: who may work in it, and what it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from unfreeze.bundle.claim import check_free
from unfreeze.config import RANGES, TrainRequest, flag, is_one_of, shown
from unfreeze.data.dataset import Dataset
from unfreeze.data.reading import content_hashes
from unfreeze.engine.threads import reading_threads
from unfreeze.errors import RequestError
from unfreeze.regular import read_record
from unfreeze.runtime.files import parse_json, remove_torn, write_atomically
from unfreeze.runtime.remote import scrubbed

RECORD = "compare.json"
CELLS, BACKBONES = "cells", "backbones"
RESULTS, PAGE = "results.json", "compare.html"
# Of the name of a setting in a sentence: a damaged record may hold any.
LONGEST = 40


def identity_of(base: TrainRequest, dataset: Dataset) -> dict[str, str]:
    """What all cells of a comparison share, by name: the data, down to the last byte, and every setting said.

    Strategies, seeds, sizes and backbones are no part of it: a comparison may be taken up with more of them. The parts
    of ``dataset`` are: it is read with the seed that the comparison began with.
    """
    digests, _ = content_hashes(dataset.samples, threads=reading_threads(None))
    contents = hashlib.sha256(digests.tobytes()).hexdigest()
    settings = {
        name: scrubbed(str(value)) if isinstance(value, int | float | str) else "data"
        for name, value in base.given().items()
        if name != "train_size"
    }
    return {"data": f"{dataset.fingerprint[:16]}-{contents[:16]}"} | settings


def first_seed(folder: Path) -> int | None:
    """The seed that the comparison in a folder began with; None in records from before it was kept.

    Raises RequestError where there is no comparison.
    """
    return _record_in(folder)[1]


def open_folder(folder: Path, identity: Mapping[str, str], *, seed: int, resume: bool) -> None:
    """Begin a comparison in a folder that is locked, or take up one that was made of the same.

    ``seed``: the one that the data of ``identity`` were read with.
    Raises RequestError when the folder is taken, holds no comparison to continue, or one of other data or settings:
    the first field that differs is named.
    """
    remove_torn(folder)
    if not resume:
        if (folder / RECORD).exists():
            raise RequestError(
                f"{folder} holds a comparison already. Continue it or add to it with --resume, or choose another "
                "--output-dir."
            )
        check_free(folder)
        record = {"identity": dict(identity), "seed": seed}
        write_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")
        return
    before, _ = _record_in(folder)
    for name in dict.fromkeys([*before, *identity]):
        if before.get(name) != identity.get(name):
            raise RequestError(_difference(folder, name, before.get(name), identity.get(name)))


def _record_in(folder: Path) -> tuple[dict[str, str], int | None]:
    """What the comparison in a folder was made of, and its first seed. Raises RequestError where there is none."""
    try:
        record = parse_json(read_record(folder / RECORD))
        found, seed = record["identity"], record.get("seed")
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise ValueError("no names and values")
        if seed is not None and not (is_one_of(seed, (int,)) and 0 <= seed <= RANGES["seed"][1]):
            raise ValueError("no seed")
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(
            f"--resume: {folder} holds no comparison. Leave --resume out to start one there."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(
            f"--resume: {folder} holds no comparison that can be read, since {RECORD} is damaged or from another "
            "version. Choose another --output-dir."
        ) from None
    return found, seed


def _difference(folder: Path, name: str, before: str | None, now: str | None) -> str:
    after = "Repeat the first command, or choose another --output-dir."
    if name == "data":
        return f"--resume: {folder} was made with other data: rows, labels, parts or contents differ. {after}"
    then, here = ("nothing" if value is None else shown(value) for value in (before, now))
    return (
        f"--resume: {folder} was made with another {flag(name)[:LONGEST]} (then {then}, now {here}). {after}"
    )
