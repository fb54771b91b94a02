"""The tasks that are served, by name, and the networks they share."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.loading import Pieces, load, open_pieces
from unfreeze.bundle.parts import Part
from unfreeze.bundle.places import run_folder
from unfreeze.bundle.schema import BundleFile
from unfreeze.errors import RequestError
from unfreeze.regular import read_record
from unfreeze.runtime.files import parse_json
from unfreeze.runtime.predictions import Prediction
from unfreeze.serving.hosting import Host, Observer
from unfreeze.serving.limits import NAME, Limits
from unfreeze.serving.network import NotSharedError
from unfreeze.serving.weights import Source, WeightCache


@dataclass(frozen=True, eq=False)
class Task:
    """A run that is served. ``run`` is the hash of its ``bundle.json``; ``source``: what its host knows it by."""

    name: str
    folder: Path
    bundle: BundleFile
    run: str
    host: Host
    source: Source

    @property
    def base(self) -> str:
        """The hash of the weights of the network that it shares."""
        return self.host.backbone.weights_hash

    @property
    def executor(self) -> str:
        """What computes it."""
        return self.host.executor(self.name)

    @property
    def group(self) -> Hashable:
        """The same for tasks that one pass of a network answers: a graft needs one of its own."""
        return self.host, self.name if self.source.grafted else ""

    @property
    def classifier(self) -> Classifier:
        """The task by itself, put together with what it shares; reads its weights where they are not in memory.

        Raises RequestError when they cannot be read any more.
        """
        return self.host.classifier(self.source)

    def answer(self, name: str, probabilities: NDArray[np.float64], top_k: int) -> Prediction:
        """The prediction that calibrated probabilities (classes,) of an input come to."""
        limit = self.bundle.threshold
        threshold = None if limit is None else limit.probability
        return Prediction.of(name, probabilities, self.bundle.labels, threshold=threshold, top_k=top_k)

    @property
    def scores(self) -> Mapping[str, Any]:
        """The test scores as ``metrics.json`` has them, empty where there are none."""
        try:
            found = parse_json(read_record(self.folder / "metrics.json"))
        except (OSError, ValueError):
            return {}
        test = found.get("test") if isinstance(found, dict) else None
        return test if isinstance(test, dict) else {}


class Registry:
    """Loads runs under names; runs on the same network share one copy of it, with their adapters beside it."""

    def __init__(self, limits: Limits, observer: Observer | None = None) -> None:
        self.limits = limits
        self._observer = Observer() if observer is None else observer
        self.weights = WeightCache(limits.adapters)
        self._tasks: dict[str, Task] = {}
        self._hosts: dict[str, Host] = {}
        self._loading = threading.Lock()

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name, in the order in which they came."""
        return dict(self._tasks)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The networks in memory."""
        return tuple(self._hosts.values())

    def put(self, name: str, folder: Path) -> Task:
        """Serve the run of a folder under a name, in place of what had the name before.

        Raises RequestError for a wrong name or folder, UnfreezeError for a run whose answers here are not its own.
        """
        check_name(name)
        with self._loading:
            pieces = open_pieces(folder, sharing={key: host.backbone for key, host in self._hosts.items()})
            try:
                task = self._served(name, pieces)
            except NotSharedError:
                merged = load(folder).classifier.backbone
                task = self._served(name, replace(pieces, base=merged, part=Part(pieces.part.head)))
            before = self._tasks.get(name)
            self._tasks[name] = task
            if before is not None and before.host is not task.host:
                self._leave(before)
            return task

    def _served(self, name: str, pieces: Pieces) -> Task:
        """The task, on the network in memory that is its own, or else on a new one."""
        host = self._hosts.get(pieces.key)
        new = host is None
        if host is None:
            host = Host(pieces.base, self.limits, self._observer, self.weights)
        try:
            source = host.add(name, pieces)
        except BaseException:
            if new:
                host.close()
            raise
        self._hosts[pieces.key] = host
        return Task(name, pieces.folder, pieces.bundle, pieces.digest, host, source)

    def remove(self, name: str) -> None:
        """Serve the task no longer. Raises KeyError when there is none."""
        with self._loading:
            self._leave(self._tasks.pop(name))

    def close(self) -> None:
        """Answer what waits, and stop."""
        with self._loading:
            for host in self._hosts.values():
                host.close()

    def _leave(self, task: Task) -> None:
        task.host.remove(task.name)
        if not task.host.tasks:
            self._hosts = {key: host for key, host in self._hosts.items() if host is not task.host}
            task.host.close()


def check_name(name: str) -> None:
    """Raise RequestError for a name that could be mistaken for a path or a command."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} cannot name a task: use up to 64 letters, digits, dots, dashes and underscores, beginning with "
            "a letter or digit."
        )


def named_runs(arguments: list[str]) -> dict[str, Path]:
    """Folders by name, from ``FOLDER`` (named like it) or ``NAME=FOLDER``. RequestError for names that repeat."""
    found: dict[str, Path] = {}
    for argument in arguments:
        name, equals, rest = argument.partition("=")
        place = rest if equals and NAME.fullmatch(name) else argument
        folder = run_folder(place)
        if not (equals and NAME.fullmatch(name)):
            name = folder.resolve().name
        if name in found:
            raise RequestError(
                f"Two runs are named {name!r}: give one of them another name, as in {name}-2={folder}."
            )
        try:
            check_name(name)
        except RequestError as problem:
            raise RequestError(f"{problem} Give the run such a name: NAME=FOLDER.") from None
        found[name] = folder
    return found
