"""Features on disk, found by the content they were computed from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import filelock
import numpy as np
from numpy.typing import NDArray

from unfreeze.contracts import Backbone, Executor, recipe_here
from unfreeze.data.digests import Digests, Positions, SortedDigests, as_keys, each_digest
from unfreeze.engine.store_files import (
    CHUNK_ROWS,
    HASH_BYTES,
    META,
    VERSION,
    Committed,
    DamagedStore,
    append_committed,
    checksums,
    empty_meta,
    read_committed,
)
from unfreeze.errors import UnfreezeError
from unfreeze.progress import Progress
from unfreeze.runtime.files import cache_root, remove_torn

# Counts up when a summary at a boundary changes its meaning.
SUMMARY_VERSION = 1
HALF_LIMIT = float(np.finfo(np.float16).max)
# Rows are made durable in groups: a crash costs a few seconds of work, a group costs some milliseconds.
GROUP_BYTES = 16 * 2**20
GROUP_SECONDS = 5.0
# Another process holds the lock only while it writes a group; a longer wait means that it hangs.
LOCK_SECONDS = 30.0


def store_key(
    backbone: Backbone, boundaries: Sequence[int], *, precision: str = "fp32", view: str = "none"
) -> str:
    """Hash of everything beside its content that decides a row of features."""
    parts = {
        "version": (VERSION, SUMMARY_VERSION),
        "weights": backbone.weights_hash,
        "recipe": recipe_here(backbone),
        "preprocess": backbone.preprocess.to_dict(),
        "boundaries": tuple(boundaries),
        "precision": precision,
        "view": view,
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_store(
    backbone: Backbone,
    executor: Executor,
    boundaries: Sequence[int],
    *,
    use: str = "auto",
    progress: Progress | None = None,
    root: Path | None = None,
) -> FeatureStore | None:
    """The store of a backbone's summaries; None when ``use`` is ``off``.

    It stands below ``root`` (default: ``features`` in the cache folder). What is wrong with it is told to
    ``progress``.
    """
    if use == "off":
        return None
    key = store_key(backbone, boundaries, precision=executor.precision)
    store = FeatureStore.open(key, boundaries, cache_root() / "features" if root is None else root)
    if progress is not None:
        for note in store.notes:
            progress.say(note)
    return store


class FeatureStore:
    """Rows of features by content hash: float16, or float32 once a number came that float16 cannot hold.

    A place that cannot be written is no error: rows then stay in memory, ``writable`` is False and ``notes`` says why.
    A store whose files were damaged is started again, never served. Several processes may use one folder.
    """

    def __init__(self, key: str, boundaries: Sequence[int], folder: Path) -> None:
        self.key = key
        self.boundaries = tuple(boundaries)
        self.notes: tuple[str, ...] = ()
        self._folder = folder
        self.writable = True
        self._committed: Committed | None = None
        self._sorted = SortedDigests(np.zeros((0, HASH_BYTES), dtype=np.uint8))
        self._widths: tuple[int, ...] | None = None
        self._wide = False
        # Rows that are not on disk, or not yet: joined features by content hash.
        self._pending: dict[bytes, NDArray[np.float32]] = {}
        self._pending_since = 0.0

    @classmethod
    def open(cls, key: str, boundaries: Sequence[int], root: Path) -> FeatureStore:
        """The store of ``key`` below ``root``; empty when there is none or it cannot be trusted."""
        store = cls(key, boundaries, root / key)
        try:
            store._folder.mkdir(parents=True, exist_ok=True)
            store._refresh()
        except OSError as problem:
            store._keep_in_memory(problem)
        return store

    @property
    def dtype(self) -> str:
        """The type of the numbers as they are kept: float16 or float32."""
        before = None if self._committed is None else self._committed.meta.dtype
        return "float32" if self._wide or before == "float32" else "float16"

    def __len__(self) -> int:
        return len(self._sorted) + len(self._pending)

    def missing(self, digests: Digests) -> Positions:
        """Positions in ``digests`` (rows, 16) of contents without features: one for each content, ascending.

        Checks the rows that are there; a damaged one empties the store, with a note.
        """
        _, first = np.unique(as_keys(digests), return_index=True)
        first = np.sort(first)
        found = self._sorted.find(digests[first])
        if not self._intact(found[found >= 0]):
            try:
                self._start_again("a row does not match its checksum")
            except OSError as problem:
                self._keep_in_memory(problem)
            found = np.full(len(first), -1)
        lacking = [
            position < 0 and digest not in self._pending
            for position, digest in zip(found, each_digest(digests[first]), strict=True)
        ]
        missing: Positions = first[np.array(lacking, dtype=bool)]
        return missing

    def append(self, digests: Digests, arrays: Sequence[NDArray[np.floating[Any]]]) -> None:
        """Keep the features of these contents: one array (rows, width) for each boundary, in their order."""
        widths = tuple(array.shape[1] for array in arrays)
        if len(arrays) != len(self.boundaries) or self._widths not in (None, widths):
            raise UnfreezeError(f"Features of widths {widths} do not belong into the store {self.key}.")
        self._widths = widths
        joined = np.concatenate([np.asarray(array, dtype=np.float32) for array in arrays], axis=1)
        self._wide |= bool(np.abs(joined).max(initial=0.0) > HALF_LIMIT)
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending.update(zip(each_digest(digests), joined, strict=True))
        late = time.monotonic() - self._pending_since >= GROUP_SECONDS
        if late or len(self._pending) * joined.shape[1] * np.dtype(self.dtype).itemsize >= GROUP_BYTES:
            self.flush()

    def read(
        self, digests: Digests, boundary: int, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Features (rows, width) at a boundary, as rounded by the store, written into ``out`` if given.

        Raises UnfreezeError when a content has none.
        """
        self.flush()
        column = self.boundaries.index(boundary)
        widths = self._widths or (0,) * len(self.boundaries)
        span = slice(sum(widths[:column]), sum(widths[: column + 1]))
        result = np.empty((len(digests), widths[column]), dtype=np.float32) if out is None else out
        for start in range(0, len(digests), CHUNK_ROWS):
            part = digests[start : start + CHUNK_ROWS]
            found = self._sorted.find(part)
            target = result[start : start + CHUNK_ROWS]
            if self._committed is not None:
                target[found >= 0] = self._committed.data[found[found >= 0], span]
            for row in np.flatnonzero(found < 0):
                target[row] = self._waiting(part[row])[span].astype(self.dtype)
        return result

    def width(self, boundary: int) -> int | None:
        """Width of the features at a boundary; None while the store is empty."""
        return None if self._widths is None else self._widths[self.boundaries.index(boundary)]

    def flush(self) -> None:
        """Make every row durable; rows that the disk does not take stay in memory, with a note."""
        if not self._pending or not self.writable or self._widths is None:
            return
        try:
            with filelock.FileLock(self._folder / "lock", timeout=LOCK_SECONDS):
                remove_torn(self._folder)
                self._commit(self._widths, news=self._refresh())
        except (OSError, filelock.Timeout) as problem:
            self._keep_in_memory(problem)

    def close(self) -> None:
        """Make every row durable and let go of the files."""
        self.flush()
        self._committed = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refresh(self) -> bool:
        """See what other processes have committed; whether there was something new."""
        try:
            committed = self._read_twice()
        except DamagedStore as damage:
            self._start_again(str(damage))
            return False
        if committed is None and self._committed is not None:
            # Removed under our feet: the mapping stays readable, but there is no place to add to.
            raise OSError("it was removed while in use")
        if committed is None or (self._committed is not None and committed.meta == self._committed.meta):
            return False
        self._use(committed)
        return True

    def _read_twice(self) -> Committed | None:
        try:
            return read_committed(self._folder, self.key, self.boundaries)
        except DamagedStore:
            # Another process may have changed the type of the rows between our reading of two files.
            return read_committed(self._folder, self.key, self.boundaries)

    def _commit(self, widths: tuple[int, ...], *, news: bool) -> None:
        before = self._committed
        start = before.meta if before is not None else empty_meta(self.key, self.boundaries, widths)
        if start.widths != widths:
            raise OSError("another process keeps features of other widths there")
        digests = np.frombuffer(b"".join(self._pending), dtype=np.uint8).reshape(-1, HASH_BYTES)
        rows = np.stack(list(self._pending.values()))
        if news:
            unknown = self._sorted.find(digests) < 0
            digests, rows = digests[unknown], rows[unknown]
        if len(rows):
            start = replace(start, dtype=self.dtype)
            self._use(append_committed(self._folder, before, start, digests, rows))
        self._pending.clear()

    def _use(self, committed: Committed) -> None:
        self._committed = committed
        self._widths = committed.meta.widths
        self._sorted = SortedDigests(committed.index["digest"])

    def _intact(self, positions: Positions) -> bool:
        if self._committed is None:
            return True
        ordered = np.sort(positions)
        for start in range(0, len(ordered), CHUNK_ROWS):
            part = ordered[start : start + CHUNK_ROWS]
            if (checksums(self._committed.data[part]) != self._committed.index["checksum"][part]).any():
                return False
        return True

    def _start_again(self, damage: str) -> None:
        self.notes += (f"The feature store {self._folder} is computed again: {damage}.",)
        self._committed = None
        self._sorted = SortedDigests(np.zeros((0, HASH_BYTES), dtype=np.uint8))
        # Its meta must go before anything is written: the files it counts are overwritten.
        (self._folder / META).unlink(missing_ok=True)

    def _keep_in_memory(self, problem: Exception) -> None:
        self.writable = False
        reason = getattr(problem, "strerror", None) or str(problem)
        self.notes += (
            f"Features are kept in memory only, since {self._folder} cannot be used: {reason}. "
            "Set UNFREEZE_CACHE to a folder with free space to keep them.",
        )

    def _waiting(self, digest: NDArray[np.uint8]) -> NDArray[np.float32]:
        row = self._pending.get(digest.tobytes())
        if row is None:
            raise UnfreezeError(f"Features have gone from {self._folder} while in use: run again.")
        return row
