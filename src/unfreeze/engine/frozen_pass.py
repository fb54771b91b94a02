"""The frozen pass: the features of every row, computed once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from unfreeze.arrays import allocate
from unfreeze.contracts import Backbone, Executor
from unfreeze.data.chance import keys_of
from unfreeze.data.dataset import Dataset
from unfreeze.data.digests import Digests, as_keys
from unfreeze.data.reading import HASH_BYTES, content_hashes
from unfreeze.engine.batches import BadRow, Batch, ahead, blank_sample, golden_batch, read_batches
from unfreeze.engine.store import FeatureStore, open_store
from unfreeze.engine.threads import reading_threads
from unfreeze.errors import UnfreezeError

__all__ = [
    "BadRow",
    "FeatureStore",
    "Features",
    "compute_features",
    "golden_batch",
    "open_store",
]


Floats = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Features:
    """What a frozen pass gave.

    ``arrays``: float32 (kept rows, width) by boundary; ``rows``: the rows of the data set they belong to, in the
    order they were asked for, without the ``quarantined`` ones. ``computed`` and ``reused`` count kept rows:
    contents run now, and those that were stored already or occur twice. Seconds: of the whole pass, of waiting for
    files, decoding and hashing (``seconds_read``), and of the executor (``seconds_run``). ``digests``: the content
    hashes of the kept rows, uint8 (kept rows, 16). ``cut``: texts among the ``computed`` that are longer than what is
    read. ``kept``: whether a store on disk holds them.
    """

    arrays: dict[int, Floats]
    rows: Rows
    quarantined: tuple[BadRow, ...]
    computed: int
    reused: int
    seconds: float
    seconds_read: float
    seconds_run: float
    digests: NDArray[np.uint8]
    notes: tuple[str, ...] = ()
    cut: int = 0
    kept: bool = False

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """One key a kept row, equal where rows hold the same."""
        return keys_of(self.digests)

    def joined(self, boundaries: Sequence[int]) -> Floats:
        """What is kept of these boundaries beside each other: (kept rows, widths together)."""
        return np.concatenate([self.arrays[boundary] for boundary in boundaries], axis=1)

    @cached_property
    def contents(self) -> str:
        """A hash over the kept rows and what each of them holds: another one means other inputs."""
        digest = sha256(self.rows.astype("<i8").tobytes())
        digest.update(self.digests.tobytes())
        return digest.hexdigest()


@dataclass
class _Pass:
    """What stays the same during a pass, and the seconds it took so far."""

    dataset: Dataset
    backbone: Backbone
    executor: Executor
    batch_size: int
    threads: int
    progress: Callable[[int, int], None] | None
    bad: list[BadRow] = field(default_factory=list)
    seconds_read: float = 0.0
    seconds_run: float = 0.0
    cut: int = 0

    def run(
        self, rows: Rows, boundaries: tuple[int, ...], *, expected: NDArray[np.uint8] | None = None
    ) -> Iterator[tuple[Batch, list[Floats]]]:
        """Each batch, with its positions within ``rows``, and its features; unreadable rows join ``bad``."""
        columns = [self.executor.boundaries.index(boundary) for boundary in boundaries]
        batches: Iterator[Batch] = read_batches(
            self.dataset,
            self.backbone,
            rows,
            batch_size=self.batch_size,
            threads=self.threads,
            bad=self.bad,
            expected=expected,
        )
        if self.backbone.modality == "image":
            # Tokenising uses every core by itself and is done in large chunks: nothing is won by overlapping it.
            batches = ahead(batches)
        done, mark = 0, time.perf_counter()
        with closing(batches):  # type: ignore[type-var]
            for batch in batches:
                mark = self._count_read(mark)
                self.cut += batch.cut
                summaries = self.executor(batch.state).summaries
                features = [np.asarray(summaries[column].numpy(), dtype=np.float32) for column in columns]
                now = time.perf_counter()
                self.seconds_run += now - mark
                self._check_finite(features, rows[batch.positions])
                yield batch, features
                done += len(batch.positions)
                if self.progress is not None:
                    self.progress(done, len(rows))
                mark = time.perf_counter()
            self._count_read(mark)

    def _count_read(self, mark: float) -> float:
        now = time.perf_counter()
        self.seconds_read += now - mark
        return now

    def _check_finite(self, features: list[Floats], rows: Rows) -> None:
        for array in features:
            wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
            if len(wrong):
                name = self.dataset.samples.name(int(rows[wrong[0]]))
                raise UnfreezeError(
                    f"{self.backbone.name} gives numbers that are not finite for {name} ({self.executor.name}): "
                    "try --precision fp32, or another backbone."
                )


def compute_features(
    dataset: Dataset,
    backbone: Backbone,
    *,
    executor: Executor,
    rows: Sequence[int] | Rows,
    boundaries: tuple[int, ...],
    store: FeatureStore | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """The features of ``rows`` at ``boundaries``, each content computed at most once if there is a ``store``.

    ``executor`` gives summaries at ``boundaries`` at least (and at all of the store's). With a store, its rounded
    numbers are what comes back, so that a second pass gives the same bits as the first; without one, the executor's
    own. ``progress`` is told how many of the rows to be computed are done. Raises UnfreezeError when a feature is
    not a finite number.
    """
    start = time.perf_counter()
    wanted = np.asarray(rows, dtype=np.intp)
    readers = reading_threads(executor.device) if threads is None else threads
    job = _Pass(dataset, backbone, executor, batch_size, readers, progress)
    if store is None:
        arrays, digests, computed = _into_memory(job, wanted, boundaries)
    else:
        arrays, digests, computed = _through_store(job, wanted, boundaries, store)
    kept = wanted[~np.isin(wanted, [entry.row for entry in job.bad])]
    return Features(
        arrays=arrays,
        rows=kept,
        quarantined=tuple(sorted(job.bad, key=lambda entry: entry.row)),
        computed=computed,
        reused=len(kept) - computed,
        seconds=time.perf_counter() - start,
        seconds_read=job.seconds_read,
        seconds_run=job.seconds_run,
        digests=digests,
        notes=() if store is None else store.notes,
        cut=job.cut,
        kept=store is not None and store.writable,
    )


def _into_memory(
    job: _Pass, rows: Rows, boundaries: tuple[int, ...]
) -> tuple[dict[int, Floats], Digests, int]:
    arrays: list[Floats] = []
    digests = np.zeros((len(rows), HASH_BYTES), dtype=np.uint8)
    filled = np.zeros(len(rows), dtype=bool)
    for batch, features in job.run(rows, boundaries):
        if not arrays:
            arrays = [allocate((len(rows), array.shape[1]), np.float32) for array in features]
        for target, values in zip(arrays, features, strict=True):
            target[batch.positions] = values
        digests[batch.positions] = batch.digests
        filled[batch.positions] = True
    if not arrays:
        arrays = [allocate((0, width), np.float32) for width in _widths(job.backbone, boundaries)]
    elif not filled.all():
        arrays = [array[filled] for array in arrays]
    return dict(zip(boundaries, arrays, strict=True)), digests[filled], int(filled.sum())


def _through_store(
    job: _Pass, rows: Rows, boundaries: tuple[int, ...], store: FeatureStore
) -> tuple[dict[int, Floats], Digests, int]:
    start = time.perf_counter()
    # A text is hashed sooner than it is handed to a thread: 2.6 us a row of a table on one, 9 to 19 on several.
    threads = 1 if job.dataset.modality == "text" else job.threads
    digests, unreadable = content_hashes(job.dataset.samples.select(rows), threads=threads)
    readable = digests.any(axis=1)
    for position, entry in zip(np.flatnonzero(~readable), unreadable, strict=True):
        job.bad.append(BadRow(int(rows[position]), entry.name, entry.reason))
    candidates = np.flatnonzero(readable)
    todo = candidates[store.missing(digests[candidates])]
    job.seconds_read += time.perf_counter() - start

    computed, tried = 0, len(job.bad)
    if len(todo):
        for batch, features in job.run(rows[todo], store.boundaries, expected=digests[todo]):
            store.append(batch.digests, features)
            computed += len(batch.positions)
    refused = {entry.row: entry for entry in job.bad[tried:]}
    kept = readable & _spread_refusals(job, rows, digests, todo, refused)
    widths = [store.width(boundary) for boundary in boundaries]
    if None in widths:
        widths = list(_widths(job.backbone, boundaries))
    chosen = digests[kept]
    arrays = {
        boundary: store.read(chosen, boundary, out=allocate((len(chosen), width or 0), np.float32))
        for boundary, width in zip(boundaries, widths, strict=True)
    }
    return arrays, chosen, computed


def _spread_refusals(
    job: _Pass, rows: Rows, digests: NDArray[np.uint8], todo: Rows, refused: dict[int, BadRow]
) -> NDArray[np.bool_]:
    """Which rows are usable: what was refused for one row is refused for every row of the same content."""
    usable = np.ones(len(rows), dtype=bool)
    if not refused:
        return usable
    _, contents = np.unique(as_keys(digests), return_inverse=True)
    by_content, counts = np.argsort(contents, kind="stable"), np.bincount(contents)
    ends = np.cumsum(counts)
    for position in todo:
        entry = refused.get(int(rows[position]))
        if entry is None:
            continue
        end, count = ends[contents[position]], counts[contents[position]]
        for other in by_content[end - count : end]:
            usable[other] = False
            if other != position:
                row = int(rows[other])
                job.bad.append(BadRow(row, job.dataset.samples.name(row), entry.reason))
    return usable


def _widths(backbone: Backbone, boundaries: tuple[int, ...]) -> list[int]:
    """Widths of the summaries, from one blank input: for a pass in which no row could be read."""
    import torch

    blank = blank_sample(backbone.preprocess)
    with torch.no_grad():
        return [
            int(backbone.summary(backbone.run(blank, 0, boundary), boundary).shape[1])
            for boundary in boundaries
        ]
