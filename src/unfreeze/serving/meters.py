"""What is measured while serving, in Prometheus' form; a registry of its own, so that two servers do not mix."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Meters:
    """``answered`` and ``computed`` are told what happens; ``text`` is the page for Prometheus."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "unfreeze_requests", "Requests by task and status.", ["task", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "unfreeze_request_seconds",
            "Time to an answer.",
            ["task"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._rows = Histogram(
            "unfreeze_batch_rows", "Inputs computed together.", buckets=ROWS, registry=self._registry
        )
        self._errors = Counter(
            "unfreeze_input_errors", "Inputs that could not be read.", ["task"], registry=self._registry
        )
        self._waiting = Gauge("unfreeze_waiting", "Inputs that wait to be computed.", registry=self._registry)
        self._tasks = Gauge("unfreeze_tasks", "Tasks that are served.", registry=self._registry)

    def watch(self, waiting: Callable[[], float], tasks: Callable[[], float]) -> None:
        """Ask these when the page is read."""
        self._waiting.set_function(waiting)
        self._tasks.set_function(tasks)

    def answered(self, task: str, status: int, seconds: float) -> None:
        """A request about a task that is served; other names would let anyone fill the memory."""
        self._requests.labels(task, str(status)).inc()
        self._seconds.labels(task).observe(seconds)

    def unread(self, task: str, inputs: int) -> None:
        """Inputs of an answered request that could not be read."""
        if inputs:
            self._errors.labels(task).inc(inputs)

    def computed(self, rows: int) -> None:
        """A batch."""
        self._rows.observe(rows)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
