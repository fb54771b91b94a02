"""Looking at every row of a data set: what is there, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import PARTS, UNLABELLED, Dataset
from unfreeze.data.findings import (
    EXTREME_ASPECT,
    Audit,
    Duplicate,
    ImageFacts,
    Spread,
    TextFacts,
    warnings_about,
)
from unfreeze.data.reading import HASH_BYTES, content_hash, in_order, read_raw, read_texts
from unfreeze.runtime.decode import BadImage, ImageInfo, Quarantined, verify_image

# Rows or groups of rows listed by name for each finding; counts are always complete.
MOST_LISTED = 1_000
TEXT_BATCH_ROWS = 1_000


class TokenCounter(Protocol):
    """What the audit needs of a tokenizer."""

    @property
    def max_length(self) -> int:
        """Longest text in tokens, special ones included."""

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each whole text."""


@dataclass(frozen=True, eq=False)
class _Look:
    """One pass over all rows: content hashes (rows, 16), bad rows, and the facts of the modality."""

    hashes: NDArray[np.uint8]
    bad: dict[int, Quarantined]
    images: ImageFacts | None = None
    texts: TextFacts | None = None


def audit(
    dataset: Dataset,
    *,
    encoder: TokenCounter | None = None,
    threads: int = 2,
    inspect: Callable[[bytes], ImageInfo] = verify_image,
    progress: Callable[[int], None] | None = None,
) -> Audit:
    """What is in the data set and what is wrong with it; every file is read once.

    ``encoder`` counts texts in its tokens. ``inspect`` looks at an image: by default it is decoded whole;
    ``inspect_image`` reads its header alone. ``progress`` is told the number of rows seen so far.
    """
    tell = progress or (lambda _: None)
    if dataset.modality == "image":
        look = _look_at_images(dataset, inspect, threads, tell)
    else:
        look = _look_at_texts(dataset, encoder, tell)
    repeated, groups = _repeated(dataset, look)
    across = [group for group in groups if len(set(dataset.part[group])) > 1]
    contradicting = [group for group in groups if len(set(dataset.label[group])) > 1]
    counts = _counts(dataset)
    of_train = [count for count in counts["train"].values() if count]
    found = Audit(
        source=dataset.source,
        modality=dataset.modality,
        rows=len(dataset),
        labels=dataset.labels.names,
        counts=counts,
        given=tuple(part for part in PARTS if part in dataset.given),
        imbalance=round(max(of_train) / min(of_train), 2) if of_train else 0.0,
        images=look.images,
        texts=look.texts,
        quarantined=tuple(look.bad.values()),
        ignored=dataset.ignored,
        inferred=dataset.inferred,
        duplicate_rows=repeated,
        duplicates=_described(dataset, groups),
        across_parts_count=len(across),
        across_parts=_described(dataset, across),
        contradictions_count=len(contradicting),
        contradictions=_described(dataset, contradicting),
        groups_across_parts=_groups_across_parts(dataset),
        warnings=(),
    )
    return replace(found, warnings=(*dataset.warnings, *warnings_about(found)))


def _look_at_images(
    dataset: Dataset, inspect: Callable[[bytes], ImageInfo], threads: int, progress: Callable[[int], None]
) -> _Look:
    def look(row: int) -> tuple[bytes, ImageInfo | Quarantined]:
        raw = read_raw(dataset.samples, row)
        if isinstance(raw, Quarantined):
            return bytes(HASH_BYTES), raw
        data = raw if isinstance(raw, bytes) else raw.encode("utf-8", errors="replace")
        try:
            return content_hash(data), inspect(data)
        except BadImage as error:
            return content_hash(data), Quarantined(dataset.samples.name(row), str(error))

    hashes = np.zeros((len(dataset), HASH_BYTES), dtype=np.uint8)
    sizes = np.zeros((len(dataset), 2), dtype=np.int32)
    bad: dict[int, Quarantined] = {}
    modes: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    for row, (digest, result) in enumerate(in_order(look, range(len(dataset)), threads=threads)):
        hashes[row] = np.frombuffer(digest, dtype=np.uint8)
        if isinstance(result, Quarantined):
            bad[row] = result
        else:
            sizes[row] = result.width, result.height
            modes[result.mode] += 1
            formats[result.format] += 1
        progress(row + 1)
    good = np.flatnonzero(sizes[:, 0] > 0)
    aspect = sizes[good].max(axis=1, initial=1) / np.maximum(sizes[good].min(axis=1, initial=2**31 - 1), 1)
    extreme = good[aspect > EXTREME_ASPECT]
    facts = ImageFacts(
        width=_spread(sizes[good, 0]),
        height=_spread(sizes[good, 1]),
        aspect=_spread(aspect),
        extreme_count=len(extreme),
        extreme=tuple(dataset.samples.name(int(row)) for row in extreme[:MOST_LISTED]),
        modes=dict(modes.most_common()),
        formats=dict(formats.most_common()),
    )
    return _Look(hashes, bad, images=facts)


