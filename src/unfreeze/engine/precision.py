"""Whether features of a lower precision make a difference to a classifier on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.errors import UnfreezeError
from unfreeze.heads.weights import row_log_loss
from unfreeze.proportions import NORMAL_95

FOLDS = 4
# Ridge strength on standardised features; the comparison is paired, so that it need not be the best one.
REGULARISATION = 0.01
# At most one flipped prediction in 256: bf16 flips about 1 % with EfficientNet-Lite0, which is refused.
MOST_FLIPS = 1 / 256
# Nats: far below what separates two neighbouring strengths of regularisation on the data sets of bench/.
LOG_LOSS_MARGIN = 0.005

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PrecisionVerdict:
    """Paired comparison over ``rows`` rows of heads fitted without them.

    ``flips``: rows whose predicted class differs. ``log_loss_difference``: mean of low minus high precision in
    nats, with its 95 % interval ``low`` to ``high``.
    """

    rows: int
    flips: int
    log_loss_difference: float
    low: float
    high: float
    accepted: bool

    @property
    def sentence(self) -> str:
        """The numbers, for a person."""
        return (
            f"{self.flips} of {self.rows} predictions flip, log-loss {self.log_loss_difference:+.4f} nats "
            f"({self.low:+.4f} to {self.high:+.4f})"
        )


def compare_precision(low: Floats, high: Floats, labels: NDArray[np.integer[Any]]) -> PrecisionVerdict:
    """What a head fitted on ``high`` (rows, width) makes of ``low`` features of the same rows, out of fold.

    Accepted when at most one prediction in 256 flips and the whole 95 % interval of the difference in log-loss
    lies within 0.005 nats: an interval that merely contains zero would accept whatever is noisy. Raises
    UnfreezeError when the rows hold one class only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) < 2:
        raise UnfreezeError("The precision cannot be judged on rows of one class.")
    flips = 0
    differences: list[Floats] = []
    for fit, held in KFold(FOLDS, shuffle=True, random_state=0).split(high):
        held = held[np.isin(labels[held], labels[fit])]
        if len(np.unique(labels[fit])) < 2 or not len(held):
            continue
        head = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=1000))
        head.fit(high[fit], labels[fit])
        logits_low, logits_high = (_logits(head, features[held]) for features in (low, high))
        flips += int((logits_low.argmax(axis=1) != logits_high.argmax(axis=1)).sum())
        true = np.searchsorted(head.classes_, labels[held])
        differences.append(row_log_loss(logits_low, true) - row_log_loss(logits_high, true))
    paired = np.concatenate(differences)
    mean = float(paired.mean())
    margin = NORMAL_95 * float(paired.std(ddof=1)) / len(paired) ** 0.5
    within = max(abs(mean - margin), abs(mean + margin)) <= LOG_LOSS_MARGIN
    accepted = within and flips <= MOST_FLIPS * len(paired)
    return PrecisionVerdict(len(paired), flips, mean, mean - margin, mean + margin, accepted)


def _logits(head: Any, features: Floats) -> NDArray[np.float64]:
    """The classes' logits (rows, classes): of two classes scikit-learn gives one score, the second's."""
    scores = np.asarray(head.decision_function(features), dtype=np.float64)
    return scores if scores.ndim == 2 else np.column_stack([np.zeros_like(scores), scores])
