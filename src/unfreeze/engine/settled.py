"""What measuring has decided in an earlier run of the same training: deciding again could end otherwise.

Two ways that take about as long are told apart by chance, and each ends in bits of its own. So the first run of a
training on a machine decides, and every later one, resumed or begun anew, does as it did.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from unfreeze.engine.devices import hardware_name
from unfreeze.regular import read_record
from unfreeze.runtime.files import parse_json, write_atomically

if TYPE_CHECKING:
    import torch

Choice = TypeVar("Choice", bound=str)


class Settled:
    """Decisions by name, kept in a file; without a ``path`` nothing is remembered.

    Where the file cannot be read or written, every run decides for itself.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def find(self, name: str, among: Sequence[Choice]) -> Choice | None:
        """Which of the choices was taken for ``name``; None where none of them was."""
        found = self._read().get(name)
        return next((choice for choice in among if choice == found), None)

    def keep(self, name: str, decision: str) -> None:
        """Remember a decision."""
        if self._path is not None:
            remember(self._path, {**self._read(), name: decision})

    def _read(self) -> dict[str, object]:
        if self._path is None:
            return {}
        try:
            found = parse_json(read_record(self._path))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def settled_in(folder: Path, identity: Mapping[str, str], device: torch.device) -> Settled:
    """The decisions of a training, known by its ``identity``, on this machine's ``device``."""
    machine = {"device": str(device), "processor": hardware_name(device), "torch": version("torch")}
    what = {**identity, **machine}
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
    return Settled(folder / f"{key}.json")


def remember(path: Path, values: Mapping[str, object]) -> None:
    """Leave values for the next process; where that cannot be written, it measures again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(values))
    except OSError:
        pass
