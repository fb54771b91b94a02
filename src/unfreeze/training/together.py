"""Trainings that several processes run together: the first sends what to do, the others take part.

All of a run but its frozen pass and its plans is the first process's work alone: reading a request, probing, choosing,
measuring, writing. The others read the data and open the backbone themselves, and are told the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.choose.settings import Decisions
from unfreeze.config import TrainRequest
from unfreeze.contracts import Backbone, Executor
from unfreeze.data.dataset import Dataset
from unfreeze.engine.frozen_pass import Features, compute_features, open_store
from unfreeze.engine.ranks import PeerLostError, Ranks
from unfreeze.engine.settled import settled_in
from unfreeze.errors import DataError, LoneError, UnfreezeError
from unfreeze.executors import build_executor
from unfreeze.plan import Plan
from unfreeze.progress import Progress, Silent
from unfreeze.runtime.files import cache_root
from unfreeze.training.material import Material
from unfreeze.training.prepare import boundaries_of, open_backbone, read_data
from unfreeze.training.stopping import stop_on_signal

if TYPE_CHECKING:
    from torch import nn

    from unfreeze.engine.checkpoints import Checkpoints
    from unfreeze.engine.task import EpochRecord, Fit


@dataclass(frozen=True, eq=False)
class Pass:
    """Features of these rows are to be in the store, by the executor of this name."""

    decisions: Decisions
    executor: str
    rows: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Training:
    """A plan to run from this head, on rows of the data set; without ``val`` the last weights are taken."""

    plan: Plan
    head: nn.Module
    train: NDArray[np.intp]
    val: NDArray[np.intp] | None


@dataclass(frozen=True, eq=False)
class Opening:
    """What trainings are made of, as the first process has found it.

    ``readable``: the rows that have features; ``digests``: their content hashes, uint8 (rows, 16).
    """

    decisions: Decisions
    executor: str
    readable: NDArray[np.intp]
    digests: NDArray[np.uint8]


def run_plan(
    material: Material,
    job: Training,
    *,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool],
    progress: Progress,
    watch: Callable[[EpochRecord], None] = lambda _: None,
) -> tuple[Backbone, Fit]:
    """The job's plan on a copy of the material's backbone, by all ranks; the head is trained in place.

    See ``engine.fit.fit`` for the rest.
    """
    from unfreeze.engine.fit import fit

    if material.ranks.leads:
        features = material.features
        material.ranks.send(
            Opening(material.decisions, material.executor.name, features.rows, features.digests)
        )
        material.ranks.send(job)
    if not material.ranks.alone:
        # Another split or another label of a row would train on without a word.
        material.ranks.check_alike("The names, labels or parts of the data", material.dataset.fingerprint)
    trained = material.grafted(job.plan)
    # What is measured beside a training is the first process's work alone: this task alone has the others in it.
    task = replace(material.task(job.plan, job.train, job.val), ranks=material.ranks)
    if checkpoints is not None:
        place = cache_root() / "settled"
        task = replace(task, settled=settled_in(place, checkpoints.identity, material.device))
    result = fit(
        job.plan,
        backbone=trained,
        head=job.head,
        task=task,
        prefix=material.maker(trained, job.plan, task, should_stop),
        checkpoints=checkpoints,
        resume=resume,
        should_stop=should_stop,
        progress=progress,
        watch=watch,
    )
    trained.module.to("cpu")
    return trained, result


def share_pass(
    ranks: Ranks, dataset: Dataset, backbone: Backbone, executor: Executor, decisions: Decisions
) -> None:
    """Let the processes of this machine put the features of all rows but the test rows into the store, each a part."""
    if ranks.alone or decisions.text("store") == "off":
        return
    rows = dataset.rows("train", "val")
    ranks.send(Pass(decisions, executor.name, rows))
    _fill_share(ranks, dataset, backbone, executor, decisions, rows)


def follow(request: TrainRequest, ranks: Ranks) -> None:
    """Take part in what the first process does with this request until it lets go."""
    follower = _Follower(request, ranks)
    while (job := ranks.receive()) is not None:
        follower.do(job)


@contextmanager
def leading(ranks: Ranks) -> Iterator[None]:
    """Let the other ranks, which follow, go at the end of the block, however it ends."""
    try:
        yield
    finally:
        ranks.dismiss()


@dataclass(eq=False)
class _Follower:
    request: TrainRequest
    ranks: Ranks
    material: Material | None = None

    @cached_property
    def dataset(self) -> Dataset:
        return read_data(self.request)

    @cached_property
    def backbone(self) -> Backbone:
        return open_backbone(self.dataset, Decisions(self.request), Silent())

    def do(self, job: Pass | Opening | Training) -> None:
        """Take part in one job; what ends it for all is for the first process to tell."""
        if isinstance(job, Pass):
            executor = self._executor(job)
            _fill_share(self.ranks, self.dataset, self.backbone, executor, job.decisions, job.rows)
        elif isinstance(job, Opening):
            self._open(job)
        else:
            assert self.material is not None
            with stop_on_signal(Silent()) as should_stop:
                try:
                    run_plan(self.material, job, should_stop=should_stop, progress=Silent())
                # Each process reads the data by itself.
                except (LoneError, PeerLostError, DataError):
                    raise
                except UnfreezeError:
                    return

    def _executor(self, job: Pass | Opening) -> Executor:
        boundaries, device = boundaries_of(self.backbone), job.decisions.text("device")
        # A converted network has the bits that a file keeps only when it is read from one, as the first process's is.
        return build_executor(
            job.executor,
            self.backbone,
            boundaries=boundaries,
            cache_dir=cache_root() / "executors",
            device=device,
        )

    def _open(self, job: Opening) -> None:
        # What was decoded for one training serves the next.
        if self.material is None:
            features = Features({}, job.readable, (), 0, 0, 0.0, 0.0, 0.0, job.digests)
            executor = self._executor(job)
            self.material = Material(
                self.dataset, self.backbone, features, executor, job.decisions, Silent(), self.ranks
            )


def _fill_share(
    ranks: Ranks,
    dataset: Dataset,
    backbone: Backbone,
    executor: Executor,
    decisions: Decisions,
    rows: NDArray[np.intp],
) -> None:
    # The store lies on a machine's own disk: what others computed there would not be found here.
    if ranks.rank < ranks.local_count:
        boundaries = boundaries_of(backbone)
        store = open_store(backbone, executor, boundaries, use=decisions.text("store"))
        # The first process meets the same row again, and names it.
        with suppress(UnfreezeError):
            compute_features(
                dataset,
                backbone,
                executor=executor,
                store=store,
                rows=rows[ranks.local_share(len(rows))],
                boundaries=boundaries,
                batch_size=decisions.number("batch_size"),
            )
    ranks.wait()
