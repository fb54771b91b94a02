"""Whether what was trained fully is shipped: what trials expected, corrected by its own validation rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.choose.trials import Expectation, paired_error

# Standard errors by which validation accuracy must lie below the floor to be called a collapse, in two epochs running.
COLLAPSE_ERRORS = 2.0
COLLAPSE_EPOCHS = 2
# A collapsed training starts again at this share of its rates: the steps in which rates are tried, about.
LOWER = 1 / 3
RESTARTS = 2


@dataclass(frozen=True)
class Verdict:
    """Whether the trained model is taken over the probe, and why."""

    ship: bool
    gain: float
    reason: str


def judge(expected: Expectation | None, right: NDArray[np.bool_], floor_right: NDArray[np.bool_]) -> Verdict:
    """Ship when the expected gain over the probe is above 0, after what the validation rows (rows,) add to it."""
    error = paired_error(right, floor_right)
    gain = float(right.mean() - floor_right.mean())
    mean, total = gain / error**2, error**-2
    if expected is not None:
        mean, total = mean + expected.gain / expected.error**2, total + expected.error**-2
    combined = mean / total
    told = (
        f"On {len(right)} validation rows it is right on {right.mean():.1%}, the probe on {floor_right.mean():.1%}; "
        f"with the trials {combined:+.1%} ± {2 * total**-0.5:.1%} is expected"
    )
    if combined > 0:
        return Verdict(True, combined, f"{told}: it is shipped.")
    return Verdict(False, combined, f"{told}: it does not beat the probe, which is shipped.")


@dataclass
class CollapseWatch:
    """Tells when validation accuracy has fallen clearly below the floor's, in epochs running."""

    floor_accuracy: float
    rows: int
    below: int = 0

    def fallen(self, accuracy: float | None) -> bool:
        """Whether this epoch's accuracy is the last of ``COLLAPSE_EPOCHS`` that are too low."""
        if accuracy is None:
            return False
        error = math.sqrt(max(self.floor_accuracy * (1 - self.floor_accuracy), 1 / self.rows) / self.rows)
        low = accuracy < self.floor_accuracy - COLLAPSE_ERRORS * error
        self.below = self.below + 1 if low else 0
        return self.below >= COLLAPSE_EPOCHS
