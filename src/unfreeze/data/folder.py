"""A folder of class folders, or a folder of parts (train, val, test) that hold class folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unfreeze.data.dataset import PARTS, Inference, Modality, Part
from unfreeze.data.rows import (
    IMAGE_SUFFIXES,
    NOT_GIVEN,
    PART_NAMES,
    TEXT_SUFFIXES,
    Columns,
    IgnoredLog,
    Rows,
    escaped,
    listed,
    no_input,
    suffix_of,
)
from unfreeze.data.samples import FileSamples, strings
from unfreeze.data.tables import TABLE_SUFFIXES
from unfreeze.data.walking import Walker, is_folder, joined, unreadable
from unfreeze.errors import DataError, RequestError


@dataclass(frozen=True, eq=False)
class _ClassFolder:
    """The files below one class folder of one part: string arrays of paths relative to the root, by kind."""

    part: Part | None
    name: str
    files: dict[Modality, Any]


def read_folder(root: Path, columns: Columns) -> Rows:
    """The rows of a folder. Raises RequestError or DataError when it is no data set."""
    if columns.flags():
        flag, value = next(iter(columns.flags().items()))
        raise RequestError(
            f"{flag} {value} names a column, but {root} is a folder, whose labels are its class folders: "
            "leave the flag out, or give a table."
        )
    log = IgnoredLog()
    walker = Walker(root, log)
    try:
        top = list(walker.entries(""))
        folders = _part_folders(root, top, walker)
        classes = _class_folders(folders or {None: ""}, top, walker, root)
        modality, reason = _modality(classes, root)
    except OSError as error:
        raise unreadable(error) from None
    except DataError as problem:
        if walker.leading_out:
            more = f"Links that lead out of it, such as {walker.leading_out[0]}, are not followed: put copies there."
        elif walker.unnamed:
            more = (
                f"Names that are not UTF-8, such as {escaped(walker.unnamed[0])}, are left out: rename them."
            )
        else:
            raise
        raise DataError(f"{problem} {more}") from None
    return _rows(root, classes, modality, reason, log)


def _part_folders(root: Path, top: list[os.DirEntry[str]], walker: Walker) -> dict[Part | None, str] | None:
    """Folder by part when the root is laid out by parts, else None."""
    named: dict[Part, list[str]] = {}
    others = []
    for entry in top:
        if not is_folder(entry):
            continue
        part = PART_NAMES.get(entry.name.lower())
        if part is None:
            others.append(entry.name)
        else:
            named.setdefault(part, []).append(entry.name)
    # A class may be called "train": parts are meant when nothing else is there or a second part is beside it.
    if "train" not in named or (others and len(named) == 1):
        return None
    if not any(is_folder(entry) for entry in walker.entries(named["train"][0])):
        return None
    for part, names in named.items():
        if len(names) > 1:
            raise DataError(
                f"{root} has {len(names)} folders for the part '{part}' ({listed(names)}): keep one of them."
            )
    for name in others:
        walker.log.add(name, "beside the parts, not one of them")
    return {part: named[part][0] for part in PARTS if part in named}


def _class_folders(
    parts: dict[Part | None, str], top: list[os.DirEntry[str]], walker: Walker, root: Path
) -> list[_ClassFolder]:
    if None not in parts:
        for entry in top:
            if not is_folder(entry):
                walker.log.add(entry.name, "not inside a part")
    found: dict[str, tuple[Part | None, str]] = {}
    for part, folder in parts.items():
        entries = list(walker.entries(folder)) if folder else top
        if part in ("val", "test") and not any(is_folder(entry) for entry in entries):
            walker.log.add(folder, "has no class folders")
            continue
        for entry in entries:
            path = joined(folder, entry.name)
            if is_folder(entry):
                found[path] = part, entry.name
            else:
                walker.log.add(path, "not inside a class folder")
    if not found:
        _raise_no_classes(root, top)
    files = _sorted_by_kind(list(found), walker)
    return [
        _ClassFolder(part, name, {kind: strings(paths) for kind, paths in files[path].items()})
        for path, (part, name) in found.items()
        if path not in walker.repeated
    ]


def _sorted_by_kind(folders: list[str], walker: Walker) -> dict[str, dict[Modality, list[str]]]:
    """The paths of the images and the texts below each folder."""
    files: dict[str, dict[Modality, list[str]]] = {folder: {"image": [], "text": []} for folder in folders}
    for folder, path in walker.files(folders):
        suffix = suffix_of(path)
        if suffix in IMAGE_SUFFIXES:
            files[folder]["image"].append(path)
        elif suffix in TEXT_SUFFIXES:
            files[folder]["text"].append(path)
        else:
            walker.log.add(path, no_input(suffix))
    return files


def _raise_no_classes(root: Path, top: list[os.DirEntry[str]]) -> None:
    tables = [entry.name for entry in top if suffix_of(entry.name) in TABLE_SUFFIXES]
    if tables:
        raise DataError(
            f"{root} has no class folders but {len(tables)} table(s): name one, such as {root / tables[0]}."
        )
    if not top:
        raise DataError(f"{root} is empty. Put the files of each class into a folder of its own inside it.")
    raise DataError(
        f"{root} has no class folders, only {len(top)} loose file(s) such as '{top[0].name}'. "
        "Put the files of each class into a folder of its own."
    )


def _modality(classes: list[_ClassFolder], root: Path) -> tuple[Modality, str]:
    images = sum(len(folder.files["image"]) for folder in classes)
    texts = sum(len(folder.files["text"]) for folder in classes)
    if images + texts == 0:
        names = listed(sorted({folder.name for folder in classes}))
        raise DataError(
            f"{root} has no image or .txt file in its folders {names}. "
            "Each class needs files in a folder of its own."
        )
    return ("image" if images >= texts else "text"), f"{images:,} image files and {texts:,} text files"


def _rows(root: Path, classes: list[_ClassFolder], modality: Modality, reason: str, log: IgnoredLog) -> Rows:
    other: Modality = "text" if modality == "image" else "image"
    names: dict[str, int] = {}
    kept: list[tuple[_ClassFolder, Any]] = []
    for folder in classes:
        for path in folder.files[other]:
            log.add(path.as_py(), f"not {'an image' if modality == 'image' else 'a text'} file")
        paths = folder.files[modality]
        if modality == "text":
            paths = _without_empty(root, paths, log)
        if len(paths) == 0:
            log.add(_label(folder), f"a folder without {modality} files")
            continue
        names.setdefault(folder.name, len(names))
        kept.append((folder, paths))
    lengths = [len(paths) for _, paths in kept]
    codes = np.array([names[folder.name] for folder, _ in kept], dtype=np.int32)
    parts = np.array(
        [NOT_GIVEN if folder.part is None else PARTS.index(folder.part) for folder, _ in kept], dtype=np.int8
    )
    paths = pa.concat_arrays([paths for _, paths in kept]) if kept else strings([])
    by_part = any(folder.part is not None for folder in classes)
    layout = "class folders inside part folders" if by_part else "class folders"
    return Rows(
        source=str(root),
        modality=modality,
        samples=FileSamples(root, paths, modality, np.arange(len(paths), dtype=np.intp)),
        names=tuple(names),
        code=np.repeat(codes, lengths),
        part=np.repeat(parts, lengths),
        identity=paths,
        ignored=log.entries(),
        inferred=(
            Inference("layout", layout, f"{len(classes)} folders with {reason}"),
            Inference("modality", modality, reason),
        ),
    )


def _without_empty(root: Path, paths: Any, log: IgnoredLog) -> Any:
    kept = []
    for path in paths.to_pylist():
        try:
            empty = (root / path).stat().st_size == 0
        except OSError as error:
            log.add(path, f"cannot be read: {error.strerror}")
            continue
        if empty:
            log.add(path, "an empty text")
        else:
            kept.append(path)
    return strings(kept)


def _label(folder: _ClassFolder) -> str:
    return folder.name if folder.part is None else f"{folder.part}/{folder.name}"
