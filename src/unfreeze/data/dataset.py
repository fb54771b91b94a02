"""The data set as columns: one array a property, whatever the source, so that a million rows stay small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unfreeze.runtime.labels import Labels

if TYPE_CHECKING:
    from unfreeze.data.tokens import Tokens

Modality = Literal["image", "text"]
Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
UNLABELLED = -1


class Samples(Protocol):
    """The raw inputs by position."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What a person calls this row, unique: a path relative to the data, or ``FILE:ROW`` (from 1)."""

    def read(self, row: int) -> bytes | str:
        """The raw input: an image file's bytes, or a text. Raises OSError when it cannot be read."""

    def select(self, rows: NDArray[np.intp]) -> Samples:
        """The same samples, restricted to these rows in this order."""


@runtime_checkable
class Remembering(Protocol):
    """Samples that are far away, and know of rows that were read what may be asked again."""

    def known_hash(self, row: int) -> bytes | None:
        """The ``content_hash`` of the raw input; None when it has to be read first."""


@dataclass(frozen=True)
class Ignored:
    """An entry of the source that is not a sample, and why (hidden, junk, not an image, no label).

    ``count``: how many it stands for.
    """

    name: str
    reason: str
    count: int = 1


@dataclass(frozen=True)
class Inference:
    """Something the reader worked out by itself, such as the label column; shown to the person."""

    what: str
    value: str
    reason: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples with their parts.

    ``label``: int32 (rows,), an index into ``labels`` or ``UNLABELLED``. ``part``: int8 (rows,), an index
    into ``PARTS``. ``group``: int32 (rows,) codes (-1: none), or None. ``given``: the parts that came with
    the data or the request instead of being drawn from it. ``warnings``: what to read before the rows are believed.
    ``tokens``: where texts that are read more than once are tokenised once, by whatever is selected of them too; None
    where each is read once.
    """

    source: str
    modality: Modality
    labels: Labels
    samples: Samples
    label: NDArray[np.int32]
    part: NDArray[np.int8]
    group: NDArray[np.int32] | None = None
    given: frozenset[Part] = frozenset()
    ignored: tuple[Ignored, ...] = ()
    inferred: tuple[Inference, ...] = ()
    warnings: tuple[str, ...] = ()
    tokens: Tokens | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def fingerprint(self) -> str:
        """A hash over names, labels and parts of all rows: another one means other data or another split."""
        digest = sha256()
        for name in self.labels:
            digest.update(f"{name}\0".encode())
        for row in range(len(self)):
            digest.update(f"{self.samples.name(row)}\0{self.label[row]}\0{self.part[row]}\n".encode())
        return digest.hexdigest()

    def groups_of(self, rows: NDArray[np.intp]) -> NDArray[np.int32] | None:
        """The groups of these rows, codes (rows,), or None where none of them has one.

        A row without, such as those of a test part that was given and has no such column, is a group of its own.
        """
        if self.group is None:
            return None
        codes = self.group[rows]
        alone = codes < 0
        if alone.all():
            return None
        codes[alone] = -1 - np.arange(int(alone.sum()), dtype=np.int32)
        return codes

    def rows(self, *parts: Part) -> NDArray[np.intp]:
        """Positions of the rows in these parts, ascending."""
        wanted = [PARTS.index(part) for part in parts]
        return np.flatnonzero(np.isin(self.part, wanted))

    def select(self, rows: Sequence[int] | NDArray[np.intp]) -> Dataset:
        """The same data set, restricted to these rows in this order."""
        keep = np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            samples=self.samples.select(keep),
            label=self.label[keep],
            part=self.part[keep],
            group=None if self.group is None else self.group[keep],
        )
