"""What the commands share: where they print, how they show progress, and the JSON they leave."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from unfreeze.amounts import duration

if TYPE_CHECKING:
    from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """A rich console on standard output or standard error."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def print_json(values: object) -> None:
    """Write one JSON object to standard output."""
    sys.stdout.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")


class TerminalProgress:
    """Progress for a person: sentences as lines, counts as one line that renews itself on a terminal.

    Everything goes to standard error, so that standard output holds results alone.
    """

    def __init__(self) -> None:
        self._console = make_console(stderr=True)
        self._live = self._console.is_terminal
        self._what = ""
        self._started = 0.0
        self._first = 0
        self._shown = 0.0
        self._open_line = False

    def say(self, sentence: str) -> None:
        """Print the sentence on a line of its own."""
        self._close_line()
        from unfreeze.report.terminal import on_one_line

        self._console.print(on_one_line(sentence), markup=False)

    def count(self, what: str, done: int, total: int) -> None:
        """Show the count with its rate and the time left, at most five times a second."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._first, self._shown = what, now, done, 0.0
        finished = done >= total
        if not self._live and not finished:
            return
        if self._live and not finished and now - self._shown < 0.2:
            return
        self._shown = now
        seconds = max(now - self._started, 1e-9)
        rate = (done - self._first) / seconds
        line = f"{what}: {done:,} of {total:,}"
        if rate > 0:
            pace = f"{rate:,.0f}/s" if rate >= 1 else f"{duration(1 / rate)} each"
            left = "" if finished else f", {duration((total - done) / rate)} left"
            line += f" ({pace}{left})"
        if self._live:
            self._console.file.write(f"\r\x1b[2K{line}")
            self._console.file.flush()
            self._open_line = True
            if finished:
                self._close_line()
        else:
            self._console.print(line, markup=False)

    def _close_line(self) -> None:
        if self._open_line:
            self._console.file.write("\n")
            self._open_line = False
