"""One training of a comparison: run, measured, and written down so that it is never run again."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from unfreeze.bundle.claim import is_unfinished
from unfreeze.bundle.folder import CHECKPOINTS, HEAD, WEIGHTS
from unfreeze.bundle.loading import read_bundle
from unfreeze.comparing.meter import Meter
from unfreeze.comparing.records import AS_WRITTEN, HASH_LENGTH, are_amounts, are_shares, is_mean, read_as
from unfreeze.comparing.request import Cell
from unfreeze.comparing.rows import are_keys, key_groups, key_rows, read_keys
from unfreeze.config import AUTO, TrainRequest
from unfreeze.errors import RequestError, StoppedError, UnfreezeError
from unfreeze.progress import Progress
from unfreeze.regular import read_record
from unfreeze.run import Run, train
from unfreeze.runtime.files import file_hash, parse_json, write_atomically
from unfreeze.training.copies import MARKS, NEAR

RECORD = "cell.json"
FINISHED, FAILED = "finished", "failed"
# The part of a run that fills the store: what one training of a comparison computes there, all others read.
SHARED_PART = "frozen pass"
LONGEST_SENTENCE = 300


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What a cell came to; everything below ``sentence`` is there when it is finished.

    ``truth`` and ``answers`` index ``labels``, one number a test row, in an order that ``rows_hash`` stands for;
    ``rows`` holds a key for each, empty in records from before there were any, and ``groups`` one for the group of
    each, empty where the data have none. ``copy_marks``: what ``NearCopies.marks`` says of each, empty in records from
    before it was looked at, and ``nearest_copy`` the one that looks most like a learnt row. ``chosen``: the strategy
    that ``auto`` took, else empty. ``learned_from``: rows of train, and of val where it was drawn from the same rows.
    ``trained``: parameters that the optimizer held, of all ``parameters`` of network and head. ``seconds``: without the
    ``shared_seconds`` of the frozen pass; None when some were lost.
    """

    strategy: str
    seed: int
    size: int | None
    backbone: str
    state: str
    sentence: str = ""
    accuracy: float = 0.0
    accuracy_low: float = 0.0
    accuracy_high: float = 0.0
    balanced_accuracy: float = 0.0
    balanced_accuracy_low: float = 0.0
    balanced_accuracy_high: float = 0.0
    labels: tuple[str, ...] = ()
    truth: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()
    rows_hash: str = ""
    rows: str = ""
    groups: str = ""
    copy_marks: str = ""
    nearest_copy: str = ""
    chosen: str = ""
    learned_from: int = 0
    trained: int = 0
    parameters: int = 0
    seconds: float | None = None
    shared_seconds: float = 0.0
    peak_bytes: int | None = None
    joules: float | None = None

    @property
    def finished(self) -> bool:
        """Whether it has a result."""
        return self.state == FINISHED

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which test rows are answered rightly, bool (rows,)."""
        return np.asarray(np.array(self.truth) == np.array(self.answers))

    @property
    def row_keys(self) -> NDArray[np.uint64]:
        """Which rows the test rows are (rows,): equal keys of two cells stand for the same row."""
        return read_keys(self.rows, rows_hash=self.rows_hash, count=len(self.truth))

    @property
    def drawn_keys(self) -> NDArray[np.uint64]:
        """What the test rows were drawn with (rows,): the keys of their groups, or of themselves."""
        if not self.groups:
            return self.row_keys
        return read_keys(self.groups, rows_hash="", count=len(self.truth))

    @property
    def true_class(self) -> NDArray[np.str_]:
        """The name of each test row's class (rows,)."""
        return np.array(self.labels)[np.array(self.truth, dtype=np.intp)]


def same_rows(first: CellResult, second: CellResult) -> bool:
    """Whether two cells were tested on the same rows in the same order."""
    return first.rows_hash == second.rows_hash and len(first.truth) == len(second.truth)


class _Record(BaseModel):
    """What ``cell.json`` holds. ``request``: the hash of what it was made by."""

    model_config = AS_WRITTEN

    request: str
    result: CellResult
    traceback: str = ""


