"""Results of long benches, kept in a file: what it holds is not measured again.

A file has one JSON object a line. A bench that takes hours can be stopped at any moment and goes on from there, on
another day or machine too: every result carries its date, processor and revision, which stand below the table. So
kept results are for accuracy; seconds are to be compared within one run alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from unfreeze.executors.processor import available_cores, processor_name

ROOT = Path(__file__).parents[1]
STAMP = ("date", "processor", "revision")


@dataclass(eq=False)
class Kept:
    """The results in ``path`` (None: in memory alone), each known by its values of the names in ``key``."""

    path: Path | None
    key: Sequence[str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # What runs is what was there when it began: a commit that comes while it runs has no part in it.
        stamp()
        if self.path is not None and self.path.exists():
            self.rows = [json.loads(line) for line in self.path.read_text().splitlines()]

    def has(self, **values: Any) -> bool:
        """Whether a result with these values, one for each name of the key, is there."""
        wanted = [values[name] for name in self.key]
        return any([row[name] for name in self.key] == wanted for row in self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Print a result and keep it, with when, where and from what it came."""
        stamped = dict(row) | stamp()
        self.rows.append(stamped)
        print(json.dumps(row), flush=True)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(stamped) + "\n")

    def told(self) -> str:
        """Where the results came from, for the line below a table."""
        found = [sorted({row[name] for row in self.rows if name in row}) for name in STAMP]
        return "Measured " + ", ".join(part for part in map(" and ".join, found) if part) + "."


@cache
def stamp() -> dict[str, str]:
    """Date, processor and revision of what runs now."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)

    # The code alone: results that were just added change no number.
    changed = "-changed" if git("diff", "--quiet", "HEAD", "--", "src", "bench/*.py").returncode else ""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": f"{processor_name()} ({available_cores()} cores)",
        "revision": (git("rev-parse", "--short", "HEAD").stdout.strip() or "unknown") + changed,
    }
