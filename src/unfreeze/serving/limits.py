"""What one request may ask for, and what waits at most."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Names stand in paths, metrics and pages.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """``body``: bytes of a request. ``inputs``: images or texts in one. ``text``: characters of a text.

    ``seconds``: for a body to arrive, and again for its answer. ``batch``: rows that are computed together; the first
    of them waits up to ``wait`` seconds for others. ``queue``: rows that wait at most; what is more is refused.
    """

    body: int = 32 * 2**20
    inputs: int = 64
    text: int = 100_000
    seconds: float = 30.0
    batch: int = 32
    wait: float = 0.002
    queue: int = 512
