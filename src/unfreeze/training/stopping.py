"""Signals that ask a training to stop, and to save what it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unfreeze.progress import Progress


@contextmanager
def stop_on_signal(
    progress: Progress, *, then: str = "the state will be saved"
) -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and the first SIGINT into a wish to stop; a second SIGINT leaves at once.

    ``then``: what becomes of the work so far, as it is told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        progress.say(f"Stopping after this step; {then}.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
