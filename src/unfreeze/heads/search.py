"""The penalty of a linear head, found by cross-validation, and the head fitted with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.heads.design import Design
from unfreeze.heads.folds import ALWAYS_TRAINED
from unfreeze.heads.head import Head
from unfreeze.heads.logistic import MEMORY, Solution, solve
from unfreeze.heads.problem import Folds, make_folds
from unfreeze.heads.weights import row_log_loss, row_weights

# Half-decades downwards from a penalty that leaves little more than class means. On frozen features of a few
# hundred to a few thousand rows the best one lies within; otherwise the grid grows.
FIRST_PENALTIES = tuple(float(10.0 ** (1 - step / 2)) for step in range(8))
LEAST_PENALTY, GREATEST_PENALTY = 1e-6, 1e4
# What an out-of-fold log-loss must gain, in nats, for the grid to grow further.
WORTH_GROWING = 1e-4
SEARCH_TOLERANCE = 1e-7
BATCH_NUMBERS = 2**24
# The strong penalties are solved together; weak ones need many times their steps, so they come one by one,
# and only until the log-loss rises.
STRONG_PENALTIES = 4


@dataclass(frozen=True)
class Candidate:
    """One penalty: its out-of-fold log-loss (nats, with the class weights of the fit) and accuracy."""

    regularisation: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Search:
    """The best penalty, its out-of-fold logits (rows, classes), and every penalty tried, in descending order.

    Rows that are never held out have the mean logits of all folds: their own class is known to each of them.
    """

    regularisation: float
    logits: NDArray[np.float32]
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The candidate that was taken."""
        return next(c for c in self.candidates if c.regularisation == self.regularisation)

    @property
    def at_limit(self) -> bool:
        """Whether the best penalty is at the end of what may be tried."""
        return not LEAST_PENALTY * 2 < self.regularisation < GREATEST_PENALTY / 2


