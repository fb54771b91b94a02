"""What every reader gives back: rows with class names, before labels are ordered and parts are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import Ignored, Inference, Modality, Part, Samples

NOT_GIVEN = -1
NOT_UTF8 = "its name is not UTF-8: rename it"
# Entries listed one by one for each reason; a million rows without a label must not become a million entries.
MOST_LISTED = 1_000
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
    }
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".tga"}
)
TEXT_SUFFIXES = frozenset({".txt"})
# What holds inputs and is not read: beside those that are, nobody sees that it was left out.
UNREAD_SUFFIXES: dict[Modality, tuple[str, ...]] = {
    "image": (
        ".heic", ".heif", ".hif", ".jxl", ".svg", ".pdf", ".psd", ".eps", ".exr", ".dcm", ".mov", ".mp4", ".avi",
        ".raw", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2",
    ),
    "text": (".pdf", ".doc", ".docx", ".odt", ".rtf", ".htm", ".html", ".eml", ".msg", ".epub"),
}  # fmt: skip
PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Columns:
    """The columns a request names; None means: work it out (content, label) or do without.

    ``group_beside``: the group column of the data that these are held out for; these may have one of that name.
    ``ungrouped``: rows without a group are kept, with the code -1, since nothing is drawn from them.
    """

    text: str | None = None
    image: str | None = None
    label: str | None = None
    group: str | None = None
    stratify: str | None = None
    group_beside: str | None = None
    ungrouped: bool = False

    def flags(self) -> dict[str, str]:
        """The named columns by the flag that named them."""
        return {
            f"--{name}-column": value
            for name in ("text", "image", "label", "group", "stratify")
            if (value := getattr(self, name)) is not None
        }


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled samples as a reader found them.

    ``code``: int32 (rows,), an index into ``names`` (the classes that occur, in no order that matters).
    ``part``: int8 (rows,), an index into ``PARTS`` or ``NOT_GIVEN``. ``identity``: an Arrow array of strings
    (rows,) that stay the same when the source's rows change places: paths or texts. ``group`` and
    ``stratum``: int32 codes (rows,), ranks of their values, so that they do not depend on places either; ``groups``: an
    Arrow array of those values of ``group``, by code. ``warnings``: what to read before the rows are believed.
    """

    source: str
    modality: Modality
    samples: Samples
    names: tuple[str, ...]
    code: NDArray[np.int32]
    part: NDArray[np.int8]
    identity: Any
    group: NDArray[np.int32] | None = None
    groups: Any = None
    stratum: NDArray[np.int32] | None = None
    ignored: tuple[Ignored, ...] = ()
    inferred: tuple[Inference, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.code)


class IgnoredLog:
    """Collects what was ignored; beyond ``MOST_LISTED`` entries a reason it only counts."""

    def __init__(self) -> None:
        self._entries: list[Ignored] = []
        self._counts: Counter[str] = Counter()

    def add(self, name: str, reason: str) -> None:
        """Note one entry."""
        self._counts[reason] += 1
        if self._counts[reason] <= MOST_LISTED:
            self._entries.append(Ignored(name, reason))

    def add_many(self, reason: str, count: int) -> None:
        """Note entries that are counted and not named."""
        self._counts[reason] += count

    def wants(self, reason: str) -> bool:
        """Whether the next entry with this reason would still be listed."""
        return self._counts[reason] < MOST_LISTED

    def entries(self) -> tuple[Ignored, ...]:
        """The listed entries, then one line a reason for those beyond the limit."""
        listed = Counter(entry.reason for entry in self._entries)
        rest = (
            Ignored(
                f"{count - listed[reason]:,} {'more' if listed[reason] else 'rows'}",
                reason,
                count - listed[reason],
            )
            for reason, count in self._counts.items()
            if count > listed[reason]
        )
        return (*self._entries, *rest)


def no_input(suffix: str) -> str:
    """Why a file with this ending is no sample."""
    return f"not an image or text file ({suffix or 'no extension'})"


def unread_inputs(ignored: Iterable[Ignored], modality: Modality) -> tuple[str, ...]:
    """A sentence that counts files of formats which hold such inputs and are not read; none where there are none."""
    known = {no_input(suffix): suffix for suffix in UNREAD_SUFFIXES[modality]}
    counts: Counter[str] = Counter()
    for entry in ignored:
        if entry.reason in known:
            counts[known[entry.reason]] += entry.count
    if not counts:
        return ()
    endings = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common())
    files = "1 file is" if counts.total() == 1 else f"{counts.total():,} files are"
    return (f"{files} left out, of formats that are not read: {endings}. Convert what is meant as an input.",)


def suffix_of(name: str) -> str:
    """The file name's last extension, lower case, with its dot; empty when there is none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > max(name.rfind("/"), name.rfind("\\")) else ""


def has_utf8(name: str) -> bool:
    """Whether a string can be written down; the name of a file may hold any bytes, which stand in it as surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    """The name with an escape for each byte that is no UTF-8."""
    return name.encode("utf-8", errors="backslashreplace").decode("utf-8")


def listed(names: list[str] | tuple[str, ...], *, most: int = 8) -> str:
    """The names for a sentence: quoted, joined by commas, cut after ``most``."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
