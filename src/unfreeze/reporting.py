"""What a finished run tells its report: plain records, filled from the parts of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import PARTS, Dataset, Samples
from unfreeze.evaluate.baselines import chance_level, majority_class
from unfreeze.evaluate.scores import Scores
from unfreeze.report.content import (
    Baseline,
    DataSummary,
    Estimate,
    Example,
    FeatureSpace,
    Finding,
    Metrics,
    ThawPoint,
)
from unfreeze.report.projection import project

if TYPE_CHECKING:
    from unfreeze.data.audit import Audit
    from unfreeze.heads.probe import ProbeResult

MOST_EXAMPLES = 12
THUMBNAIL_PIXELS = 160
TEXT_CHARACTERS = 300


@dataclass(frozen=True)
class Row:
    """A row that deserves a look: its position, its label, another class, and that class's probability."""

    row: int
    true: int
    predicted: int
    probability: float


def data_summary(dataset: Dataset, audit: Audit, *, name: str) -> DataSummary:
    """The data as the report shows them."""
    counts = {
        part: tuple(
            int(count)
            for count in np.bincount(dataset.label[dataset.rows(part)], minlength=len(dataset.labels))
        )
        for part in PARTS
    }
    findings = (
        Finding(
            "Unreadable",
            len(audit.quarantined),
            tuple((bad.name, bad.reason) for bad in audit.quarantined[:20]),
        ),
        Finding(
            "Ignored",
            len(dataset.ignored),
            tuple((entry.name, entry.reason) for entry in dataset.ignored[:20]),
        ),
    )
    return DataSummary(
        name=name,
        source=dataset.source,
        labels=dataset.labels.names,
        counts=counts,
        inferred=tuple((entry.what, entry.value, entry.reason) for entry in dataset.inferred),
        facts=audit.facts,
        warnings=audit.warnings,
        findings=tuple(finding for finding in findings if finding.total) + audit.findings,
    )


def examples(rows: Sequence[Row], samples: Samples, dataset: Dataset) -> tuple[Example, ...]:
    """The rows with their picture or text; a picture that cannot be read any more is left out."""
    shown = []
    for entry in rows[:MOST_EXAMPLES]:
        raw = samples.read(entry.row)
        image = _thumbnail(raw) if isinstance(raw, bytes) else None
        shown.append(
            Example(
                name=samples.name(entry.row),
                true=dataset.labels.names[entry.true],
                predicted=dataset.labels.names[entry.predicted],
                probability=entry.probability,
                image=image,
                text=raw[:TEXT_CHARACTERS] if isinstance(raw, str) else None,
            )
        )
    return tuple(shown)


def _thumbnail(data: bytes) -> bytes:
    """A JPEG at most 160 pixels wide and high."""
    from PIL import Image

    from unfreeze.runtime.decode import open_picture

    picture = open_picture(data)
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def thaw_points(probe: ProbeResult) -> tuple[ThawPoint, ...]:
    """The thaw curve, from the input to the pooled feature."""
    return tuple(
        ThawPoint(name=point.name, accuracy=Estimate(point.accuracy, point.low, point.high))
        for point in probe.curve
    )


def thaw_note(probe: ProbeResult) -> str:
    """What the thaw curve says, in a sentence."""
    best = max(probe.curve, key=lambda point: point.accuracy)
    last = probe.curve[-1]
    if best is last:
        return "The features serve this data better with every stage up to the last: nothing in the curve asks for thawing yet."
    if best.low > last.accuracy:
        return (
            f"The features serve best at {best.name} ({best.accuracy:.1%}) and worse after it ({last.accuracy:.1%} at the end): "
            "what the later stages specialise in does not fit this data, and thawing them is likely to pay."
        )
    return (
        f"The best depth is {best.name} ({best.accuracy:.1%}), level with the end ({last.accuracy:.1%}) within the "
        "intervals: from there on the pretrained stages add nothing for this data."
    )


def feature_space(
    features: NDArray[np.float32], label: NDArray[np.int32], wrong: NDArray[np.bool_], *, seed: int
) -> FeatureSpace:
    """At most a thousand rows of the features, laid out in two dimensions."""
    picture = project(features, seed=seed)
    return FeatureSpace(
        xy=tuple((float(x), float(y)) for x, y in picture.xy),
        label=tuple(int(value) for value in label[picture.rows]),
        method=picture.method,
        wrong=tuple(bool(value) for value in wrong[picture.rows]),
    )


def baselines(
    train_labels: NDArray[np.int32],
    test_labels: NDArray[np.int32],
    names: tuple[str, ...],
    others: Mapping[str, tuple[Scores, Estimate | None]],
) -> tuple[Baseline, ...]:
    """Chance and majority on the test rows, then the others by kind (tfidf, probe)."""
    majority, share = majority_class(train_labels, test_labels, classes=len(names))
    fixed = (
        Baseline("chance", Estimate(chance_level(len(names)))),
        Baseline("majority", Estimate(share), name=names[majority]),
    )
    kinds = {"tfidf": "tfidf", "probe": "probe"}
    return fixed + tuple(
        Baseline(
            "tfidf" if kinds[kind] == "tfidf" else "probe",
            Estimate(scores.accuracy, scores.accuracy_low, scores.accuracy_high),
            difference=difference,
        )
        for kind, (scores, difference) in others.items()
    )


def metrics(scores: Scores) -> Metrics:
    """The scores in the report's form."""
    return Metrics.from_dict(scores.to_dict())
