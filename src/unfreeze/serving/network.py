"""One bare network and how it is run: by the fastest executor there is, or with a graft of its own for each row."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.bundle.loading import Pieces, golden_gap
from unfreeze.bundle.parts import fitting
from unfreeze.contracts import Backbone, Executor, State
from unfreeze.errors import UnfreezeError
from unfreeze.executors import available_executors, build_executor
from unfreeze.grafts.rowwise import Rowwise, Updates
from unfreeze.runtime.files import cache_root

# The exact precision: a served answer is the run's own answer. Grafts are put on row by row in PyTorch.
GRAFTED = "torch-fp32"
EXECUTORS = ("openvino-fp32", GRAFTED)

# Float32 (rows, width) by boundary.
Features = dict[int, NDArray[np.float32]]


class NotSharedError(UnfreezeError):
    """A graft does not give its own answers on this network: it needs one of its own."""


class Network:
    """Runs ``backbone``. What a run needs of it is made ready, and its golden answers asked for, before it is used."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._executor: Executor | None = None
        self._rowwise: Rowwise | None = None
        self._together = True
        # Runs are made ready while batches are computed.
        self._lock = threading.Lock()

    @property
    def executor(self) -> str:
        """What computes rows without a graft; while there is nothing faster they may ride with the others."""
        return GRAFTED if self._executor is None else self._executor.name

    def plain(self, batch: State) -> Features:
        """Features as the network is, at every boundary that a run made ready reads."""
        assert self._executor is not None
        with self._lock:
            return _run(self._executor, batch)

    def grafted(
        self, batch: State, boundaries: Sequence[int], parts: Sequence[tuple[int, Updates]]
    ) -> Features:
        """Features at ``boundaries``; ``parts``: how many rows have which graft, in order."""
        with self._lock:
            return self._with_grafts(batch, boundaries, parts, together=self._together)

    def make_ready(self, task: str, pieces: Pieces) -> None:
        """For a run without an adapter. Raises UnfreezeError when its golden answers are others here."""
        boundaries = pieces.part.head.boundaries
        present = set() if self._executor is None else set(self._executor.boundaries)
        executor = self._executor
        if executor is None or not present.issuperset(boundaries):
            name = next(name for name in EXECUTORS if name in available_executors("cpu"))
            executor = build_executor(
                name,
                self.backbone,
                boundaries=tuple(sorted(present.union(boundaries))),
                cache_dir=cache_root() / "executors",
            )
        inputs, logits = pieces.golden
        with self._lock:
            features = _run(executor, inputs)
        with fitting(pieces.folder):
            worst, allowed = golden_gap(_logits(pieces, features), logits)
        if not worst <= allowed:
            raise UnfreezeError(
                f"The task {task!r} is not served: {executor.name} does not give the answers it was saved with "
                f"(logits differ by up to {worst:.2g})."
            )
        self._executor = executor

    def make_ready_for_graft(self, pieces: Pieces, updates: Updates) -> None:
        """For a run with an adapter. Raises NotSharedError when its golden answers are others here.

        They are asked for behind a row without a graft, which shows whether the network keeps rows apart. Where it
        does not, each graft of a batch has a pass of its own from now on.
        """
        inputs, logits = pieces.golden
        mask = None if inputs.mask is None else torch.cat([inputs.mask[:1], inputs.mask])
        beside = State(torch.cat([inputs.h[:1], inputs.h]), mask)
        parts: list[tuple[int, Updates]] = [(1, {}), (len(logits), updates)]
        told = ""
        for together in dict.fromkeys((self._together, False)):
            try:
                with self._lock:
                    features = self._with_grafts(
                        beside, pieces.part.head.boundaries, parts, together=together
                    )
                after = {boundary: rows[1:] for boundary, rows in features.items()}
                worst, allowed = golden_gap(_logits(pieces, after), logits)
            except (RuntimeError, ValueError) as problem:
                told = str(problem)
                continue
            if worst <= allowed:
                self._together = together
                return
            told = f"logits differ by up to {worst:.2g}"
        raise NotSharedError(told)

    def _with_grafts(
        self,
        batch: State,
        boundaries: Sequence[int],
        parts: Sequence[tuple[int, Updates]],
        *,
        together: bool,
    ) -> Features:
        if self._rowwise is None:
            self._rowwise = Rowwise(self.backbone)
        run = self._rowwise if together else self._rowwise.one_by_one
        found = run(batch, tuple(sorted(set(boundaries))), parts)
        return {boundary: summary.numpy() for boundary, summary in found.items()}


def _run(executor: Executor, batch: State) -> Features:
    summaries = executor(batch).summaries
    return {
        boundary: summary.numpy() for boundary, summary in zip(executor.boundaries, summaries, strict=True)
    }


def _logits(pieces: Pieces, features: Features) -> torch.Tensor:
    """What the head of a run makes of features."""
    head = pieces.part.head
    return torch.from_numpy(head.logits(np.concatenate([features[at] for at in head.boundaries], axis=1)))
