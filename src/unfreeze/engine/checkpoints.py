"""Checkpoints: written beside, made durable, then named; the newest one that verifies is taken.

A checkpoint is a folder with ``tensors.safetensors`` and, written last, ``manifest.json`` with the hash of the
tensors and one of its own. Nothing is unpickled, and a folder without a matching manifest is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.regular import read_record
from unfreeze.runtime.files import file_hash, parse_json, sync_folder, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"
BEGUN = "identity.json"
KEPT = 2
# Entries of an identity. Rates may be others after a loss that was no number.
RATES = ("--lr", "--layer-decay")
# The rows with their labels and parts, and what each of them holds.
DATA = ("data", "contents of the data")
# What is said of how data are read and split: the same data can be named in two ways, so that these are no difference
# by themselves, and they explain one.
SAID_OF_DATA = (
    "--train-size", "--val", "--test", "--text-column", "--image-column", "--label-column", "--group-column",
    "--stratify-column",
)  # fmt: skip


@dataclass(frozen=True)
class Position:
    """Where training stands: the next step to run is ``step`` of ``epoch`` of ``phase`` (all counted from 0).

    ``done`` counts optimizer steps of this phase.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    done: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: where it stands, its tensors, the numbers that go with them, and its folder when it was read."""

    position: Position
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


class Checkpoints:
    """The checkpoints of one run, in one folder.

    ``identity`` says what the run is made of (data, backbone, plan, ...); a checkpoint of another identity is
    refused by name of the entry that differs (see ``check_same``). After a loss that was no number ``RATES`` may be
    others.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self._folder = folder
        self._identity = dict(identity)

    @property
    def identity(self) -> dict[str, str]:
        """What the run is made of."""
        return dict(self._identity)

    def begin(self) -> None:
        """Forget what another training left here, and note whose folder it is from now on.

        Raises UnfreezeError when it cannot be written.
        """
        self.clear()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / BEGUN, json.dumps(self._identity))
        except OSError as problem:
            raise UnfreezeError(
                f"{self._folder} could not be written ({problem.strerror or problem}). Free some space and continue "
                "with --resume."
            ) from None

    def save(self, checkpoint: Checkpoint, *, diverged: bool = False) -> None:
        """Write a checkpoint; the one before stays until this one is whole.

        ``diverged``: with these rates a loss was no number.

        Raises UnfreezeError when it cannot be written, on a full disk for one.
        """
        from safetensors.torch import save

        place = checkpoint.position
        name = f"{place.phase:02d}-{place.epoch:04d}-{place.step:06d}"
        partial = self._folder / f".{name}.{os.getpid()}.partial"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in checkpoint.tensors.items()}
            write_atomically(partial / TENSORS, save(tensors))
            manifest = {
                "identity": self._identity,
                "position": asdict(place),
                "numbers": dict(checkpoint.numbers),
                "diverged": diverged,
                "hash": file_hash(partial / TENSORS),
            }
            write_atomically(partial / MANIFEST, json.dumps(manifest | {"seal": _seal(manifest)}))
            target = self._folder / name
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            sync_folder(self._folder)
        except OSError as problem:
            shutil.rmtree(partial, ignore_errors=True)
            raise UnfreezeError(
                f"The checkpoint in {self._folder} could not be written ({problem.strerror or problem}). "
                "The one before it is whole: free some space and continue with --resume."
            ) from None
        self._drop_old(keep=name)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, or None.

        Raises RequestError when the folder is another run's, or the checkpoint not one that this version writes.
        """
        for folder in sorted(self._whole_folders(), reverse=True):
            manifest = self._manifest(folder)
            if manifest is None or file_hash(folder / TENSORS) != manifest["hash"]:
                continue
            if manifest.pop("seal") != _seal(manifest):
                continue
            if not isinstance(manifest["identity"], dict):
                raise damaged(folder, "it does not say whose it is")
            self._check_identity(manifest["identity"], but=RATES if manifest["diverged"] else ())
            return _read(folder, manifest)
        with suppress(OSError, ValueError):
            begun = parse_json(read_record(self._folder / BEGUN))
            if isinstance(begun, dict):
                self._check_identity(begun, but=())
        return None

    def clear(self) -> None:
        """Remove all checkpoints of a run that is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _whole_folders(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [path for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith(".")]

    def _manifest(self, folder: Path) -> dict[str, Any] | None:
        try:
            values = parse_json(read_record(folder / MANIFEST))
        except (OSError, ValueError):
            return None
        wanted = {"identity", "position", "numbers", "diverged", "hash", "seal"}
        whole = isinstance(values, dict) and wanted == values.keys() and (folder / TENSORS).is_file()
        return values if whole else None

    def _check_identity(self, found: Mapping[str, str], *, but: Collection[str]) -> None:
        check_same(found, self._identity, what="the checkpoint was made", but=but)

    def _drop_old(self, *, keep: str) -> None:
        """Keep ``keep`` and the one before it; a later one would be taken for newer than a training that went back."""
        names = sorted(path.name for path in self._whole_folders())
        kept = [name for name in names if name <= keep][-KEPT:]
        for name in names:
            if name not in kept:
                shutil.rmtree(self._folder / name, ignore_errors=True)
        for path in self._folder.glob(".*.partial"):
            shutil.rmtree(path, ignore_errors=True)


def check_same(
    before: Mapping[str, object], now: Mapping[str, str], *, what: str, but: Collection[str] = ()
) -> None:
    """Raise RequestError that names the first entry of an identity that differs from ``before``, unless in ``but``.

    An entry that an option sets has the option's name, and its values are told. ``what``: what begins the sentence.
    """
    for name, value in now.items():
        if name in but or name in SAID_OF_DATA or before.get(name) == value:
            continue
        if name not in before:
            raise RequestError(
                f"--resume: another version of the program began this: it does not say which {name} {what} with. "
                "Begin anew with another --output-dir."
            )
        options = SAID_OF_DATA if name in DATA else ()
        told = next((option for option in options if before.get(option) != now.get(option)), name)
        difference = f"other {told}"
        if told.startswith("--"):
            difference = f"another {told} ({before.get(told)}, now {now.get(told)})"
        raise RequestError(
            f"--resume: {what} with {difference}. Repeat the first command, or choose another --output-dir."
        )


def damaged(folder: Path | None, why: object) -> RequestError:
    """The error for a checkpoint that is whole and holds something else than this version writes."""
    return RequestError(
        f"--resume: the checkpoint {folder} is damaged or from another version ({str(why)[:160].rstrip('.')}). Remove "
        "that folder to go on from the one before it, or from the start where there is none."
    )


def _read(folder: Path, manifest: Mapping[str, Any]) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        position, numbers = Position(**manifest["position"]), manifest["numbers"]
        if any(isinstance(value, bool) or not isinstance(value, int) for value in asdict(position).values()):
            raise TypeError("its position is no whole number")
        if min(asdict(position).values()) < 0 or not isinstance(numbers, dict):
            raise ValueError("its position or its numbers are none")
        return Checkpoint(position, load_file(folder / TENSORS), numbers, folder)
    except (OSError, TypeError, ValueError, SafetensorError) as problem:
        raise damaged(folder, problem) from None


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
