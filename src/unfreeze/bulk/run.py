"""Bulk prediction on Ray, from inputs to a folder of Parquet files.

The pieces are given to Ray's actors by hand and not as a data set of Ray Data: that works on blocks, which it splits
and joins by size, so that no file it writes stands for a known range of the inputs, and a job that was killed could not
tell which rows are missing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unfreeze.bulk.folder import (
    Written,
    check_output,
    folder_of,
    open_folder,
    pieces_done,
    write_piece,
    written,
)
from unfreeze.bulk.pieces import Piece, cut_inputs
from unfreeze.bundle.claim import locked
from unfreeze.bundle.folder import BUNDLE
from unfreeze.bundle.loading import read_bundle
from unfreeze.bundle.parts import fitting
from unfreeze.bundle.places import run_folder
from unfreeze.cluster import RETRIES, Cluster, check_engine, joined, settle
from unfreeze.data.dataset import Modality
from unfreeze.errors import StoppedError, UnfreezeError
from unfreeze.predicting import Predictor, is_exported, open_predictor
from unfreeze.progress import Progress, Silent
from unfreeze.runtime.exported import load as load_exported
from unfreeze.runtime.files import file_hash
from unfreeze.runtime.preprocess import Preprocess, preprocess_from_dict
from unfreeze.runtime.reading import told_of_cut
from unfreeze.runtime.remote import is_remote, scrubbed

# A chunk of plain predict, so that batches hold the same rows; a minute of work where a core is slow.
PIECE_ROWS = 2_048


@dataclass(frozen=True, kw_only=True)
class BulkRequest:
    """What to predict, with what, and where to: paths and URLs; ``workers`` None: as many as there are cores for."""

    run: str
    inputs: tuple[str, ...]
    output: str | None
    engine: str
    column: str | None = None
    top_k: int = 1
    batch_size: int = 32
    workers: int | None = None
    piece_rows: int = PIECE_ROWS


@dataclass(frozen=True)
class _Order:
    """What a worker needs to know of the whole."""

    run: str
    output: str
    modality: Modality
    top_k: int
    batch_size: int
    rows: int
    place: str
    cores: int


class _Worker:
    """An actor: one model, loaded with the first piece, so that a problem with it has its own words."""

    def __init__(self, order: _Order) -> None:
        self._order = order

    @cached_property
    def _model(self) -> Predictor:
        settle(self._order.place, self._order.cores)
        return open_predictor(run_folder(self._order.run), threads=self._order.cores)

    def predict(self, number: int, piece: Piece) -> int:
        """Predict and write a piece; nothing of it comes back but how many of its texts were cut."""
        order, model = self._order, self._model
        before = model.cut
        rows = model.iterate(
            piece.open(order.modality),
            top_k=order.top_k,
            batch_size=order.batch_size,
            expected_rows=order.rows,
        )
        write_piece(folder_of(order.output), number, rows, top_k=order.top_k)
        return model.cut - before


def predict_bulk(request: BulkRequest, *, progress: Progress | None = None) -> Written:
    """Predict all rows of the inputs into the folder, each once; pieces that an earlier command wrote are kept.

    Raises RequestError for what cannot be done, StoppedError when it is interrupted, and UnfreezeError when pieces
    are missing at the end since their workers died again and again.
    """
    progress = progress or Silent()
    check_engine(request.engine)
    output = check_output(request.output)
    reads, run = _identified(run_folder(request.run))
    cut = cut_inputs(
        request.inputs, modality=reads.kind, column=request.column, piece_rows=request.piece_rows
    )
    for note in cut.notes:
        progress.say(note)
    manifest = {"run": run, "inputs": cut.digest, "column": request.column, "top_k": request.top_k}
    # A store has no locks; two commands that write the same pieces write the same rows.
    with nullcontext() if is_remote(output) else locked(Path(output), flag="--output"):
        folder = open_folder(output, manifest | {"piece_rows": request.piece_rows})
        done = pieces_done(folder)
        todo = {number: piece for number, piece in enumerate(cut.pieces) if number not in done}
        left = sum(map(len, todo.values()))
        if left < cut.rows:
            progress.say(f"{cut.rows - left:,} of {cut.rows:,} rows are written already.")
        if todo:
            with joined(request.engine, workers=request.workers) as cluster:
                _predict(cluster, request, output, reads, todo, cut.rows, progress)
        total = written(folder)
    if total.good + total.bad != cut.rows:
        raise UnfreezeError(
            f"{scrubbed(output)} holds {total.good + total.bad:,} rows of {cut.rows:,}: its files were changed "
            "meanwhile. Remove the folder and begin again."
        )
    return total


def _identified(run: Path) -> tuple[Preprocess, str]:
    """How a run reads its inputs, and the hash that stands for all that decides its answers."""
    if is_exported(run):
        file = run / "model.onnx" if run.is_dir() else run
        return load_exported(file).card.reads, file_hash(file)
    with fitting(run):
        reads = preprocess_from_dict(read_bundle(run).preprocess)
    # It holds the hashes of the weights.
    return reads, file_hash(run / BUNDLE)


def _predict(
    cluster: Cluster,
    request: BulkRequest,
    output: str,
    reads: Preprocess,
    todo: dict[int, Piece],
    rows: int,
    progress: Progress,
) -> None:
    workers = cluster.workers(request.workers)
    order = _Order(
        run=request.run,
        output=output,
        modality=reads.kind,
        top_k=request.top_k,
        batch_size=request.batch_size,
        rows=rows,
        place=os.getcwd(),  # noqa: PTH109 - it goes to other machines as a text
        cores=workers.cores,
    )
    actor = cluster.ray.remote(num_cpus=workers.cores, max_restarts=-1, max_task_retries=RETRIES)(_Worker)
    actors = [actor.remote(order) for _ in range(min(workers.count, len(todo)))]
    already = done = rows - sum(map(len, todo.values()))
    lost = cut = 0
    try:
        for piece, its_cut in _each(cluster, actors, todo):
            if its_cut is None:
                lost += len(piece)
                continue
            done += len(piece)
            cut += its_cut
            progress.count("rows", done, rows)
    except KeyboardInterrupt:
        raise StoppedError(
            f"Stopped as asked: {done:,} of {rows:,} rows are written. The same command does the others."
        ) from None
    for sentence in told_of_cut(reads, cut, done - already):
        progress.say(sentence)
    if lost:
        raise UnfreezeError(
            f"{lost:,} of {rows:,} rows are missing: their workers died {RETRIES + 1} times, as they do where memory "
            "is short. The same command does these alone; with fewer --workers each has more."
        )


def _each(
    cluster: Cluster, actors: Sequence[object], todo: dict[int, Piece]
) -> Iterator[tuple[Piece, int | None]]:
    """Each piece as it is done, and how many of its texts were cut; None where its worker died each time."""
    ray = cluster.ray
    waiting, idle = deque(todo), deque(actors)
    running: dict[object, tuple[object, int]] = {}
    while waiting or running:
        while waiting and idle:
            worker, number = idle.popleft(), waiting.popleft()
            running[worker.predict.remote(number, todo[number])] = (worker, number)  # type: ignore[attr-defined]
        (ready,), _ = ray.wait(list(running), num_returns=1)
        worker, number = running.pop(ready)
        idle.append(worker)
        try:
            yield todo[number], ray.get(ready)
        except ray.exceptions.RayTaskError as problem:
            # What the worker raised, in its own words.
            raise problem.cause from None
        except ray.exceptions.RayError:
            yield todo[number], None
