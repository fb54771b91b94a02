"""What a report is made of: plain frozen records, filled by whoever holds the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from unfreeze.config import Resolved
from unfreeze.contracts import Modality
from unfreeze.report.charts import BarChart, LineChart

BaselineKind = Literal["chance", "majority", "tfidf", "probe", "published", "other"]
Tone = Literal["good", "neutral", "warn"]


@dataclass(frozen=True)
class Estimate:
    """A share in 0..1, or the difference of two in -1..1, with its 95 % interval where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassMetrics:
    """One class: precision, recall and F1 in 0..1, and its number of rows."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Metrics:
    """The scores of one part: shares in 0..1, log-loss in nats, true classes as confusion rows."""

    n: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    macro_f1: Estimate
    log_loss: float
    ece: float
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    top_k: tuple[tuple[int, float], ...] = ()
    roc_auc: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Metrics:
        """The record for ``Scores.to_dict()`` or one part of ``metrics.json``; raises KeyError for a gap."""
        given = cast("Mapping[str, float]", values)
        labels = tuple(cast("Sequence[str]", values["labels"]))
        classes = cast("Mapping[str, Mapping[str, float]]", values["per_class"])
        confusion = cast("Sequence[Sequence[int]]", values["confusion"])
        top_k = cast("Mapping[int | str, float]", values.get("top_k") or {})
        roc_auc = cast("float | None", values.get("roc_auc"))

        def estimate(name: str) -> Estimate:
            return Estimate(given[name], given.get(f"{name}_low"), given.get(f"{name}_high"))

        return cls(
            n=int(given["n"]),
            accuracy=estimate("accuracy"),
            balanced_accuracy=estimate("balanced_accuracy"),
            macro_f1=estimate("macro_f1"),
            log_loss=given["log_loss"],
            ece=given["ece"],
            per_class=tuple(
                ClassMetrics(row["precision"], row["recall"], row["f1"], int(row["support"]))
                for row in (classes[name] for name in labels)
            ),
            confusion=tuple(tuple(int(count) for count in row) for row in confusion),
            labels=labels,
            top_k=tuple((int(k), share) for k, share in top_k.items()),
            roc_auc=roc_auc,
        )


@dataclass(frozen=True)
class Baseline:
    """What stands beside the result: an accuracy on the same held-out rows.

    ``name`` is the label always answered (majority), the name to show (published, other), or how many of the texts were
    read (tfidf; empty for all), else unused.
    ``difference`` is this run's accuracy minus the baseline's, with its paired interval.
    """

    kind: BaselineKind
    accuracy: Estimate
    name: str = ""
    difference: Estimate | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form, flat; what is not known is None."""
        return {
            "kind": self.kind,
            "name": self.name,
            **_flat("accuracy", self.accuracy),
            **_flat("difference", self.difference),
        }


def _flat(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """An estimate as the keys that scores have for it."""
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


@dataclass(frozen=True)
class Chip:
    """A few words on the state of the run."""

    text: str
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Finding:
    """Entries of the data that a person should know of: what, how many, and the first with reasons."""

    title: str
    total: int
    items: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class DataSummary:
    """The data: ``counts`` maps a part to its rows per class in label order.

    ``inferred`` holds (what, value, reason); ``facts`` holds (name, value), such as image sizes.
    """

    name: str
    source: str
    labels: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    inferred: tuple[tuple[str, str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def filled(self) -> dict[str, tuple[int, ...]]:
        """The counts of the parts that have rows."""
        return {part: rows for part, rows in self.counts.items() if sum(rows)}

    @property
    def rows(self) -> int:
        """Number of labelled rows in all parts."""
        return sum(sum(row) for row in self.counts.values())


@dataclass(frozen=True)
class BackboneSummary:
    """The pretrained network: its name, family, size and licence.

    ``published_as``: the hub repository that holds its weights, or None.
    """

    name: str
    family: str
    parameters: int
    dim: int
    source: str = ""
    licence: str | None = None
    published_as: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExecutorSummary:
    """Which executor ran the frozen part, why, and a sentence on its measured error against fp32 PyTorch."""

    name: str
    reason: str
    error: str


@dataclass(frozen=True)
class ThawPoint:
    """The probe at one depth: out-of-fold accuracy of a head fitted on that stage's output."""

    name: str
    accuracy: Estimate


@dataclass(frozen=True)
class Calibration:
    """The temperature, the rows it was fitted on, and the calibration error on test before and after it.

    ``ece_chance``: what a calibrated model of the same confidences stays below on these rows, in 95 of 100 draws.
    """

    temperature: float
    fitted_on: str
    rows: int
    ece_before: float
    ece_after: float
    ece_chance: float


@dataclass(frozen=True)
class AbstainThreshold:
    """Below ``probability`` it abstains, so that answers reach ``precision``; ``coverage`` is answered.

    ``precision``: the one-sided 95 % lower bound on validation rows, of which ``coverage`` is the share.
    """

    probability: float
    precision: float
    coverage: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose top probability lies in (low, high]: how many, how sure on average, how often right.

    ``effective``: how many rows they count for in an interval, of rows in groups less than there are.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    effective: float


@dataclass(frozen=True)
class Example:
    """A row worth a look: ``image`` is a JPEG, ``text`` the raw text; ``probability`` is of ``predicted``."""

    name: str
    true: str
    predicted: str
    probability: float
    image: bytes | None = None
    text: str | None = None


@dataclass(frozen=True)
class FeatureSpace:
    """The feature space in two dimensions: for every row a point, its class, and whether it was wrong."""

    xy: tuple[tuple[float, float], ...]
    label: tuple[int, ...]
    method: str
    wrong: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Timing:
    """Seconds spent in one part of the run."""

    part: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Licence:
    """Under which terms something used here stands."""

    what: str
    licence: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows of text; columns whose position is in ``numeric`` are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A further part of the page (phases, ledger, cost, comparison), shown before 'How it was made'."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[LineChart | BarChart, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that a report shows; whatever is empty or None is left out.

    ``validation_how`` says how the validation numbers came about, such as "out of fold over 1,968 rows". ``grouped``:
    the parts, "test" and "validation", whose scores have intervals over groups of rows. ``threshold_note`` says why
    there is no abstain threshold. ``joined`` is the probe on several depths. ``examples``: how many training rows the
    run carries.
    """

    modality: Modality
    strategy: str
    created: str
    data: DataSummary
    backbone: BackboneSummary
    executor: ExecutorSummary
    settings: tuple[Resolved, ...]
    test: Metrics
    validation: Metrics
    validation_how: str
    calibration: Calibration
    reliability: tuple[ReliabilityBin, ...]
    baselines: tuple[Baseline, ...]
    command: str
    versions: Mapping[str, str]
    fingerprint: str
    folder: str
    grouped: tuple[str, ...] = ()
    threshold: AbstainThreshold | None = None
    threshold_note: str = ""
    thaw: tuple[ThawPoint, ...] = ()
    joined: ThawPoint | None = None
    thaw_note: str = ""
    mistakes: tuple[Example, ...] = ()
    suspects: tuple[Example, ...] = ()
    feature_space: FeatureSpace | None = None
    timing: tuple[Timing, ...] = ()
    licences: tuple[Licence, ...] = ()
    chips: tuple[Chip, ...] = ()
    notes: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default=())
    examples: int = 0
