"""One network in memory, and the heads and grafts of all tasks that stand on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.loading import Pieces
from unfreeze.contracts import Backbone, State
from unfreeze.errors import UnfreezeError
from unfreeze.evaluate.calibration import softmax
from unfreeze.grafts.rowwise import Rowwise
from unfreeze.runtime.exported import TOKENIZER
from unfreeze.runtime.labels import Labels
from unfreeze.runtime.reading import Reader
from unfreeze.serving.batching import Batcher, OverloadedError, Row
from unfreeze.serving.heads import all_logits
from unfreeze.serving.limits import Limits
from unfreeze.serving.network import GRAFTED, Features, Network
from unfreeze.serving.weights import Source, WeightCache, Weights, unpack_part

Answer = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Observer:
    """Told of every batch: ``computed`` its rows."""

    computed: Callable[[int], None] = lambda rows: None


class Host:
    """Answers for every task that stands on ``backbone``, with a graft of its own or without.

    A row's answer is its calibrated probabilities (classes,) by task; a task that has left is missing there, and one
    whose weights cannot be read any more is an error of that row. ``weights``: what tasks add, shared between hosts.
    """

    def __init__(self, backbone: Backbone, limits: Limits, observer: Observer, weights: WeightCache) -> None:
        self.backbone = backbone
        self._network = Network(backbone)
        self._observer = observer
        self._weights = weights
        self._sources: dict[str, Source] = {}
        self._reader = Reader(backbone.preprocess, backbone.assets.get(TOKENIZER))
        self._most, self._admitted, self._counting = limits.queue, 0, threading.Lock()
        self._batcher = Batcher(
            self._compute, size=limits.batch, wait=limits.wait, queue=limits.queue, name=backbone.name
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that stand on it."""
        return tuple(self._sources)

    @property
    def waiting(self) -> int:
        """Rows that wait to be computed."""
        return self._batcher.waiting

    def executor(self, task: str) -> str:
        """What computes a task."""
        source = self._sources.get(task)
        return GRAFTED if source is not None and source.grafted else self._network.executor

    def serves(self, task: str, source: Source) -> bool:
        """Whether a task is still the one that ``add`` gave this source for."""
        return self._sources.get(task) is source

    def add(self, task: str, pieces: Pieces) -> Source:
        """Serve a task from now on, after its golden inputs gave the golden logits here.

        Raises UnfreezeError when they do not, NotSharedError when that is for the other rows of a batch.
        """
        part = pieces.part
        weights = unpack_part(part, self.backbone, pieces.folder)
        if part.adapter:
            self._network.make_ready_for_graft(pieces, weights.updates)
        else:
            self._network.make_ready(task, pieces)
        source = Source(pieces.folder, pieces.bundle, part.digest, bool(part.adapter))
        self._weights.put(source, weights)
        before, self._sources[task] = self._sources.get(task), source
        self._weights.drop(before)
        return source

    def remove(self, task: str) -> None:
        """Stop serving a task; rows that wait for it alone are answered without it."""
        self._weights.drop(self._sources.pop(task, None))

    def classifier(self, source: Source) -> Classifier:
        """A task as a classifier by itself, on this network's tensors. RequestError where it cannot be read."""
        weights = self._read(source)
        return Classifier(
            backbone=Rowwise(self.backbone).alone(weights.updates) if source.grafted else self.backbone,
            head=weights.head,
            labels=Labels(source.bundle.labels),
            temperature=source.bundle.calibration.temperature,
        )

    @contextmanager
    def admit(self, rows: int) -> Iterator[None]:
        """Count so many rows from before they are decoded until they are answered.

        Raises OverloadedError where more would be under way than may wait: what is refused should cost nothing.
        """
        with self._counting:
            if self._admitted + rows > self._most:
                raise OverloadedError(
                    f"{self._admitted} inputs are under way already: try again in a moment."
                )
            self._admitted += rows
        try:
            yield
        finally:
            with self._counting:
                self._admitted -= rows

    def prepare(self, raw: bytes | str) -> tuple[NDArray[Any], bool]:
        """What the network reads of one input, and whether a text was cut for that; see ``Reader.read``."""
        return self._reader.read(raw)

    def submit(
        self, values: Sequence[NDArray[Any]], tasks: tuple[str, ...], *, seconds: float
    ) -> list[Future[Answer]]:
        """An answer to come for each value; see ``Batcher.submit``.

        ``tasks``: tasks without a graft, or one with: a row passes through the network once. One with a graft among
        others, such as it may have become since it was asked, is missing in the answer.
        """
        return self._batcher.submit(values, tasks, seconds=seconds)

    def close(self) -> None:
        """Answer what waits, and stop."""
        self._batcher.close()
        for source in self._sources.values():
            self._weights.drop(source)

    def _compute(self, rows: Sequence[Row]) -> list[Answer | UnfreezeError]:
        sources = {task: self._sources.get(task) for row in rows for task in row.tasks}
        there = {task: source for task, source in sources.items() if source is not None}
        weights, problems = self._read_all(there)
        # A task may have become one with a graft while a row waited that asks for several.
        wanted = [
            tuple(
                task
                for task in row.tasks
                if task in there and (len(row.tasks) == 1 or not there[task].grafted)
            )
            for row in rows
        ]
        answers: list[Answer | UnfreezeError] = [
            next((problems[task] for task in tasks if task in problems), {}) for tasks in wanted
        ]
        graft = [tasks[0] if tasks and there[tasks[0]].grafted else "" for tasks in wanted]
        places = [place for place, tasks in enumerate(wanted) if tasks and problems.keys().isdisjoint(tasks)]
        heads = {task: given.head for task, given in weights.items()}
        for chosen in self._passes(places, graft):
            asked = [wanted[place] for place in chosen]
            batch = self._batch([rows[place].value for place in chosen])
            features = self._features(batch, asked, [graft[place] for place in chosen], weights)
            for place, logits in zip(chosen, all_logits(heads, features, asked), strict=True):
                answers[place] = {
                    task: softmax(found[None], there[task].bundle.calibration.temperature)[0]
                    for task, found in logits.items()
                }
        self._observer.computed(len(rows))
        return answers

    def _batch(self, values: Sequence[NDArray[Any]]) -> State:
        return State(*map(torch.from_numpy, self._reader.batch(values).values()))

    def _passes(self, places: Sequence[int], graft: Sequence[str]) -> list[list[int]]:
        """The rows that are computed together; those of one graft stand side by side."""
        ordered = sorted(places, key=lambda place: graft[place])
        if self._network.executor == GRAFTED:
            # Nothing faster is there for rows without a graft: they ride with the others.
            return [ordered] if ordered else []
        return [list(group) for _, group in groupby(ordered, key=lambda place: bool(graft[place]))]

    def _features(
        self,
        batch: State,
        asked: Sequence[tuple[str, ...]],
        graft: Sequence[str],
        weights: Mapping[str, Weights],
    ) -> Features:
        if not any(graft):
            return self._network.plain(batch)
        boundaries = {at for tasks in asked for task in tasks for at in weights[task].head.boundaries}
        parts = [(len(list(same)), weights[name].updates if name else {}) for name, same in groupby(graft)]
        return self._network.grafted(batch, sorted(boundaries), parts)

    def _read(self, source: Source) -> Weights:
        return self._weights.get(source, partial(source.read, self.backbone))

    def _read_all(self, sources: Mapping[str, Source]) -> tuple[dict[str, Weights], dict[str, UnfreezeError]]:
        """The weights of tasks, and what is wrong with those that cannot be read any more."""
        weights: dict[str, Weights] = {}
        problems: dict[str, UnfreezeError] = {}
        for task, source in sources.items():
            try:
                weights[task] = self._read(source)
            except UnfreezeError as problem:
                problems[task] = problem
        return weights, problems
