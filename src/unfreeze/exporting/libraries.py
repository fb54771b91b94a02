"""The formats that other libraries read: folders in their own layouts, and how their answers are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.exporting.formats import Answers, Format, no_card
from unfreeze.exporting.gate_rows import GateRows
from unfreeze.exporting.parity import logits_gap
from unfreeze.exporting.to_peft import answer_peft, open_peft, write_peft
from unfreeze.exporting.to_timm import answer_timm, open_timm, write_timm
from unfreeze.exporting.to_transformers import answer_transformers, open_transformers, write_transformers
from unfreeze.runtime.exported import Exported

LIBRARIES: Mapping[str, Format] = {
    "transformers": Format(write_transformers, open_transformers, no_card, answer_transformers),
    "timm": Format(write_timm, open_timm, no_card, answer_timm),
    "peft": Format(write_peft, open_peft, no_card, answer_peft),
}
# Of the largest logit: two orders of summation in float32 differ by less than a tenth of it.
LOGITS_GAP = 1e-4
# The mean over rows. Squashing gives 1e-6 where no JPEG is decoded at a smaller scale. Measured with a thawed Lite0 at
# 128 pixels on noisy JPEGs of 1600 x 1200: 0.012 squashed, 0.013 padded, 0.024 cropped; with another crop mode 0.10,
# with another mean and deviation 0.14.
MEAN_GAP = 0.05
BATCH = 16


@dataclass(frozen=True)
class OwnWay:
    """The library alone, from raw bytes with its own preprocessing, beside the trained model.

    ``mean_gap`` and ``gap``: mean and largest difference of a probability over ``rows``; ``agreement``: the share of
    rows that are answered with the same class. ``logits_gap``: the largest difference of a logit for the same tensors,
    as a share of the largest one. ``problem``: what is too far, or empty.
    """

    rows: int
    agreement: float
    mean_gap: float
    gap: float
    logits_gap: float
    problem: str

    def sentence(self, format: str) -> str:
        """What a person should know."""
        return (
            f"{format} with its own preprocessing answers {self.agreement:.1%} of {self.rows:,} rows alike; "
            f"probabilities differ by {self.mean_gap:.1e} on average and by {self.gap:.1e} at most."
        )

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self) | {"bound": MEAN_GAP, "logits_bound": LOGITS_GAP}


def check_own_way(answer: Answers, exported: Exported, classifier: Classifier, rows: GateRows) -> OwnWay:
    """Compare a library's own answers with those of the trained model."""
    found = own_answers(answer, rows)
    gaps = np.abs(found - rows.reference).max(axis=1)
    gap = logits_gap(exported, classifier, rows, calibrated=True)
    problem = ""
    if not gap <= LOGITS_GAP:
        problem = f"its logits differ by {gap:.1e} of the largest one"
    elif gaps.mean() > MEAN_GAP:
        problem = (
            f"with the library's own preprocessing probabilities differ by {gaps.mean():.3f} on average, "
            f"by {gaps.max():.3f} for {rows.samples.name(int(gaps.argmax()))}"
        )
    return OwnWay(
        rows=len(rows),
        agreement=float((found.argmax(axis=1) == rows.reference.argmax(axis=1)).mean()),
        mean_gap=float(gaps.mean()),
        gap=float(gaps.max()),
        logits_gap=gap,
        problem=problem,
    )


def own_answers(answer: Answers, rows: GateRows) -> NDArray[np.float64]:
    """The library's probabilities (rows, classes), from the raw inputs."""
    raws = rows.raws()
    batches = iter(lambda: list(islice(raws, BATCH)), [])
    return np.concatenate([answer(batch) for batch in batches])
