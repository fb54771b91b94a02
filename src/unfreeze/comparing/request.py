"""What a comparison was asked for, and the cells it comes to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any

from unfreeze.comparing.entry import FLOOR_ENTRY, Entry, make_entries, parse_entries
from unfreeze.config import (
    AUTO,
    FIXED_BY_CLASSIC,
    FLOOR,
    RANGES,
    READ_BY,
    TrainRequest,
    flag,
    is_one_of,
    reads,
    shown,
)
from unfreeze.errors import RequestError
from unfreeze.runtime.remote import here_alone

# Three tell how far results wander from draw to draw; more cost as much again each.
SEEDS = 3
# A typing error rather than a plan: each seed trains everything once more.
MOST_SEEDS = 1_000
# Long enough to be told apart, short enough for every file system.
LONGEST_NAME = 80
# What may be said of each from Python: the kinds of one value, of the values in a list, and both in words.
MEANT: dict[str, tuple[tuple[type, ...], tuple[type, ...], str]] = {
    "strategies": ((str, NoneType), (str,), "a text with commas, or a list of texts"),
    "seeds": ((Integral,), (Integral,), "a whole number, or a list of them"),
    "train_size": ((Integral, str, NoneType), (Integral,), "a whole number, or a list of them"),
    "backbones": ((str, NoneType), (str,), "a text with commas, or a list of texts"),
    "output_dir": ((str, Path, NoneType), (), "a path"),
    "resume": ((bool,), (), "true or false"),
}
TIME_LIMIT = "time_limit"
# Decided by the comparison itself, cell by cell.
DECIDED = {
    "strategy": "--strategies",
    "seed": "--seeds",
    "output_dir": "--output-dir",
    "resume": "--resume",
}


@dataclass(frozen=True)
class Cell:
    """One training of a comparison. ``backbone`` None: the one that all share; ``size`` None: all rows."""

    entry: Entry
    seed: int
    size: int | None = None
    backbone: str | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        parts = [] if self.backbone is None else [safe_name(self.backbone)]
        parts.append(safe_name(self.entry.name))
        parts += [] if self.size is None else [f"n{self.size}"]
        return "-".join([*parts, f"seed{self.seed}"])

    def __str__(self) -> str:
        at = "" if self.size is None else f" from {self.size:,} rows"
        on = "" if self.backbone is None else f" on {self.backbone}"
        return f"{self.entry.name}{on}{at}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """Everything that ``compare`` can be told; ``base`` holds what all its trainings share.

    ``entries`` None: the strategies that fit the backbone, or with ``backbones`` none. ``sizes``: rows to learn from,
    ascending; empty: all. ``backbones``: those to rank; empty: the one of ``base``.
    """

    base: TrainRequest
    entries: tuple[Entry, ...] | None = None
    seeds: tuple[int, ...] = tuple(range(SEEDS))
    sizes: tuple[int, ...] = ()
    backbones: tuple[str, ...] = ()
    output_dir: Path | None = None
    resume: bool = False

    def check(self) -> None:
        """Raise one RequestError that names everything wrong with the request itself, or return."""
        problems = list(self._problems())
        if not problems:
            for entry in self.entries or (FLOOR_ENTRY,):
                try:
                    self.train_request(Cell(entry, self.seeds[0])).check()
                except RequestError as problem:
                    problems += [line for line in str(problem).splitlines() if line not in problems]
        if problems:
            raise RequestError("\n".join(problems))

    def _problems(self) -> Iterator[str]:
        for name, own in DECIDED.items():
            if name in self.base.given():
                yield f"{flag(name)} is decided for each training by {own} of compare: leave it out of the settings."
        if not self.seeds:
            yield "--seeds names none: give how many, or which."
        if len(self.seeds) > MOST_SEEDS or any(not 0 <= seed <= RANGES["seed"][1] for seed in self.seeds):
            yield f"--seeds is out of range: give a number of seeds from 1 to {MOST_SEEDS:,}."
        least, most = RANGES["train_size"]
        for size in self.sizes:
            if not least <= size <= most:
                yield f"--train-size {size} is out of range: give values from {least:g} to {most:g}."
        if self.backbones and self.base.backbone is not None:
            yield "--backbone and --backbones were both given: leave one of them out."
        if len(self.sizes) > 1 and self.backbones and not self.entries:
            yield "--train-size with several values draws learning curves of strategies: give one, or --strategies."
        if refused := here_alone(self.output_dir, "--output-dir"):
            yield refused
        if self.resume and self.output_dir is None:
            yield "--resume needs --output-dir: the folder of the comparison to continue."
        yield from self._unread()

    def _unread(self) -> Iterator[str]:
        """A sentence for each shared setting that nothing of the comparison reads."""
        if self.entries is None and not self.backbones:
            return
        entries = self.entries or ()
        # Backbones alone are ranked by probes, which have batches and heads too, whatever the recipe.
        shared = FIXED_BY_CLASSIC if entries else READ_BY
        trained = entries_with_floor(entries)
        unread = [
            name for name in (*shared, TIME_LIMIT) if not any(self._reads(one, name) for one in trained)
        ]
        if not entries and self.base.recipe == "classic":
            unread.append("recipe")
        compared = ", ".join(entry.name for entry in entries) or "a ranking of backbones"
        for name in unread:
            if name in self.base.given():
                yield f"{flag(name)} would have no effect on {compared}: leave it out or compare others."

    def _reads(self, entry: Entry, name: str) -> bool:
        recipe = entry.settings.get("recipe", self.base.recipe)
        if recipe == "classic" and name in FIXED_BY_CLASSIC:
            return False
        if name == TIME_LIMIT:
            return entry.strategy == AUTO and recipe != "classic"
        return reads(entry.strategy, name)

    def train_request(self, cell: Cell, folder: Path | None = None) -> TrainRequest:
        """What is trained in a cell: what all share, as far as its strategy reads it, and its own settings."""
        left_out = {name: None for name in self.base.given() if not self._reads(cell.entry, name)}
        # Its own settings last: one that nothing reads is refused by its name, whatever all share.
        settings: dict[str, Any] = left_out | dict(cell.entry.settings)
        return replace(
            self.base,
            **settings,
            strategy=cell.entry.strategy,
            seed=cell.seed,
            train_size=cell.size,
            backbone=cell.backbone or self.base.backbone,
            output_dir=folder,
            # What a comparison is for are its figures.
            keep_both=False,
        )

    def cells(self, entries: Sequence[Entry], backbones: Sequence[str | None]) -> tuple[Cell, ...]:
        """Every cell, in the order in which they are trained: a seed through, then the next; the floor first."""
        wanted = entries_with_floor(entries)
        return tuple(
            Cell(entry, seed, size, backbone)
            for seed in self.seeds
            for backbone in backbones
            for size in self.sizes or (None,)
            for entry in wanted
        )


def make_request(
    base: TrainRequest,
    *,
    strategies: Sequence[str] | str | None = None,
    seeds: int | Sequence[int] = SEEDS,
    train_size: int | Sequence[int] | str | None = None,
    backbones: Sequence[str] | str | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
) -> CompareRequest:
    """The request of what was said, lists as such or as texts with commas; RequestError for what cannot be read.

    ``seeds``: how many, from 0 on, or which.
    """
    if train_size is None:
        train_size = base.train_size
    given = {
        "strategies": strategies,
        "seeds": seeds,
        "train_size": train_size,
        "backbones": backbones,
        "output_dir": output_dir,
        "resume": resume,
    }
    problems = list(_wrong_kinds(given))
    if problems:
        raise RequestError("\n".join(problems))
    entries = None
    if strategies is not None:
        entries = parse_entries(strategies) if isinstance(strategies, str) else make_entries(strategies)
    listed = backbones.split(",") if isinstance(backbones, str) else () if backbones is None else backbones
    names = [name.strip() for name in listed if name.strip()]
    if backbones is not None and not names:
        raise RequestError(
            "--backbones names none: give names with commas between; see `unfreeze backbones`."
        )
    if isinstance(seeds, int | Integral):
        if seeds < 1:
            raise RequestError(f"--seeds {shown(int(seeds))} trains nothing: give 1 or more.")
        # More than the most is refused by its number alone.
        seeds = range(min(int(seeds), MOST_SEEDS + 1))
    return CompareRequest(
        base=replace(base, train_size=None),
        entries=entries,
        seeds=tuple(dict.fromkeys(map(int, seeds))),
        sizes=_sizes(train_size),
        backbones=tuple(dict.fromkeys(names)),
        output_dir=None if output_dir is None else Path(output_dir),
        resume=resume,
    )


def _wrong_kinds(given: Mapping[str, object]) -> Iterator[str]:
    for name, value in given.items():
        one, several, words = MEANT[name]
        if several and isinstance(value, Collection) and not isinstance(value, str | bytes):
            fits = all(is_one_of(part, several) for part in value)
        else:
            fits = is_one_of(value, one)
        if not fits:
            yield f"{flag(name)} {shown(value)} is of the wrong kind: give {words}."


def _sizes(given: int | Sequence[int] | str | None) -> tuple[int, ...]:
    """The sizes, each once, ascending."""
    if given is None:
        return ()
    if isinstance(given, str):
        try:
            numbers = [int(text) for text in given.split(",") if text.strip()]
        except ValueError:
            raise RequestError(
                f"--train-size {given!r} is no list of whole numbers: write it like 50,100,200."
            ) from None
        if not numbers:
            raise RequestError("--train-size names no size: write it like 50,100,200.")
        return tuple(sorted(set(numbers)))
    return tuple(sorted({int(given)} if isinstance(given, int | Integral) else set(map(int, given))))


def entries_with_floor(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries with the floor before them, once."""
    return (FLOOR_ENTRY, *(entry for entry in entries if entry.name != FLOOR))


def safe_name(text: str) -> str:
    """The text as a part of a file name; where something had to be replaced, a hash tells it from others."""
    plain = re.sub(r"[^A-Za-z0-9._=+-]", "_", text)
    if plain.replace("_", ":") == text.replace("_", ":") and len(plain) <= LONGEST_NAME:
        return plain
    return f"{plain[: LONGEST_NAME - 9]}-{sha256(text.encode()).hexdigest()[:8]}"
