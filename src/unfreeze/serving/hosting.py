"""One network in memory, its executor, and the heads of all tasks that stand on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.loading import golden_gap
from unfreeze.contracts import Backbone, Executor, State
from unfreeze.engine.store import cache_root
from unfreeze.errors import UnfreezeError
from unfreeze.evaluate.calibration import softmax
from unfreeze.executors import available_executors, build_executor
from unfreeze.runtime.exported import TOKENIZER
from unfreeze.runtime.reading import Reader
from unfreeze.serving.batching import Batcher, OverloadedError, Row
from unfreeze.serving.heads import all_logits
from unfreeze.serving.limits import Limits

# The exact precision: a served answer is the run's own answer.
EXECUTORS = ("openvino-fp32", "torch-fp32")


@dataclass(frozen=True)
class Observer:
    """Told of every batch: ``computed`` its rows."""

    computed: Callable[[int], None] = lambda rows: None


class Host:
    """Answers for every task whose classifier stands on ``backbone``.

    A row's answer is its calibrated probabilities (classes,) by task; a task that has left is missing there.
    """

    def __init__(self, backbone: Backbone, limits: Limits, observer: Observer) -> None:
        self.backbone = backbone
        self._observer = observer
        self._classifiers: dict[str, Classifier] = {}
        self._executor: Executor | None = None
        # The executor is replaced while batches are computed.
        self._computing = threading.Lock()
        self._reader = Reader(backbone.preprocess, backbone.assets.get(TOKENIZER))
        self._most, self._admitted, self._counting = limits.queue, 0, threading.Lock()
        self._batcher = Batcher(
            self._compute, size=limits.batch, wait=limits.wait, queue=limits.queue, name=backbone.name
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that stand on it."""
        return tuple(self._classifiers)

    @property
    def waiting(self) -> int:
        """Rows that wait to be computed."""
        return self._batcher.waiting

    @property
    def executor(self) -> str:
        """What computes."""
        return "" if self._executor is None else self._executor.name

    def add(self, task: str, classifier: Classifier, golden: tuple[State, torch.Tensor]) -> None:
        """Serve a task from now on, after its golden inputs gave the golden logits here.

        Raises UnfreezeError when they do not.
        """
        wanted = set(classifier.head.boundaries)
        present = set() if self._executor is None else set(self._executor.boundaries)
        executor = self._executor
        if executor is None or wanted - present:
            executor = self._build(tuple(sorted(wanted | present)))
        inputs, logits = golden
        with self._computing:
            features = _features(executor, inputs)
        answers = all_logits({task: classifier.head}, features, [(task,)] * len(logits))
        found = torch.from_numpy(np.stack([answer[task] for answer in answers]))
        worst, allowed = golden_gap(found, logits)
        if not worst <= allowed:
            raise UnfreezeError(
                f"The task {task!r} is not served: {executor.name} does not give the answers it was saved with "
                f"(logits differ by up to {worst:.2g})."
            )
        with self._computing:
            self._executor = executor
            self._classifiers[task] = classifier

    def remove(self, task: str) -> None:
        """Stop serving a task; rows that wait for it alone are answered without it."""
        with self._computing:
            self._classifiers.pop(task, None)

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

    def prepare(self, raw: bytes | str) -> NDArray[Any]:
        """What the network reads of one input: uint8 (height, width, 3), or token ids (tokens,). Raises BadImage."""
        return self._reader.prepare(raw)

    def submit(
        self, values: Sequence[NDArray[Any]], tasks: tuple[str, ...], *, seconds: float
    ) -> list[Future[dict[str, NDArray[np.float64]]]]:
        """An answer to come for each value; see ``Batcher.submit``."""
        return self._batcher.submit(values, tasks, seconds=seconds)

    def close(self) -> None:
        """Answer what waits, and stop."""
        self._batcher.close()

    def _build(self, boundaries: tuple[int, ...]) -> Executor:
        name = next(name for name in EXECUTORS if name in available_executors("cpu"))
        return build_executor(
            name, self.backbone, boundaries=boundaries, cache_dir=cache_root() / "executors"
        )

    def _compute(self, rows: Sequence[Row]) -> list[dict[str, NDArray[np.float64]]]:
        with self._computing:
            assert self._executor is not None
            classifiers = dict(self._classifiers)
            features = _features(self._executor, self._batch([row.value for row in rows]))
        wanted = [tuple(task for task in row.tasks if task in classifiers) for row in rows]
        logits = all_logits({task: given.head for task, given in classifiers.items()}, features, wanted)
        self._observer.computed(len(rows))
        return [
            {task: softmax(found[None], classifiers[task].temperature)[0] for task, found in answer.items()}
            for answer in logits
        ]

    def _batch(self, values: Sequence[NDArray[Any]]) -> State:
        return State(*map(torch.from_numpy, self._reader.batch(values).values()))


def _features(executor: Executor, batch: State) -> dict[int, NDArray[np.float32]]:
    summaries = executor(batch).summaries
    return {
        boundary: summary.numpy() for boundary, summary in zip(executor.boundaries, summaries, strict=True)
    }
