"""A comparison from request to page, as a table of contents; everything that finishes is kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from unfreeze.amounts import duration
from unfreeze.bundle.claim import locked
from unfreeze.choose.settings import Decisions
from unfreeze.cluster import LOCAL, check_engine
from unfreeze.comparing.cells import CellResult, finished_cell, request_hash
from unfreeze.comparing.comparison import Comparison, conclude
from unfreeze.comparing.engines import Engine, Job, make_engine
from unfreeze.comparing.entry import FLOOR_ENTRY, Entry
from unfreeze.comparing.folder import (
    BACKBONES,
    CELLS,
    PAGE,
    RECORD,
    RESULTS,
    first_seed,
    identity_of,
    open_folder,
)
from unfreeze.comparing.page import write_page
from unfreeze.comparing.ranking import Ranked, finished_ranking, probe_backbone, rank, write_ranked
from unfreeze.comparing.request import Cell, CompareRequest, entries_with_floor, safe_name
from unfreeze.config import FLOOR, STRATEGIES, TrainRequest
from unfreeze.contracts import Backbone
from unfreeze.data.dataset import Dataset
from unfreeze.errors import RequestError, StoppedError, UnfreezeError
from unfreeze.progress import Inside, Progress, Silent
from unfreeze.report import words
from unfreeze.run import free_run_folder
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.remote import scrubbed
from unfreeze.training.planning import make_plan
from unfreeze.training.prepare import open_backbone, read_data

# Random weights on a small data set are a lesson, not a candidate: they are compared when they are named.
LEFT_OUT = ("scratch",)
# What a training says that a person should know while many of them go by.
WORTH_SAYING = ("Stopping", "Left out")


def compare(
    request: CompareRequest,
    *,
    progress: Progress | None = None,
    command: str | None = None,
    engine: str = LOCAL,
    workers: int | None = None,
) -> Comparison:
    """Train and measure everything that the request names; ``command`` is what the page says was typed.

    ``engine``: ``local``, ``ray`` or ``ray://HOST:PORT``; ``workers``: how many trainings at a time there. They decide
    where trainings run and nothing of what they come to, so that each may continue what another began.
    Raises RequestError before anything is trained when the request or its data cannot be used, UnfreezeError when
    nothing finished, and StoppedError when a training was asked to stop: what had finished is kept.
    """
    progress = progress or Silent()
    check_engine(engine)
    request.check()
    seed = _first_seed(request)
    dataset = read_data(replace(request.base, seed=seed, train_size=None))
    for size in request.sizes[:1] + request.sizes[1:][-1:]:
        read_data(replace(request.base, seed=seed, train_size=size))
    resolved, weights = _resolve(request, dataset, progress)
    folder = request.output_dir or free_run_folder(f"{Path(dataset.source).stem or 'data'}-compare")
    identity = identity_of(resolved.base, dataset)
    with locked(folder), _resumable(folder):
        open_folder(folder, identity, seed=seed, resume=request.resume)
        # A file or a run that a backbone is read from may hold other weights by now.
        made_of = {name: f"{identity['data']} {read}" for name, read in weights.items()}
        ranking = _rank(resolved, folder, made_of, progress)
        train_all = make_engine(engine, workers=workers, device=resolved.base.device)
        cells = _Cells(resolved, folder, made_of, progress, train_all).run()
        comparison = conclude(
            cells,
            ranking,
            folder=folder,
            source=dataset.source,
            modality=dataset.modality,
            command=scrubbed(command or "unfreeze.compare(…)"),
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
        results = json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / RESULTS, results + "\n")
        write_page(comparison, folder / PAGE)
    if not comparison.verdicts and not any(entry.accuracy for entry in ranking):
        what, why = comparison.failures[0]
        raise UnfreezeError(f"Nothing of this comparison finished. {what}: {why}")
    return comparison


def _first_seed(request: CompareRequest) -> int:
    """The seed that the comparison began with: by its parts the data are known again, whatever seeds are added."""
    kept = first_seed(request.output_dir) if request.resume and request.output_dir else None
    return request.seeds[0] if kept is None else kept


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """An interruption of what has begun says how to go on; a training that was stopped says so itself."""
    try:
        yield
    except KeyboardInterrupt:
        if not (folder / RECORD).exists():
            raise
        raise StoppedError(f"Interrupted. {_continued(folder)}") from None


def _resolve(
    request: CompareRequest, dataset: Dataset, progress: Progress
) -> tuple[CompareRequest, dict[str, str]]:
    """The request with its backbone and its strategies named, and the hash of each backbone's weights.

    RequestError for what cannot be had or fits nothing.
    """
    wanted = request.entries
    if wanted is None:
        # Backbones alone are ranked, and nothing of them is thawed.
        usual = (Entry(name) for name in STRATEGIES if name not in LEFT_OUT)
        wanted = () if request.backbones else tuple(usual)
    misfits: dict[Entry, list[RequestError | None]] = {entry: [] for entry in wanted}
    names: tuple[str | None, ...] = request.backbones or (request.base.backbone,)
    weights: dict[str, str] = {}
    for name in names:
        decisions = Decisions(replace(request.base, backbone=name, strategy=FLOOR))
        backbone = open_backbone(dataset, decisions, progress)
        for entry, found in misfits.items():
            found.append(_misfit(request, entry, backbone, dataset))
        if request.backbones:
            weights[str(name)] = backbone.weights_hash
        else:
            weights[decisions.text("backbone")] = backbone.weights_hash
            request = replace(request, base=replace(request.base, backbone=decisions.text("backbone")))
    refused = {entry: found[0] for entry, found in misfits.items() if all(found)}
    if request.entries is None:
        wanted = tuple(entry for entry in wanted if entry not in refused)
    elif refused:
        raise RequestError(str(next(iter(refused.values()))))
    request = replace(request, entries=wanted)
    request.check()
    return request, weights


def _misfit(
    request: CompareRequest, entry: Entry, backbone: Backbone, dataset: Dataset
) -> RequestError | None:
    """Why the plan of an entry cannot be made for a backbone, or None when it can, or is not known before trying."""
    decisions = Decisions(request.train_request(Cell(entry, request.seeds[0])))
    if not decisions.thaws or entry.strategy not in STRATEGIES:
        return None
    try:
        make_plan(backbone, len(dataset.rows("train")), len(dataset.labels), decisions)
    except RequestError as problem:
        return problem
    return None


def _rank(
    request: CompareRequest, folder: Path, made_of: Mapping[str, str], progress: Progress
) -> tuple[Ranked, ...]:
    """Every backbone probed, or read from what was kept."""
    found = []
    size = request.sizes[-1] if request.sizes else None
    for place, name in enumerate(request.backbones):
        base = replace(request.train_request(Cell(FLOOR_ENTRY, 0, size)), seed=None)
        wanted = request_hash(replace(base, backbone=name), f"{made_of[name]} {request.seeds}")
        path = folder / BACKBONES / f"{safe_name(name)}-{wanted[:8]}.json"
        entry = finished_ranking(path, backbone=name, seeds=len(request.seeds))
        if entry is None:
            label = f"[{place + 1}/{len(request.backbones)}] {name}"
            entry = probe_backbone(name, base, request.seeds, progress=Inside(progress, label, WORTH_SAYING))
            write_ranked(entry, path)
            progress.say(f"{label}: {_reached(entry)}")
        found.append(entry)
    return rank(found) if found else ()


def _reached(entry: Ranked) -> str:
    if entry.accuracy is None:
        return f"failed: {entry.sentence}"
    return f"{words.percent(entry.mean)} right out of fold."


@dataclass
class _Cells:
    """The trainings of a comparison, as ``engine`` runs them; ``made_of``: data and weights, by backbone."""

    request: CompareRequest
    folder: Path
    made_of: Mapping[str, str]
    progress: Progress
    engine: Engine
    # Seconds by what was trained, without the seed: what is left to do will take as long.
    taken: dict[tuple[object, ...], list[float]] = field(default_factory=dict)

    def run(self) -> list[CellResult]:
        """The results of all cells in order; those that are finished already are read."""
        entries = self.request.entries or ()
        if not entries:
            return []
        backbones: Sequence[str | None] = self.request.backbones or (None,)
        cells = self.request.cells(entries, backbones)
        found = {cell: self._finished(cell) for cell in cells}
        todo = [cell for cell in cells if found[cell] is None]
        kept = len(cells) - len(todo)
        self.progress.say(f"{self._said(cells)}." + (f" Finished already: {kept}." if kept else ""))
        for cell, result in found.items():
            if result is not None and result.seconds is not None:
                self.taken.setdefault(_kind(cell), []).append(result.seconds)
        self._say_left(todo)
        labels = [f"[{kept + place + 1}/{len(cells)}] {cell}" for place, cell in enumerate(todo)]
        left = list(todo)
        try:
            for place, result in self.engine(list(map(self._job, todo, labels))):
                found[todo[place]] = result
                left.remove(todo[place])
                self._tell(todo[place], labels[place], result, left)
        except (StoppedError, KeyboardInterrupt):
            raise StoppedError(
                f"Stopped as asked: {len(cells) - len(left)} of {_trainings(len(cells))} finished and kept. "
                f"{_continued(self.folder)}"
            ) from None
        return [result for result in found.values() if result is not None]

    def _said(self, cells: Sequence[Cell]) -> str:
        """How many trainings there are, and what they are made of."""
        request = self.request
        said = f"{_trainings(len(cells))}: {len(entries_with_floor(request.entries or ()))} strategies"
        counts = {"seed": len(request.seeds), "size": len(request.sizes), "backbone": len(request.backbones)}
        return said + "".join(
            f", {count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count
        )

    def _finished(self, cell: Cell) -> CellResult | None:
        request = self.request.train_request(cell)
        wanted = self._wanted(request)
        return finished_cell(self.folder / CELLS / cell.name, cell, wanted, backbone=request.backbone or "")

    def _wanted(self, request: TrainRequest) -> str:
        assert request.backbone is not None
        return request_hash(request, self.made_of[request.backbone])

    def _job(self, cell: Cell, label: str) -> Job:
        folder = self.folder / CELLS / cell.name
        folder.parent.mkdir(exist_ok=True)
        request = self.request.train_request(cell, folder)
        return Job(cell, request, self._wanted(request), Inside(self.progress, label, WORTH_SAYING))

    def _tell(self, cell: Cell, label: str, result: CellResult, left: Sequence[Cell]) -> None:
        """Say what a training came to, and how long the others will take when it is the first of its kind."""
        if not result.finished:
            self.progress.say(f"{label} failed: {result.sentence}")
            return
        reached = f"{label}: {words.percent(result.accuracy)} right"
        if result.seconds is None:
            # It was taken up where it had been stopped, and says nothing of how long others take.
            self.progress.say(f"{reached}.")
            return
        first = _kind(cell) not in self.taken
        self.taken.setdefault(_kind(cell), []).append(result.seconds)
        self.progress.say(f"{reached}, {duration(result.seconds)}.")
        if first:
            self._say_left(left)

    def _say_left(self, left: Sequence[Cell]) -> None:
        about = [self._seconds_of(cell) for cell in left]
        known = [seconds for seconds in about if seconds is not None]
        # A probe says nothing of how long a full fine-tuning takes.
        said = "about" if len(known) == len(about) else "at least"
        if known:
            self.progress.say(f"{_trainings(len(left))} left, {said} {duration(sum(known))}.")

    def _seconds_of(self, cell: Cell) -> float | None:
        """What a training takes: as long as those of its kind, or else of its strategy; None before there are any."""
        known = {kind: statistics.mean(seconds) for kind, seconds in self.taken.items()}
        alike = [seconds for (name, *_), seconds in known.items() if name == cell.entry.name]
        return known.get(_kind(cell), statistics.mean(alike) if alike else None)


def _continued(folder: Path) -> str:
    return f"Continue with the same command, --output-dir {folder} and --resume."


def _trainings(count: int) -> str:
    return f"{count} training{'s' if count > 1 else ''}"


def _kind(cell: Cell) -> tuple[object, ...]:
    return (cell.entry.name, cell.size, cell.backbone)
