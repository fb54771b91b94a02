"""Whether what was trained fully is shipped: what its trials found, and its own validation rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.choose.paired import paired_error, paired_gain, pooled, reach
from unfreeze.choose.trials import Expectation, gain_text
from unfreeze.report.words import points

# Standard errors by which validation accuracy must lie below the floor to be called a collapse, and the share of all
# epochs for which it must without a break, two at least: on 200 digits good trainings began with two and five of 40
# epochs as low, and ended above the floor (bench/RESULTS.md, trainings that begin below the probe).
COLLAPSE_ERRORS = 2.0
COLLAPSE_SHARE, LEAST_COLLAPSE = 0.25, 2
# Standard errors by which the weights that were trained may lie below the floor on their validation rows, however well
# their trials did: those say what the settings are worth, and these rows alone what came of them.
FALLEN_ERRORS = 1.0
# A smaller difference of shares is shown as 0.0 points.
WORTH_TELLING = 0.0005
# A collapsed training starts again at this share of its rates: the steps in which rates are tried, about.
LOWER = 1 / 3
RESTARTS = 2


@dataclass(frozen=True)
class Verdict:
    """Whether the trained model is taken over the probe, and why."""

    ship: bool
    gain: float
    reason: str


def judge(
    expected: Expectation,
    right: NDArray[np.bool_],
    floor_right: NDArray[np.bool_],
    *,
    groups: NDArray[np.integer] | None = None,
    among: int = 1,
) -> Verdict:
    """Ship when what was measured puts it above the probe by more than its price, within chance or not.

    ``right`` and ``floor_right`` (rows,): on validation rows; ``groups``: codes of those that belong together.
    ``among``: how many were tried. Its trials count on the rows of the training part, each weighted by its certainty,
    with what they are expected to be ``behind``; what was ``hoped`` before counts where it is given. What fell clearly
    below the probe is never shipped.
    """
    own = (paired_gain(right, floor_right), paired_error(right, floor_right, groups))
    measured = [own]
    told = f"On {len(right)} validation rows it is right on {right.mean():.1%}, the probe on {floor_right.mean():.1%}"
    if expected.found is not None and expected.found_error is not None:
        # How far they are behind is known no better than by about as much.
        measured.append((expected.found + expected.behind, math.hypot(expected.found_error, expected.behind)))
        told += f", and its trials on the other rows found {points(expected.found)}"
        if abs(expected.behind) >= WORTH_TELLING:
            told += f" with fewer rows to learn from, for which {points(expected.behind)} count"
        if among > 1:
            told += f" (the best of {among}, which flatters)"
    else:
        among = 1
    if expected.hoped is not None and expected.hoped_error is not None:
        measured.append((expected.hoped, expected.hoped_error))
        told += f", where {points(expected.hoped)} ± {100 * reach(expected.hoped_error):.1f} were hoped for"
    gain, error = pooled(measured)
    told += f": {gain_text(gain, error, among=among)}" + (" together" if len(measured) > 1 else "")
    price = f"its price of {100 * expected.price:.1f} points"
    if gain <= expected.price:
        return Verdict(False, gain, f"{told}, which is not more than {price}. The probe is shipped.")
    if own[0] < -FALLEN_ERRORS * own[1]:
        fallen = f"but the weights that were trained are {points(own[0])} on rows of their own"
        return Verdict(False, gain, f"{told}, {fallen}. The probe is shipped.")
    chance = ", though within chance" if gain <= reach(error, among=among) else ""
    return Verdict(True, gain, f"{told}, which is more than {price}{chance}. It is shipped.")


@dataclass
class CollapseWatch:
    """Tells when validation accuracy has stayed clearly below the floor's, in a training of so many ``epochs``.

    ``patience``: after how many epochs without gain the training would end, None where it does not.
    """

    floor_accuracy: float
    rows: float
    epochs: int
    patience: int | None = None
    below: int = 0

    def fallen(self, accuracy: float | None) -> bool:
        """Whether this epoch's accuracy is the last of so many in a row that are too low."""
        if accuracy is None:
            return False
        error = math.sqrt(max(self.floor_accuracy * (1 - self.floor_accuracy), 1 / self.rows) / self.rows)
        low = accuracy < self.floor_accuracy - COLLAPSE_ERRORS * error
        self.below = self.below + 1 if low else 0
        many = math.ceil(COLLAPSE_SHARE * self.epochs)
        if self.patience is not None:
            many = min(many, self.patience)
        return self.below >= max(LEAST_COLLAPSE, many)