def request_hash(request: TrainRequest, data: str) -> str:
    """What a finished cell must share with the request that finds it: settings, and ``data``, what they are said of."""
    given = {
        name: str(value) for name, value in request.given().items() if name not in ("output_dir", "resume")
    }
    # Where the data lie is not what they are.
    for name in ("val", "test"):
        if name in given and not isinstance(getattr(request, name), int | float):
            given[name] = "data"
    return hashlib.sha256(json.dumps([data, given], sort_keys=True).encode()).hexdigest()


def finished_cell(folder: Path, cell: Cell, wanted: str, *, backbone: str) -> CellResult | None:
    """The result of a cell that is finished and whole, or None.

    Raises RequestError when it was made by another request than ``wanted``.
    """
    record = read_as(folder / RECORD, _Record)
    if record is None or not record.result.finished:
        return None
    if record.request != wanted:
        raise RequestError(
            f"--resume: {folder} was made with other settings, data or weights of the backbone than there are now. "
            "Choose another --output-dir, or remove that folder to train it again."
        )
    try:
        bundle = read_bundle(folder)
    except RequestError:
        return None
    whole = all(
        (folder / name).is_file() and file_hash(folder / name) == digest
        for name, digest in bundle.files.items()
    )
    named = _Named(cell.entry.name, cell.seed, cell.size, backbone)
    return record.result if whole and _is_sound(record.result, named) else None


def folder_of(request: TrainRequest) -> Path:
    """The folder of a cell, which its request always names."""
    assert request.output_dir is not None
    return Path(request.output_dir)


def run_cell(
    cell: Cell, request: TrainRequest, wanted: str, *, backbone: str, progress: Progress
) -> CellResult:
    """The result of training ``cell`` into the folder of ``request``, written there; a failure is a result too.

    A training that left a checkpoint is taken up again, anything else in the folder is removed. Raises StoppedError
    when it is asked to stop.
    """
    folder = folder_of(request)
    resumed = (folder / CHECKPOINTS).is_dir() and is_unfinished(folder)
    if not resumed:
        shutil.rmtree(folder, ignore_errors=True)
    named = _Named(cell.entry.name, cell.seed, cell.size, backbone)
    try:
        with Meter() as meter:
            run = train(replace(request, resume=True) if resumed else request, progress=progress)
        result = _measured(named, run, meter, resumed=resumed)
    except StoppedError:
        raise
    except Exception as problem:
        expected = isinstance(problem, UnfreezeError)
        trace = "" if expected else traceback.format_exc()
        return keep_failure(cell, request, wanted, sentence=_sentence(problem), trace=trace)
    _write(folder, result, wanted)
    return result


def keep_failure(
    cell: Cell, request: TrainRequest, wanted: str, *, sentence: str, trace: str = ""
) -> CellResult:
    """The result of a cell that failed, written into the folder of ``request``; ``sentence`` says why."""
    folder = folder_of(request)
    named = _Named(cell.entry.name, cell.seed, cell.size, request.backbone or "")
    result = CellResult(**asdict(named), state=FAILED, sentence=sentence)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, result, wanted, trace=trace)
    return result


@dataclass(frozen=True)
class _Named:
    """Which cell a result is of."""

    strategy: str
    seed: int
    size: int | None
    backbone: str


def _is_sound(result: CellResult, named: _Named) -> bool:
    """Whether a record is of this cell, and its numbers are such as a training gives and fit each other."""
    said = _Named(result.strategy, result.seed, result.size, result.backbone)
    places = range(len(result.labels))
    if said != named or len(set(result.labels)) != len(places) or len(result.answers) != len(result.truth):
        return False
    if not all(place in places for place in (*result.truth, *result.answers)):
        return False
    rights = result.right
    recalls = [float(rights[result.true_class == name].mean()) for name in np.unique(result.true_class)]
    bounds = (result.accuracy_low, result.accuracy_high)
    balanced_bounds = (result.balanced_accuracy_low, result.balanced_accuracy_high)
    counts = (result.learned_from, result.trained, result.parameters, result.peak_bytes)
    return (
        is_mean(result.accuracy, rights.tolist())
        and is_mean(result.balanced_accuracy, recalls)
        and are_shares(*bounds, *balanced_bounds)
        and are_amounts(*counts, result.seconds, result.shared_seconds, result.joules)
        and len(result.rows_hash) <= HASH_LENGTH
        and are_keys(result.rows, len(result.truth))
        and are_keys(result.groups, len(result.truth), distinct=False)
        and (not result.copy_marks or len(result.copy_marks) == len(result.truth))
        and set(result.copy_marks) <= set(MARKS)
        and (NEAR in result.copy_marks) == bool(result.nearest_copy)
        and max(len(result.sentence), len(result.chosen), len(result.nearest_copy)) <= LONGEST_SENTENCE
    )