def _look_at_texts(dataset: Dataset, encoder: TokenCounter | None, progress: Callable[[int], None]) -> _Look:
    hashes = np.zeros((len(dataset), HASH_BYTES), dtype=np.uint8)
    lengths = np.zeros(len(dataset), dtype=np.int64)
    bad: dict[int, Quarantined] = {}
    for start in range(0, len(dataset), TEXT_BATCH_ROWS):
        rows = range(start, min(start + TEXT_BATCH_ROWS, len(dataset)))
        for row in rows:
            raw = read_raw(dataset.samples, row)
            if isinstance(raw, Quarantined):
                bad[row] = raw
            else:
                hashes[row] = np.frombuffer(content_hash(raw), dtype=np.uint8)
        good = [row for row in rows if row not in bad]
        texts = read_texts(dataset.samples, good)
        lengths[good] = [len(text.split()) for text in texts] if encoder is None else encoder.lengths(texts)
        progress(rows.stop)
    read = lengths[[row for row in range(len(dataset)) if row not in bad]] if bad else lengths
    facts = TextFacts(
        unit="words" if encoder is None else "tokens",
        length=_spread(read),
        max_length=None if encoder is None else encoder.max_length,
        truncated=None if encoder is None or not len(read) else float(np.mean(read > encoder.max_length)),
    )
    return _Look(hashes, bad, texts=facts)


def _spread(values: NDArray[np.integer] | NDArray[np.floating]) -> Spread:
    if not len(values):
        return Spread(0.0, 0.0, 0.0)
    return Spread(*(round(float(value), 3) for value in (values.min(), np.median(values), values.max())))


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for number, part in enumerate(PARTS):
        label = dataset.label[(dataset.part == number) & (dataset.label != UNLABELLED)]
        per_class = np.bincount(label, minlength=len(dataset.labels))
        counts[part] = dict(zip(dataset.labels.names, map(int, per_class), strict=True))
    return counts


def _repeated(dataset: Dataset, look: _Look) -> tuple[int, list[NDArray[np.intp]]]:
    """How many readable rows repeat an earlier one, and the rows of each repeated content."""
    readable = np.ones(len(dataset), dtype=bool)
    readable[[row for row in look.bad if not look.hashes[row].any()]] = False
    rows = np.flatnonzero(readable)
    if not len(rows):
        return 0, []
    keys = np.ascontiguousarray(look.hashes[rows]).view(f"V{HASH_BYTES}").ravel()
    order = np.argsort(keys, kind="stable")
    fresh = np.concatenate([[True], keys[order][1:] != keys[order][:-1]])
    starts = np.flatnonzero(fresh)
    sizes = np.diff(np.append(starts, len(order)))
    groups = [
        rows[order[start : start + size]] for start, size in zip(starts, sizes, strict=True) if size > 1
    ]
    return int(len(rows) - len(starts)), sorted(groups, key=lambda group: int(group[0]))


def _described(dataset: Dataset, groups: list[NDArray[np.intp]]) -> tuple[Duplicate, ...]:
    def describe(group: NDArray[np.intp]) -> Duplicate:
        return Duplicate(
            names=tuple(dataset.samples.name(int(row)) for row in group[:MOST_LISTED]),
            parts=tuple(PARTS[number] for number in np.unique(dataset.part[group])),
            labels=tuple(dataset.labels.names[code] for code in np.unique(dataset.label[group])),
        )

    return tuple(describe(group) for group in groups[:MOST_LISTED])


def _groups_across_parts(dataset: Dataset) -> int:
    if dataset.group is None:
        return 0
    inside = dataset.group >= 0
    pairs = np.unique(np.stack([dataset.group[inside], dataset.part[inside]]), axis=1)
    return int(np.sum(np.unique(pairs[0], return_counts=True)[1] > 1))
