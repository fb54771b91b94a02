"""Rows of many requests as few batches: one thread computes, tasks take turns, and what is too much is refused."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from unfreeze.errors import UnfreezeError


class OverloadedError(UnfreezeError):
    """More rows wait than may wait."""


class ClosedError(UnfreezeError):
    """It computes nothing any more."""


@dataclass(eq=False)
class Row:
    """One input as the network reads it, the tasks that are asked about it, and where the answer goes."""

    value: Any
    tasks: tuple[str, ...]
    until: float
    answer: Future[Any] = field(default_factory=Future)


class Batcher:
    """Collects rows into batches of up to ``size`` and hands them to ``compute``, which answers each in order.

    What ``compute`` raises is the answer of the whole batch, an exception among its answers that of one row.

    The first row of a batch waits up to ``wait`` seconds for others. Turns go round by first task, so that a request
    with many rows does not hold up another task's one row. At most ``queue`` rows wait.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Row]], Sequence[Any]],
        *,
        size: int,
        wait: float,
        queue: int,
        name: str,
    ) -> None:
        self._compute = compute
        self._size, self._wait, self._most = size, wait, queue
        self._lines: dict[str, deque[Row]] = {}
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"batches of {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait now."""
        return self._waiting

    def submit(self, values: Sequence[Any], tasks: tuple[str, ...], *, seconds: float) -> list[Future[Any]]:
        """An answer to come for each value; all of them are taken, or none.

        A row that has waited ``seconds`` is answered with TimeoutError. Raises OverloadedError, ClosedError.
        """
        rows = [Row(value, tasks, time.monotonic() + seconds) for value in values]
        with self._changed:
            if self._closed:
                raise ClosedError("The server is stopping.")
            if self._waiting + len(rows) > self._most:
                raise OverloadedError(f"{self._waiting} inputs wait already: try again in a moment.")
            self._lines.setdefault(tasks[0], deque()).extend(rows)
            self._waiting += len(rows)
            self._changed.notify_all()
        return [row.answer for row in rows]

    def close(self) -> None:
        """Take no more rows, and return when those that wait have been answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            now = time.monotonic()
            # A request that was given up on costs nothing more.
            live = [row for row in batch if row.answer.set_running_or_notify_cancel()]
            for row in live:
                if row.until < now:
                    row.answer.set_exception(TimeoutError("It waited too long."))
            rows = [row for row in live if row.until >= now]
            if not rows:
                continue
            try:
                answers = self._compute(rows)
            except Exception as problem:  # the thread must outlive a row that cannot be computed
                for row in rows:
                    row.answer.set_exception(problem)
            else:
                for row, answer in zip(rows, answers, strict=True):
                    if isinstance(answer, Exception):
                        row.answer.set_exception(answer)
                    else:
                        row.answer.set_result(answer)

    def _next(self) -> list[Row]:
        """The next batch; empty when it is closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            until = time.monotonic() + self._wait
            while self._waiting < self._size and not self._closed:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            batch: list[Row] = []
            while self._lines and len(batch) < self._size:
                task, line = next(iter(self._lines.items()))
                batch.append(line.popleft())
                # To the end of the round, or out of it.
                del self._lines[task]
                if line:
                    self._lines[task] = line
            self._waiting -= len(batch)
            return batch
