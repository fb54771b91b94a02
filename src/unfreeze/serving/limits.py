"""What one request may ask for, and what waits at most."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Names stand in paths, metrics and pages.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """``body``: bytes of a request. ``inputs``: images or texts in one. ``text``: characters of a text.

    ``pixels`` of an image. ``held``: bytes of all bodies that are under way, never less than two of the largest.
    ``seconds``: for a body to arrive, again for its inputs to be decoded, and again for its answer. ``batch``: rows
    that are computed together; the first of them waits up to ``wait`` seconds for others. ``queue``: rows that wait at
    most; what is more is refused.
    ``adapters``: bytes of adapters and heads in memory, the last used; the others are read again when they are asked.
    """

    body: int = 32 * 2**20
    held: int = 256 * 2**20
    inputs: int = 64
    text: int = 100_000
    pixels: int = 50_000_000
    seconds: float = 30.0
    batch: int = 32
    wait: float = 0.002
    queue: int = 512
    # As much again as the server itself takes with one small network (bench/RESULTS.md): some 700 adapters of MiniLM at
    # rank 8.
    adapters: int = 10**9