def search_penalty(
    design: Design, y: NDArray[np.intp], assigned: NDArray[np.intp], *, classes: int, balanced: bool
) -> Search:
    """The penalty with the lowest out-of-fold log-loss.

    The first grid is solved from the greatest penalty down, as many at once as memory allows, and stops where
    the log-loss has risen. If the best one is at an edge, the grid grows there.
    """
    trial = _Trial(design, y, assigned, classes=classes, balanced=balanced)
    at_once = min(STRONG_PENALTIES, max(1, trial.candidates_at_once // trial.folds))
    waiting = list(FIRST_PENALTIES)
    while waiting:
        trial.run(waiting[:at_once])
        waiting = waiting[at_once:]
        at_once = 1
        if trial.losses[-1] > min(trial.losses):
            break
    while trial.still_falling(-1) and trial.penalties[-1] > LEAST_PENALTY * 2:
        trial.run([trial.penalties[-1] / 10**0.5])
    while trial.still_falling(0) and trial.penalties[0] < GREATEST_PENALTY / 2:
        trial.run([trial.penalties[0] * 10**0.5])
    return trial.result()


class _Trial:
    """Penalties tried so far, kept in descending order, with the logits of the best."""

    def __init__(
        self, design: Design, y: NDArray[np.intp], assigned: NDArray[np.intp], *, classes: int, balanced: bool
    ) -> None:
        self.design, self.y, self.assigned, self.classes = design, y, assigned, classes
        self.folds = int(assigned.max()) + 1
        train = assigned[:, None] != np.arange(self.folds)
        self.parts = make_folds(design, y, train, classes=classes, balanced=balanced)
        self.scored = np.flatnonzero(assigned != ALWAYS_TRAINED)
        self.weight = row_weights(y[self.scored], balanced=balanced)
        self.tried: list[Candidate] = []
        self.logits = np.empty((0, classes), dtype=np.float32)
        self.least = np.inf
        # Where the solver ended for each fold with the last penalty on the way down: the next one is not far. A hundred
        # classes of three rows took 297 steps from the class frequencies, and 77 so.
        self.ended: dict[int, Tensor] = {}

    @property
    def penalties(self) -> list[float]:
        return [candidate.regularisation for candidate in self.tried]

    @property
    def losses(self) -> list[float]:
        return [candidate.log_loss for candidate in self.tried]

    @property
    def candidates_at_once(self) -> int:
        """How many candidates fit into a batch of bounded memory."""
        columns = 1 if self.classes == 2 else self.classes
        return max(1, BATCH_NUMBERS // (columns * max(len(self.y), MEMORY * self.design.width)))

    def still_falling(self, end: int) -> bool:
        """Whether the log-loss at this end (0 or -1) of the grid is the lowest by more than a trifle."""
        if len(self.tried) < 2:
            return True
        others = self.losses[1:] if end == 0 else self.losses[:-1]
        return self.losses[end] < min(others) - WORTH_GROWING

    def run(self, penalties: list[float]) -> None:
        # Strong penalties keep everything near the class frequencies, which is where the solver starts by itself.
        downwards = not self.tried or max(penalties) < self.penalties[-1]
        fold = np.tile(np.arange(self.folds), len(penalties))
        penalty = np.repeat(np.asarray(penalties), self.folds)
        logits = [np.zeros((len(self.y), self.classes), dtype=np.float32) for _ in penalties]
        for start in range(0, len(fold), self.candidates_at_once):
            batch = slice(start, start + self.candidates_at_once)
            solution = solve(
                self.design,
                self.y,
                self.parts,
                fold=fold[batch],
                penalty=penalty[batch],
                tolerance=SEARCH_TOLERANCE,
                start=self._start(fold[batch]) if downwards else None,
            )
            self.ended |= {int(number): solution.theta[:, i].clone() for i, number in enumerate(fold[batch])}
            self._collect(logits, solution, first=start, fold=fold)
        for value, given in zip(penalties, logits, strict=True):
            candidate = self._score(value, given)
            self.tried.append(candidate)
            if candidate.log_loss < self.least:
                self.least, self.logits = candidate.log_loss, given
        self.tried.sort(key=lambda candidate: -candidate.regularisation)

    def _start(self, fold: NDArray[np.intp]) -> Tensor | None:
        """Parameters of these folds (width + 1, candidates, columns) to start from; None where one has none yet."""
        if any(int(number) not in self.ended for number in fold):
            return None
        return torch.stack([self.ended[int(number)] for number in fold], dim=1)

    def _collect(
        self, logits: list[NDArray[np.float32]], solution: Solution, *, first: int, fold: NDArray[np.intp]
    ) -> None:
        always = np.flatnonzero(self.assigned == ALWAYS_TRAINED)
        for position in range(solution.logits.shape[1]):
            target = logits[(first + position) // self.folds]
            held = np.flatnonzero(self.assigned == fold[first + position])
            target[held] = solution.logits[held, position]
            target[always] += solution.logits[always, position] / self.folds

    def _score(self, penalty: float, logits: NDArray[np.float32]) -> Candidate:
        scored, truth = logits[self.scored], self.y[self.scored]
        loss = float(row_log_loss(scored, truth) @ self.weight)
        return Candidate(penalty, loss, float((scored.argmax(axis=1) == truth).mean()))

    def result(self) -> Search:
        best = min(self.tried, key=lambda candidate: candidate.log_loss)
        return Search(best.regularisation, self.logits, tuple(self.tried))


def predict_out_of_fold(
    design: Design,
    y: NDArray[np.intp],
    assigned: NDArray[np.intp],
    *,
    penalty: float,
    classes: int,
    balanced: bool,
) -> Search:
    """Out-of-fold logits and scores of one given penalty."""
    trial = _Trial(design, y, assigned, classes=classes, balanced=balanced)
    trial.run([penalty])
    return trial.result()


def fit_head(
    design: Design,
    y: NDArray[np.intp],
    *,
    boundaries: tuple[int, ...],
    penalty: float,
    classes: int,
    balanced: bool,
) -> Head:
    """The linear head fitted on all rows, standardisation folded in."""
    everything: Folds = make_folds(design, y, np.ones((len(y), 1), bool), classes=classes, balanced=balanced)
    solution = solve(design, y, everything, fold=np.zeros(1, np.intp), penalty=np.array([penalty]))
    return Head(
        kind="linear",
        boundaries=boundaries,
        tensors={
            "weight": np.ascontiguousarray(solution.weight[:, 0].T, dtype=np.float32),
            "bias": np.ascontiguousarray(solution.bias[0], dtype=np.float32),
        },
    )
