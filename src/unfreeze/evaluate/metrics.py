"""The scores of probabilities against true labels, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.errors import UnfreezeError
from unfreeze.evaluate.calibration import expected_calibration_error
from unfreeze.evaluate.scores import ClassScores, Scores
from unfreeze.proportions import (
    NORMAL_95,
    ROUNDING,
    effective_rows,
    student_reach,
    unseen_of_classes,
    wilson_interval,
    with_unseen,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TOP_K = (1, 2, 3, 5)
# Below this a probability is taken for this, so that one certain mistake does not make the loss infinite.
LEAST_PROBABILITY = 1e-15
BATCH_NUMBERS = 2**23
# Where a thousand classes are confused in every way, fewer resamples keep the intervals within seconds.
DRAWN_NUMBERS, LEAST_RESAMPLES = 10**7, 200


def score(
    probabilities: NDArray[np.floating],
    y: NDArray[np.integer],
    labels: tuple[str, ...],
    *,
    groups: NDArray[np.integer] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Scores:
    """The scores of probabilities (rows, classes) for true labels ``y`` (rows,).

    Balanced accuracy and macro-F1 are means over the classes that occur in ``y``; a class that does not has
    support 0 and scores of 0. Intervals are 95 %: of accuracy Wilson's, which knows that a few rows that are all
    right prove little; of the others percentile bootstrap intervals (Efron 1979) over the rows, made as much wider as
    the classes need of which every row is right, or none, or Wilson's of as many rows where every resample gives the
    same. With ``groups`` (rows,), codes of rows that may stand and fall together, both are over groups, with Student's
    factor for so few of them.
    Raises UnfreezeError when there are no rows or a probability is not a number from 0 to 1.
    """
    given, truth = check_probabilities(probabilities, y)
    if given.shape[1] != len(labels):
        raise ValueError(f"{given.shape[1]} columns of probabilities for {len(labels)} labels")
    classes = len(labels)
    predicted = given.argmax(axis=1)
    confusion = np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)
    low, high = _intervals(confusion, truth, predicted, groups, seed=seed, resamples=resamples)
    accuracy, balanced, macro_f1 = (float(values[0]) for values in _summaries(*_margins(confusion)))
    n = len(truth)
    rows = effective_rows(predicted == truth, groups)
    accuracy_low, accuracy_high = wilson_interval(accuracy, rows)
    unseen = _unseen(confusion, truth, groups)
    for place, value in enumerate((balanced, macro_f1)):
        reach = (max(0.0, value - low[place]), max(0.0, high[place] - value))
        if groups is not None and max(reach) >= ROUNDING:
            wider = student_reach(len(np.unique(groups))) / NORMAL_95
            reach = (wider * reach[0], wider * reach[1])
        low[place], high[place] = with_unseen(value, reach, unseen, rows)
    rank = _rank_of_truth(given, truth)
    own = given[np.arange(n), truth]
    return Scores(
        n=n,
        accuracy=accuracy,
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        balanced_accuracy=balanced,
        balanced_accuracy_low=low[0],
        balanced_accuracy_high=high[0],
        macro_f1=macro_f1,
        macro_f1_low=low[1],
        macro_f1_high=high[1],
        # Subtracted, and from no more than 1: nothing is lost, and -0.000 is printed nowhere.
        log_loss=float(0.0 - np.log(np.clip(own, LEAST_PROBABILITY, 1.0)).mean()),
        ece=expected_calibration_error(given, truth),
        per_class=_per_class(confusion, labels),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        labels=labels,
        top_k={k: float((rank < k).mean()) for k in TOP_K if k < classes},
        roc_auc=_roc_auc(given[:, 1], truth) if classes == 2 else None,
    )


def check_probabilities(
    probabilities: NDArray[np.floating], y: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Probabilities (rows, classes) in float64 and labels (rows,), checked; raises as ``score`` does."""
    given, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(y, dtype=np.intp)
    if given.ndim != 2 or truth.shape != given.shape[:1]:
        raise ValueError(f"probabilities {given.shape} and labels {truth.shape} do not belong together")
    if not len(truth):
        raise UnfreezeError("There are no rows to score. Give a part of the data that has labelled rows.")
    if truth.min() < 0 or truth.max() >= given.shape[1]:
        raise ValueError("a label lies outside 0..classes-1")
    wrong = ~((given >= 0.0) & (given <= 1.0 + 1e-6)).all(axis=1)
    if wrong.any():
        raise UnfreezeError(
            f"The model gives {int(wrong.sum())} of {len(truth)} rows a probability that is not a number "
            f"from 0 to 1 (first: row {int(wrong.argmax())}). Run again in fp32."
        )
    return given, truth


def _margins(
    confusion: NDArray[np.integer],
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]:
    """Rows rightly predicted, true and predicted a class; each (1, classes)."""
    return np.diag(confusion)[None], confusion.sum(axis=1)[None], confusion.sum(axis=0)[None]