def _measured(named: _Named, run: Run, meter: Meter, *, resumed: bool) -> CellResult:
    """What a finished run says of itself; what an interruption cost in time and energy is not known."""
    names, truth, answers, labels = _answers(run.folder / "predictions.csv")
    shared = sum(entry.seconds for entry in run.report.timing if entry.part == SHARED_PART)
    head = _head_parameters(run.folder)
    test = run.test
    return CellResult(
        **asdict(named),
        state=FINISHED,
        accuracy=test.accuracy,
        accuracy_low=test.accuracy_low,
        accuracy_high=test.accuracy_high,
        balanced_accuracy=test.balanced_accuracy,
        balanced_accuracy_low=test.balanced_accuracy_low,
        balanced_accuracy_high=test.balanced_accuracy_high,
        labels=labels,
        truth=truth,
        answers=answers,
        rows_hash=hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest(),
        rows=key_rows(names),
        groups=key_groups(run.test_groups),
        copy_marks=run.copy_marks,
        nearest_copy=run.nearest_copy,
        chosen=run.strategy if named.strategy.partition(":")[0] == AUTO else "",
        learned_from=run.learned_from,
        trained=_trained(run.folder) or head,
        parameters=run.report.backbone.parameters + head,
        seconds=None if resumed else run.seconds - shared,
        shared_seconds=shared,
        peak_bytes=_peak_bytes(meter, run.folder),
        joules=None if resumed else meter.joules,
    )


def _peak_bytes(meter: Meter, folder: Path) -> int | None:
    """The most memory of a run. Trainings on an accelerator begin the peak anew with each epoch, and write it down."""
    history = folder / "history.csv"
    if meter.peak_bytes is None or not meter.accelerated or not history.exists():
        return meter.peak_bytes
    with history.open(encoding="utf-8", newline="") as file:
        return max(meter.peak_bytes, *(int(row["peak_bytes"]) for row in csv.DictReader(file)), 0)


def _answers(path: Path) -> tuple[list[str], tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """Of a run's ``predictions.csv``: names and true classes of its rows, both classes as indices, and the classes."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = tuple(sorted({row[column] for row in rows for column in ("label", "true_label")}))
    places = {name: index for index, name in enumerate(labels)}
    truth = tuple(places[row["true_label"]] for row in rows)
    names = [f"{row['input']}\0{row['true_label']}" for row in rows]
    return names, truth, tuple(places[row["label"]] for row in rows), labels


def _head_parameters(folder: Path) -> int:
    """The numbers that the head of a run folder consists of."""
    from safetensors import safe_open

    file, prefix = (HEAD, "") if (folder / HEAD).exists() else (WEIGHTS, "head.")
    with safe_open(folder / file, framework="numpy") as tensors:
        kept = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no mapping
        shapes = [tensors.get_slice(name).get_shape() for name in kept]
    return sum(math.prod(shape) for shape in shapes)


def _trained(folder: Path) -> int:
    """The most numbers that an optimizer held at a time, 0 for a run without one."""
    phases = _read(folder / "ledger.json") or []
    return max((sum(group["parameters"] for group in phase["groups"]) for phase in phases), default=0)


def _sentence(problem: Exception) -> str:
    """Why a cell failed, in one line; the kind of the error where nobody wrote a sentence for it."""
    said = " ".join(str(problem).split())
    if not isinstance(problem, UnfreezeError):
        said = f"{type(problem).__name__}: {said}" if said else type(problem).__name__
    return said if len(said) <= LONGEST_SENTENCE else said[: LONGEST_SENTENCE - 1].rstrip() + "…"


def _write(folder: Path, result: CellResult, wanted: str, *, trace: str = "") -> None:
    record = {"request": wanted, "result": asdict(result)} | ({"traceback": trace} if trace else {})
    write_atomically(folder / RECORD, json.dumps(record, ensure_ascii=False) + "\n")


def _read(path: Path) -> Any:
    """What a JSON file holds, or None when it is not there or not whole."""
    try:
        return parse_json(read_record(path))
    except (OSError, ValueError):
        return None
