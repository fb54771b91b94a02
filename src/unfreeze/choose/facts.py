"""What is known of the data, the machine and their distance from the pretraining: numbers, each with a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unfreeze.choose.likeness import ALIKE, NEIGHBOURS, Pairs
from unfreeze.choose.paired import reach

# From this ratio of the largest to the smallest class on, accuracy hides the smallest one.
LOPSIDED = 10.0
FEW_ROWS_OF_A_CLASS = 10
# More counts than these are no sentence.
MOST_CLASSES_LISTED = 12
# Differences of accuracies that are worth a word: a share of a hundred rows is known to about four points.
WORTH_A_WORD = 0.05
# Standard deviations by which activations may lie from what a network is used to without being far.
FAR_SHIFT = 0.5

Value = float | int | str


@dataclass(frozen=True)
class Fact:
    """A name, a number or a word, and a sentence that says it to somebody who has never trained a network."""

    name: str
    value: Value
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Counts:
    """``per_class``: rows that are not test, by class name; ``train`` and ``val`` are their parts."""

    modality: str
    train: int
    val: int
    test: int
    per_class: dict[str, int]

    @property
    def rows(self) -> int:
        """Rows that are not test."""
        return sum(self.per_class.values())

    def facts(self) -> Iterator[Fact]:
        """The counts, one by one."""
        kind = f"{self.modality}s"
        yield Fact("modality", self.modality, f"The rows are {kind}.")
        yield Fact(
            "rows",
            self.rows,
            f"There are {self.rows:,} {kind} to learn from ({self.train:,} to train on, {self.val:,} to choose by); "
            f"another {self.test:,} are kept for the final test.",
        )
        yield Fact(
            "classes", len(self.per_class), f"They are to be told apart into {len(self.per_class):,} classes."
        )
        if 2 < len(self.per_class) <= MOST_CLASSES_LISTED:
            listed = ", ".join(f"{name} {count:,}" for name, count in self.per_class.items())
            yield Fact("rows_of_each_class", listed, f"Rows of each class: {listed}.")
        ordered = sorted(self.per_class, key=lambda name: self.per_class[name])
        least, most = ordered[0], ordered[-1]
        alike = self.per_class[least] == self.per_class[most]
        few, many = (", as every class has",) * 2 if alike else (", the fewest of all", ", the most")
        if self.per_class[least] < FEW_ROWS_OF_A_CLASS:
            few = ": too few to learn it well"
        yield Fact(
            "least_rows_of_a_class",
            self.per_class[least],
            f"Class '{least}' has {self.per_class[least]:,} rows{few}.",
        )
        yield Fact(
            "most_rows_of_a_class",
            self.per_class[most],
            f"Class '{most}' has {self.per_class[most]:,} rows{many}: always answering it would be right for "
            f"{self.per_class[most] / self.rows:.1%}.",
        )
        ratio = round(self.per_class[most] / max(self.per_class[least], 1), 2)
        hides = ": read balanced accuracy, not accuracy alone" if ratio >= LOPSIDED else ""
        told = f"The largest class has {ratio:g} times the rows of the smallest{hides}."
        if ratio == 1:
            told = "All classes have the same number of rows: the ratio of the largest to the smallest is 1."
        yield Fact("imbalance", ratio, told)


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """Pixels, as displayed: the middle width and height, the smallest and largest side; ``side`` the network reads."""

    width: float
    height: float
    smallest: float
    largest: float
    side: int

    def facts(self) -> Iterator[Fact]:
        """The sizes in one sentence."""
        middle = round((self.width + self.height) / 2)
        yield Fact(
            "image_pixels",
            middle,
            f"A typical image has {self.width:g} by {self.height:g} pixels (sides from {self.smallest:g} to "
            f"{self.largest:g}, {middle} in the middle); the network looks at {self.side} by {self.side}.",
        )


@dataclass(frozen=True, kw_only=True)
class TextLengths:
    """Tokens of a text; ``limit`` is where texts are cut, which concerns the share ``cut``."""

    median: float
    longest: float
    limit: int
    cut: float

    def facts(self) -> Iterator[Fact]:
        """The lengths in a sentence, and what is cut in another."""
        yield Fact(
            "text_tokens",
            self.median,
            f"A typical text has {self.median:g} tokens (pieces of words), the longest {self.longest:,.0f}.",
        )
        yield Fact(
            "texts_cut",
            round(self.cut, 4),
            f"Texts are cut after {self.limit:,} tokens, which shortens {self.cut:.1%} of them.",
        )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where training would run: the device, its processor, usable cores, free memory in bytes."""

    device: str
    processor: str
    cores: int
    memory_bytes: int

    def facts(self) -> Iterator[Fact]:
        """The machine, one by one."""
        yield Fact("device", self.device, f"Training would run on {self.device} ({self.processor}).")
        plural = "s" if self.cores != 1 else ""
        yield Fact("cores", self.cores, f"The program may use {self.cores} processor core{plural}.")
        yield Fact(
            "memory_bytes",
            self.memory_bytes,
            f"About {self.memory_bytes / 1e9:.1f} GB of memory are free for it.",
        )


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How far activations lie from the statistics that the network carries, in standard deviations.

    ``early`` and ``late``: means over the first and the last third of its ``norms`` normalisation layers, on ``rows``.
    """

    early: float
    late: float
    norms: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Turning:
    """What flipped and turned copies of the training pictures do to a head on frozen features.

    ``without`` and ``beside``: shares of ``rows`` unseen pictures, as they are, that it answers rightly when it was
    fitted without such copies and with them; ``error``: standard error of the difference.
    """

    without: float
    beside: float
    error: float
    rows: int

    @property
    def harmless(self) -> bool:
        """Whether they lose nothing at all: digits, some of which have an up, lose 1.6 points, within chance."""
        return self.beside >= self.without

    def facts(self) -> Iterator[Fact]:
        """Both in one sentence."""
        matters = "which way is up matters"
        if self.without - self.beside <= reach(self.error):
            matters = "turning them does no harm" if self.harmless else "turning them may do harm"
        yield Fact(
            "with_turned_copies",
            self.beside,
            f"Fitted on flipped and turned copies too, a head is right for {self.beside:.1%} of {self.rows:,} unseen "
            f"pictures, and for {self.without:.1%} without them: {matters}.",
        )


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Signs of how far the data are from the pretraining.

    ``probe`` and ``neighbours``: shares of held-out rows that a head on the pooled features and the most similar rows
    answer rightly, on the same folds, and ``error`` the standard error of their difference; ``learnt``: the head's
    share on the ``rows`` that it was fitted on.
    """

    probe: float
    neighbours: float
    error: float
    learnt: float
    rows: int
    shift: Shift | None

    @property
    def over_neighbours(self) -> float:
        """By how much the head is ahead of the most similar rows, which grows with the distance."""
        return self.probe - self.neighbours

    @property
    def far(self) -> bool:
        """Whether that is certainly so much that what is alike to the network is not alike in these data."""
        return self.over_neighbours - self.error >= WORTH_A_WORD

    def facts(self) -> Iterator[Fact]:
        """The signs, one by one."""
        yield Fact(
            "probe_accuracy",
            self.probe,
            f"A simple head on the untouched network's last output is right for {self.probe:.1%} of {self.rows:,} rows "
            "that it had not seen; the probe, which may read other depths too, is what a training has to beat.",
        )
        gap = self.over_neighbours
        yield Fact("neighbours_accuracy", self.neighbours, f"{self._looking_up()}: {self._of_likeness()}.")
        yield Fact(
            "probe_over_neighbours", gap, f"That head is {_points(gap)} asking the rows that are most alike."
        )
        heart = self.learnt - self.probe
        said = (
            "much of that is learnt by heart, and more rows would help"
            if heart >= 2 * WORTH_A_WORD
            else "little of that is learnt by heart"
        )
        yield Fact(
            "probe_accuracy_on_its_own_rows",
            self.learnt,
            f"On the rows that it was fitted on it is right for {self.learnt:.1%}, {_points(heart)} what it "
            f"reaches on unseen ones: {said}.",
        )
        yield from self._shift()

    def _of_likeness(self) -> str:
        if self.far:
            return "the network's idea of what is alike is not yours, as with data far from its own"
        if self.over_neighbours >= WORTH_A_WORD:
            return "the network's idea of what is alike may not be yours, which so few rows cannot tell"
        return "rows that look alike to the network tell the class about as well as that head"

    def _looking_up(self) -> str:
        return (
            f"Giving each row the class that most of the {NEIGHBOURS} rows most like it have is right for "
            f"{self.neighbours:.1%}"
        )

    def _shift(self) -> Iterator[Fact]:
        if self.shift is None:
            yield Fact(
                "shift",
                "unknown",
                "This network carries no record of what it was trained on: how unusual the data look to it cannot be "
                "read from it.",
            )
            return
        for name, where, value in (
            ("shift_early", "first", self.shift.early),
            ("shift_late", "last", self.shift.late),
        ):
            far = "unusual for it" if value >= FAR_SHIFT else "much like what it knows"
            yield Fact(
                name,
                value,
                f"In the {where} third of the network's layers the data lie {value:.2f} standard deviations from what "
                f"it was trained on, on average: {far}.",
            )


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All of it, before anything is chosen."""

    counts: Counts
    sizes: ImageSizes | TextLengths
    duplicates: Pairs
    machine: Machine
    distance: Distance
    turning: Turning | None = None

    @property
    def entries(self) -> tuple[Fact, ...]:
        """Every fact, in the order in which they are told."""
        turning = self.turning.facts() if self.turning is not None else ()
        parts = (self.counts.facts(), self.sizes.facts(), _alike(self.duplicates), self.distance.facts())
        return tuple(fact for part in (*parts, turning, self.machine.facts()) for fact in part)

    @property
    def leading(self) -> tuple[Fact, ...]:
        """Those that decide what ``--strategy auto`` tries, but for how many rows there are."""
        return tuple(
            fact for fact in self.entries if fact.name in ("probe_over_neighbours", "with_turned_copies")
        )

    def to_dict(self) -> dict[str, object]:
        """Name → value and sentence; JSON-serialisable."""
        return {fact.name: {"value": fact.value, "sentence": fact.sentence} for fact in self.entries}


def _alike(pairs: Pairs) -> Iterator[Fact]:
    among = "" if pairs.rows == pairs.total else f" (among {pairs.rows:,} of {pairs.total:,} rows)"
    if not pairs.count:
        yield Fact(
            "near_duplicates", 0, f"No two rows look nearly the same to the network{among}: 0 such pairs."
        )
    else:
        plural = "pairs of rows look" if pairs.count != 1 else "pair of rows looks"
        yield Fact(
            "near_duplicates",
            pairs.count,
            f"{pairs.count:,} {plural} nearly the same to the network (similarity above {ALIKE}){among}.",
        )
    told = (
        "Validation holds no row that is nearly the same as one to train on (0 such pairs)."
        if not pairs.across
        else f"{pairs.across:,} of them lie between training and validation, which makes validation look better than "
        "it is: keep such rows together with --group-column."
    )
    yield Fact("near_duplicates_across", pairs.across, told)


def _points(gap: float) -> str:
    return f"{abs(gap) * 100:.1f} points {'above' if gap >= 0 else 'below'}"
