"""How much each row weighs in a fit and in its log-loss, and whether classes should weigh the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# With three to one, always naming the larger of two classes is already right for 75 % of the rows: from
# there on a fit can look good while it gives the small class up. It is a convention, not a measured
# optimum.
UNEVEN_RATIO = 3.0
# Of few rows a fit gives the small class up sooner: at 2.2 to one, balanced heads on 24 to 100 mails and solar cells
# were right on up to 3 points more rows, and lost nothing beyond chance (bench/RESULTS.md, classes that are not even).
# The line lies between even and that.
FEW_ROWS, UNEVEN_RATIO_OF_FEW = 200, 1.5


def needs_class_weights(counts: Sequence[int]) -> tuple[bool, str]:
    """Whether to weigh classes inversely to their size, and a sentence that says why.

    ``counts``: training rows a class; classes without rows do not count. Weights make the probabilities
    those of evenly frequent classes, which is what balanced accuracy and macro-F1 ask for.
    """
    seen = [count for count in counts if count > 0]
    if len(seen) < 2:
        return False, "Fewer than two classes have rows, so there is nothing to balance."
    ratio = max(seen) / min(seen)
    few = sum(seen) < FEW_ROWS
    most = UNEVEN_RATIO_OF_FEW if few else UNEVEN_RATIO
    than = f"{most:g} where there are fewer than {FEW_ROWS} rows" if few else f"{most:g}"
    measured = (
        f"The largest class has {ratio:.1f} times the rows of the smallest ({max(seen)} and {min(seen)})"
    )
    if ratio > most:
        return True, f"{measured}, more than {than}: every class weighs the same in the fit."
    return False, f"{measured}, at most {than}: every row weighs the same in the fit."


def row_weights(y: NDArray[np.intp], *, balanced: bool) -> NDArray[np.float64]:
    """Weights (rows,) that sum to one; when ``balanced``, all classes that occur have the same total."""
    if not balanced:
        return np.full(len(y), 1.0 / len(y))
    counts = np.bincount(y)
    return np.asarray(1.0 / (counts[y] * np.count_nonzero(counts)))


def row_log_loss(logits: NDArray[np.floating], y: NDArray[np.integer]) -> NDArray[np.float64]:
    """Cross-entropy of each row in nats, (rows,)."""
    top = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
    return np.asarray(total - logits[np.arange(len(y)), y])
