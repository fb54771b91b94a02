"""What runs the cells of a comparison: this process, one after the other, or Ray's workers, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import filelock

from unfreeze.bundle.claim import LOCK
from unfreeze.cluster import LOCAL, RETRIES, Cluster, joined, settle
from unfreeze.comparing.cells import CellResult, folder_of, keep_failure, run_cell
from unfreeze.comparing.request import Cell
from unfreeze.config import FLOOR, TrainRequest
from unfreeze.errors import RequestError
from unfreeze.progress import Progress, Silent

# How long tasks that are asked to stop have for saving their state.
STOP_SECONDS = 30.0
# A worker outlives a killed command for a moment, and works in a cell's folder until it notices.
LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """A cell to train: into the folder of ``request``; ``wanted`` is the hash that its record carries."""

    cell: Cell
    request: TrainRequest
    wanted: str
    progress: Progress


# Gives the position of each job and its result, as they finish.
Engine = Callable[[Sequence[Job]], Iterator[tuple[int, CellResult]]]


def make_engine(name: str, *, workers: int | None, device: str | None) -> Engine:
    """The engine of that name, which ``check_engine`` knows; ``device`` is where the trainings were asked to run."""
    return run_here if name == LOCAL else OnRay(name, workers=workers, device=device)


def run_here(jobs: Sequence[Job]) -> Iterator[tuple[int, CellResult]]:
    """The jobs in order, in this process."""
    for place, job in enumerate(jobs):
        yield place, _run(job)


@dataclass(frozen=True)
class OnRay:
    """The jobs as Ray's tasks; what a worker that dies was doing is done again, from its checkpoint if it left one."""

    engine: str
    workers: int | None
    device: str | None

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[int, CellResult]]:
        """See ``Engine``. Raises RequestError when the cluster has no GPU and one was asked for."""
        if not jobs:
            return
        with joined(self.engine, workers=self.workers) as cluster:
            ray, options = cluster.ray, self._options(cluster)
            at_once, cores = options.pop("at_once"), options["num_cpus"]
            task = ray.remote(max_retries=RETRIES, **options)(_task)
            waiting = Waiting.of([job.cell for job in jobs])
            running: dict[object, int] = {}
            try:
                while waiting or running:
                    for place in waiting.take(at_once - len(running)):
                        sent = replace(jobs[place], progress=Silent())
                        running[task.remote(sent, os.getcwd(), cores)] = place  # noqa: PTH109 - sent as a text
                    (ready,), _ = ray.wait(list(running), num_returns=1)
                    place = running.pop(ready)
                    result = _answer(ray, ready, jobs[place])
                    waiting.finish(place)
                    yield place, result
            finally:
                _stop(ray, list(running))

    def _options(self, cluster: Cluster) -> dict[str, Any]:
        """What each task holds, and how many run at once: as many as have cores, and with GPUs one each."""
        workers = cluster.workers(self.workers)
        kind = (self.device or "auto").partition(":")[0]
        if kind == "cuda" and not cluster.gpus:
            raise RequestError(f"--device {self.device}: no machine of the Ray cluster has a GPU.")
        if kind not in ("auto", "cuda") or not cluster.gpus:
            return {"num_cpus": workers.cores, "at_once": workers.count}
        return {"num_cpus": workers.cores, "num_gpus": 1, "at_once": min(workers.count, cluster.gpus)}


@dataclass
class Waiting:
    """Positions of cells that have not begun, those first that store what others read.

    The floor's cell of a seed, size and backbone makes the frozen pass, which the other cells of these read from the
    store; begun together, each would compute it. So these wait for that one. The floors of one backbone wait for each
    other for the same reason: most of their rows are the same.
    """

    cells: Mapping[int, Cell]
    floors: set[int]
    left: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Waiting:
        """All of the cells; floors that are not among them have finished before."""
        floors = {place for place, cell in enumerate(cells) if cell.entry.name == FLOOR}
        return cls(dict(enumerate(cells)), floors, list(range(len(cells))))

    def __len__(self) -> int:
        return len(self.left)

    def take(self, most: int) -> list[int]:
        """The positions of at most so many cells that may begin now."""
        taken: list[int] = []
        for place in sorted(self.left, key=lambda place: place not in self.floors):
            if len(taken) < most and not any(self._before(other, place) for other in self.floors):
                taken.append(place)
        self.left = [place for place in self.left if place not in taken]
        return taken

    def finish(self, place: int) -> None:
        """What waited for this cell waits no more; a floor that failed has nothing to wait for either."""
        self.floors.discard(place)

    def _before(self, floor: int, place: int) -> bool:
        """Whether the floor, which has not finished, goes before."""
        first, cell = self.cells[floor], self.cells[place]
        if place in self.floors:
            return floor < place and first.backbone == cell.backbone
        return (first.backbone, first.seed, first.size) == (cell.backbone, cell.seed, cell.size)


@dataclass
class _Said:
    """The sentences of a worker, to be said where the command runs."""

    sentences: list[str] = field(default_factory=list)

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def count(self, what: str, done: int, total: int) -> None:
        """Drop the count: several at a time would be a flicker."""


def _run(job: Job, progress: Progress | None = None) -> CellResult:
    return run_cell(
        job.cell,
        job.request,
        job.wanted,
        backbone=job.request.backbone or "",
        progress=progress or job.progress,
    )


def _task(job: Job, place: str, cores: int) -> tuple[CellResult, list[str]]:
    """What a worker does: the result of a job, and the sentences that it said."""
    settle(place, cores)
    folder = folder_of(job.request)
    if folder.is_dir():
        # Where the lock stays held, the training itself refuses the folder with a sentence.
        with suppress(filelock.Timeout, OSError), filelock.FileLock(folder / LOCK, timeout=LOCK_SECONDS):
            pass
    said = _Said()
    return _run(job, said), said.sentences


def _answer(ray: Any, ready: object, job: Job) -> CellResult:
    """The result of a task that has ended; where its workers died each time, that is the result."""
    try:
        result, sentences = ray.get(ready)
    except ray.exceptions.RayTaskError as problem:
        # What the worker raised, in its own words.
        raise problem.cause from None
    except ray.exceptions.RayError:
        return keep_failure(
            job.cell,
            job.request,
            job.wanted,
            sentence=f"Its worker died {RETRIES + 1} times, as it does where memory is short: try fewer --workers.",
        )
    for sentence in sentences:
        job.progress.say(sentence)
    assert isinstance(result, CellResult)
    return result


def _stop(ray: Any, running: list[object]) -> None:
    """Ask tasks to stop as Ctrl-C does, and give them time to save their state."""
    if not running:
        return
    for task in running:
        ray.cancel(task)
    ray.wait(running, num_returns=len(running), timeout=STOP_SECONDS)
