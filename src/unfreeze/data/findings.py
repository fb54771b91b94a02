"""What an audit finds, as plain values, and what a person should be told about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from unfreeze.data.dataset import PARTS, Ignored, Inference, Modality, Part
from unfreeze.data.rows import listed, unread_inputs
from unfreeze.runtime.decode import Quarantined

# Beyond this ratio of the long to the short side, squashing distorts and cropping cuts much away.
EXTREME_ASPECT = 2.0
# From this ratio of the largest to the smallest class on, accuracy alone misleads.
IMBALANCE = 10.0
FEW_TRAIN_ROWS = 10
FEW_TEST_ROWS = 100
# Examples of one finding on a page; the lists of the audit are longer.
MOST_SHOWN = 20


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest value."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class ImageFacts:
    """Sizes in pixels as displayed; ``aspect`` is the long side over the short one.

    ``extreme`` lists names beyond an aspect of 2, at most 1,000 of the ``extreme_count``.
    """

    width: Spread
    height: Spread
    aspect: Spread
    extreme_count: int
    extreme: tuple[str, ...]
    modes: dict[str, int]
    formats: dict[str, int]


@dataclass(frozen=True)
class TextFacts:
    """Lengths in ``unit`` (tokens, or words without a tokenizer); ``truncated`` is a share of the rows."""

    unit: str
    length: Spread
    max_length: int | None
    truncated: float | None


@dataclass(frozen=True)
class Duplicate:
    """Rows with the same content: their names, the parts and the classes that they lie in."""

    names: tuple[str, ...]
    parts: tuple[Part, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One kind of finding for a page: a title, how many there are, and some as (name, what about it)."""

    title: str
    total: int
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Audit:
    """What the look at every row found.

    ``counts``: part → class → rows. ``imbalance``: largest class over smallest, in train. ``duplicate_rows``
    counts the rows that repeat an earlier one; ``duplicates``, ``across_parts`` and ``contradictions`` (same
    content, different class) list groups, at most 1,000 each, and ``..._count`` counts all of them.
    """

    source: str
    modality: Modality
    rows: int
    labels: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    given: tuple[str, ...]
    imbalance: float
    images: ImageFacts | None
    texts: TextFacts | None
    quarantined: tuple[Quarantined, ...]
    ignored: tuple[Ignored, ...]
    inferred: tuple[Inference, ...]
    duplicate_rows: int
    duplicates: tuple[Duplicate, ...]
    across_parts_count: int
    across_parts: tuple[Duplicate, ...]
    contradictions_count: int
    contradictions: tuple[Duplicate, ...]
    groups_across_parts: int
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self)

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """Name and value of what describes the inputs, in words."""
        if self.images is not None:
            images = self.images
            return (
                ("Width", f"{_words(images.width)} pixels"),
                ("Height", f"{_words(images.height)} pixels"),
                ("Long side over short side", _words(images.aspect)),
                ("Formats", ", ".join(f"{name} {count:,}" for name, count in images.formats.items())),
                ("Colour modes", ", ".join(f"{name} {count:,}" for name, count in images.modes.items())),
            )
        if self.texts is None:
            return ()
        length = ("Length", f"{_words(self.texts.length)} {self.texts.unit}")
        if self.texts.truncated is None:
            return (length,)
        return (length, (f"Longer than {self.texts.max_length} tokens", f"{self.texts.truncated:.1%}"))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Duplicates, contradictions and extreme shapes, those that there are, with some examples each."""
        found = [
            Finding("Same content, different class", self.contradictions_count, _items(self.contradictions)),
            Finding("Same content in several parts", self.across_parts_count, _items(self.across_parts)),
            Finding("Rows that repeat an earlier one", self.duplicate_rows, _items(self.duplicates)),
        ]
        if self.images is not None:
            names = self.images.extreme[:MOST_SHOWN]
            shape = f"one side more than {EXTREME_ASPECT:g} times the other"
            found.append(
                Finding("Extreme shapes", self.images.extreme_count, tuple((n, shape) for n in names))
            )
        return tuple(finding for finding in found if finding.total)


def _words(spread: Spread) -> str:
    return f"{spread.min:g} to {spread.max:g}, median {spread.median:g}"


def _items(groups: tuple[Duplicate, ...]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (", ".join(group.names[:3]), f"{' and '.join(group.labels)}; {' and '.join(group.parts)}")
        for group in groups[:MOST_SHOWN]
    )


def warnings_about(found: Audit) -> Iterator[str]:
    """Plain sentences, the gravest first."""
    if found.quarantined:
        first = found.quarantined[0]
        yield (
            f"{len(found.quarantined):,} of {found.rows:,} rows cannot be used, such as {first.name} "
            f"({first.reason}). They are left out."
        )
    yield from unread_inputs(found.ignored, found.modality)
    if found.contradictions_count:
        first_one = found.contradictions[0]
        yield (
            f"{found.contradictions_count:,} contents carry different classes, such as {first_one.names[0]} "
            f"({listed(first_one.labels)}): at least one label of each is wrong."
        )
    if found.across_parts_count:
        names = found.across_parts[0].names
        yield (
            f"{found.across_parts_count:,} contents lie in more than one part, such as {names[0]} and "
            f"{names[1]}: results on them are too good."
        )
    if found.groups_across_parts:
        yield f"{found.groups_across_parts:,} groups lie in more than one part: results are too good."
    if found.imbalance >= IMBALANCE:
        yield (
            f"The largest class has {found.imbalance:g} times the rows of the smallest: "
            "read balanced accuracy and macro-F1 beside accuracy."
        )
    few = [name for name, count in found.counts["train"].items() if 0 < count < FEW_TRAIN_ROWS]
    if few:
        yield f"Fewer than {FEW_TRAIN_ROWS} rows to train on: {listed(few)}."
    for part in PARTS[1:]:
        lacking = [name for name, count in found.counts[part].items() if count == 0]
        if lacking and sum(found.counts[part].values()):
            yield f"The {part} part has no row of {listed(lacking)}: nothing is measured there for them."
    tested = sum(found.counts["test"].values())
    if 0 < tested < FEW_TEST_ROWS:
        yield f"The test part has {tested} rows: a result on it is uncertain by several points."
    if found.images is not None and found.images.extreme_count:
        yield (
            f"{found.images.extreme_count:,} pictures have one side more than {EXTREME_ASPECT:g} times the "
            f"other, such as {found.images.extreme[0]}: try --fit pad."
        )
    if found.texts is not None and found.texts.truncated:
        yield (
            f"{found.texts.truncated:.1%} of the texts are longer than {found.texts.max_length} tokens "
            "and will be cut: --max-length and --truncation say where."
        )
