"""Signals that ask a training to stop, and to save what it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unfreeze.progress import Progress


@contextmanager
def stop_on_signal(progress: Progress) -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and the first SIGINT into a wish to stop; a second SIGINT leaves at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        progress.say("Stopping after this step; the state will be saved.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
