"""How long work tells that it goes on: sentences, and counts with a rate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


class Progress(Protocol):
    """Where a run reports to while it works."""

    def say(self, sentence: str) -> None:
        """Something a person should know now."""

    def count(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` units of ``what`` are finished."""


class Silent:
    """Reports nothing."""

    def say(self, sentence: str) -> None:
        """Drop the sentence."""

    def count(self, what: str, done: int, total: int) -> None:
        """Drop the count."""


@dataclass(frozen=True)
class Inside:
    """The progress of one part among many: its counts under a label, and of its sentences those that begin so."""

    progress: Progress
    label: str
    passed_on: tuple[str, ...] = ()

    def say(self, sentence: str) -> None:
        """Pass the sentence on when it is one that cannot wait."""
        if self.passed_on and sentence.startswith(self.passed_on):
            self.progress.say(f"{self.label}: {sentence}")

    def count(self, what: str, done: int, total: int) -> None:
        """Pass the count on while it runs; that the part has ended is said by its result."""
        if done < total:
            self.progress.count(f"{self.label}: {what}", done, total)


@dataclass
class Clock:
    """Seconds by named part of a run; parts that come back add up."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what happens inside under this name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds since this clock was made."""
        return time.perf_counter() - self.started