def _summaries(
    hits: NDArray[np.integer], true: NDArray[np.integer], predicted: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy, balanced accuracy and macro-F1 of counts (resamples, classes); each (resamples,)."""
    occurs = np.maximum((true > 0).sum(axis=1), 1)
    recall = hits / np.maximum(true, 1)
    f1 = np.where(true > 0, 2 * hits / np.maximum(true + predicted, 1), 0.0)
    return hits.sum(axis=1) / true.sum(axis=1), recall.sum(axis=1) / occurs, f1.sum(axis=1) / occurs


def _intervals(
    confusion: NDArray[np.integer],
    truth: NDArray[np.intp],
    answers: NDArray[np.intp],
    groups: NDArray[np.integer] | None,
    *,
    seed: int,
    resamples: int,
) -> tuple[list[float], list[float]]:
    """Lower and upper ends of the 95 % intervals of balanced accuracy and macro-F1.

    To draw rows with replacement is to draw cells of the confusion matrix from a multinomial distribution:
    the same bootstrap, at a cost that does not grow with the rows. Groups are drawn whole, those with the same cells
    together.
    """
    true, predicted = np.nonzero(confusion)
    cells = confusion[true, predicted]
    classes = len(confusion)
    random = np.random.default_rng(seed)
    counts, table = cells, None
    if groups is not None:
        counts, table = _kinds_of_groups(groups, truth * classes + answers, true * classes + predicted)
    drawn_at_once = max(len(cells), len(counts))
    resamples = min(resamples, max(LEAST_RESAMPLES, DRAWN_NUMBERS // drawn_at_once))
    at_once = max(1, BATCH_NUMBERS // max(drawn_at_once, classes))
    found: list[NDArray[np.float64]] = []
    for start in range(0, resamples, at_once):
        drawn = random.multinomial(counts.sum(), counts / counts.sum(), size=min(at_once, resamples - start))
        if table is not None:
            drawn = drawn @ table
        right = true == predicted
        hits = _add_up(drawn[:, right], true[right], classes)
        found.append(
            np.stack(_summaries(hits, _add_up(drawn, true, classes), _add_up(drawn, predicted, classes))[1:])
        )
    low, high = np.percentile(np.concatenate(found, axis=1), [2.5, 97.5], axis=1)
    return low.tolist(), high.tolist()


def _unseen(
    confusion: NDArray[np.integer], truth: NDArray[np.intp], groups: NDArray[np.integer] | None
) -> tuple[float, float]:
    """See ``unseen_of_classes``, of the classes that occur."""
    hits, true, _ = (values[0] for values in _margins(confusion))
    counts = true
    if groups is not None:
        code = np.unique(groups, return_inverse=True)[1] * len(true) + truth
        counts = np.bincount(np.unique(code) % len(true), minlength=len(true))
    some = true > 0
    return unseen_of_classes((hits == true) & some, (hits == 0) & some, counts, classes=int(some.sum()))


def _kinds_of_groups(
    groups: NDArray[np.integer], cell: NDArray[np.intp], cells: NDArray[np.intp]
) -> tuple[NDArray[np.intp], csr_array]:
    """How many groups there are of each kind, (kinds,), and what one holds, rows in each cell, int64 (kinds, cells).

    ``cell``: in which cell of the confusion matrix each row lies, one of ``cells``, ascending. Groups of a kind have as
    many rows in every cell, which is told by a hash of 64 bits.
    """
    from scipy.sparse import coo_array

    names, group = np.unique(groups, return_inverse=True)
    place = np.searchsorted(cells, cell)
    signs = np.random.default_rng(0).integers(0, 2**64, len(cells), dtype=np.uint64)
    hashes = np.zeros(len(names), dtype=np.uint64)
    np.add.at(hashes, group, signs[place])
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    ones = np.ones(len(place), dtype=np.int64)
    table = coo_array((ones, (group, place)), shape=(len(names), len(cells))).tocsr()
    return counts, table[first]


def _add_up(drawn: NDArray[np.int64], owner: NDArray[np.intp], classes: int) -> NDArray[np.int64]:
    """Counts (resamples, classes) of drawn cells (resamples, cells) added up by ``owner`` class (cells,)."""
    result = np.zeros((len(drawn), classes), dtype=np.int64)
    if len(owner):
        order = np.argsort(owner, kind="stable")
        names, first = np.unique(owner[order], return_index=True)
        result[:, names] = np.add.reduceat(drawn[:, order], first, axis=1)
    return result


def _per_class(confusion: NDArray[np.integer], labels: tuple[str, ...]) -> dict[str, ClassScores]:
    hits, true, predicted = (values[0] for values in _margins(confusion))
    return {
        name: ClassScores(
            precision=float(hits[i] / max(predicted[i], 1)),
            recall=float(hits[i] / max(true[i], 1)),
            f1=float(2 * hits[i] / max(true[i] + predicted[i], 1)),
            support=int(true[i]),
        )
        for i, name in enumerate(labels)
    }


def _rank_of_truth(given: NDArray[np.float64], truth: NDArray[np.intp]) -> NDArray[np.intp]:
    """How many classes come before the true one, (rows,); of equal ones the first wins, as in argmax."""
    own = given[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(given.shape[1]) < truth[:, None]
    return np.asarray(((given > own) | ((given == own) & earlier)).sum(axis=1))


def _roc_auc(given: NDArray[np.float64], truth: NDArray[np.intp]) -> float | None:
    """Share of pairs in the right order, equal ones counting half; None when a class does not occur."""
    positive, negative = given[truth == 1], np.sort(given[truth == 0])
    if not len(positive) or not len(negative):
        return None
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / 2 / len(negative))
