"""Trying candidates on halves of the rows: short trials of all, full-length ones of those that promise most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.amounts import duration
from unfreeze.choose.candidates import Candidate
from unfreeze.choose.paired import discordant, paired_error, paired_gain, paired_score, pooled, reach
from unfreeze.config import GRAFTING, ON_PAIRS
from unfreeze.report.words import points

# What has no source here is a choice, judged by what is lost by choosing in the end (bench/RESULTS.md).
# A short trial has this share of the epochs of a full-length one.
SHORT = 0.25
# What a short trial shows may turn: its standard error counts this many times.
SHORT_DOUBT = 2.0
# What the dearest candidate must gain in accuracy over a free one; cheaper ones in proportion.
PRICE = 0.005
# With this share of errors left there is enough to be won for one more full-length trial; with twice, for two more.
WORTH_ONE_MORE = 0.1
# How far what may be hoped for can be wrong: a part of itself, and a share of the floor's errors. Of 15 sets of data 12
# came within it, and 3 gained far more (bench/RESULTS.md, what was hoped and what came).
DOUBT, LEAST_DOUBT = 0.5, 0.1
# How often one class may rise as far by chance, among all classes of a trial: two standard errors for a single one.
RISEN_BY_CHANCE = 0.023
FOLDS = 2
# Wrong answers of the probe below which trials do not tell candidates from each other: on 100 solar cells, of which it
# gets 17 to 27 wrong, five short trials and three long ones took two to three times the winner's whole training, and
# the best of them was no better than the others (bench/RESULTS.md, what is lost by choosing).
FEWEST_ERRORS = 30
# Trials together take at most this many times what training the dearest candidate takes.
TRIALS_PER_TRAINING = 2.0


@dataclass(frozen=True, eq=False)
class Trial:
    """What one training on a part of the rows was worth on the rest.

    ``right`` and ``floor_right`` (rows,): whether the candidate and the probe, fitted on the same rows, are right on
    each held-out row; ``y`` its class, and ``train`` (rows,) whether it is of the training part: validation rows are
    asked once more in the end. ``groups`` (rows,): codes of those that belong together, None where each stands for
    itself. ``losses``: mean training loss of each epoch. ``share``: of the full number of epochs.
    ``failed``: why it ended without a result.
    """

    candidate: Candidate
    fold: int
    share: float
    right: NDArray[np.bool_]
    floor_right: NDArray[np.bool_]
    y: NDArray[np.intp]
    train: NDArray[np.bool_]
    losses: tuple[float, ...]
    seconds: float
    failed: str = ""
    groups: NDArray[np.integer] | None = None

    @property
    def gain(self) -> float:
        """Accuracy above that of the floor on the same rows."""
        return paired_gain(self.right, self.floor_right)

    @property
    def fall(self) -> float:
        """The share of the training loss that went away from the first epoch to the last."""
        return 1 - self.losses[-1] / max(self.losses[0], 1e-12) if len(self.losses) > 1 else 0.0

    @property
    def best_class_gain(self) -> float:
        """Standard errors by which the recall of the most improved class rose."""
        return max((0.0, *(paired_score(*self.answers(self.y == label)) for label in np.unique(self.y))))

    def answers(
        self, rows: NDArray[np.bool_] | slice = slice(None)
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.integer] | None]:
        """Whether the candidate and the probe are right on these rows, and their groups."""
        groups = None if self.groups is None else self.groups[rows]
        return self.right[rows], self.floor_right[rows], groups

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        risen, fallen = discordant(self.right, self.floor_right)
        return {
            "candidate": self.candidate.name,
            "fold": self.fold,
            "share_of_epochs": self.share,
            "rows": len(self.y),
            "accuracy": None if self.failed else float(self.right.mean()),
            "floor_accuracy": None if self.failed else float(self.floor_right.mean()),
            "right_where_the_floor_is_wrong": None if self.failed else risen,
            "wrong_where_the_floor_is_right": None if self.failed else fallen,
            "training_loss": list(self.losses),
            "most_improved_class_standard_errors": None if self.failed else self.best_class_gain,
            "seconds": self.seconds,
            "failed": self.failed or None,
        }


@dataclass(frozen=True)
class Expectation:
    """The expected gain in accuracy over the floor and its standard error, after all trials of a candidate.

    ``price``: the gain that its ``seconds`` cost, ``PRICE`` for the dearest candidate. ``found`` and ``found_error``:
    the gain by its trials alone, without what was hoped, on rows of the training part; None where nothing was tried.
    ``behind``: by how much the gain of trials, which learn from fewer rows, is expected to be below that of all.
    ``hoped`` and ``hoped_error``: the gain that was expected before anything was tried.
    """

    candidate: Candidate
    gain: float
    error: float
    seconds: float
    price: float
    full_length: bool
    found: float | None = None
    found_error: float | None = None
    behind: float = 0.0
    hoped: float | None = None
    hoped_error: float | None = None

    @property
    def measured(self) -> bool:
        """Whether there was a trial."""
        return self.found is not None

    @property
    def worth(self) -> float:
        """The gain less its price."""
        return self.gain - self.price

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return vars(self) | {"candidate": self.candidate.name}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], candidate: Candidate) -> Expectation:
        """The expectation of a candidate that ``to_dict`` gave."""
        return cls(**{**values, "candidate": candidate})


@dataclass
class Search:
    """All trials, the expectations they lead to, and every decision in words.

    ``late``: how many times longer than predicted the trials of what is chosen took, the full-length ones where there
    are any; 1 at least.
    """

    trials: list[Trial] = field(default_factory=list)
    expectations: tuple[Expectation, ...] = ()
    chosen: Expectation | None = None
    decisions: list[str] = field(default_factory=list)
    late: float = 1.0


Run = Callable[[Candidate, int, float], Trial]


def hopeless(candidates: Iterable[Candidate], floor_error: float) -> str:
    """Why no candidate is worth a trial, in a sentence, or nothing where one is."""
    most = max((candidate.hope for candidate in candidates), default=0.0) * floor_error
    if most > PRICE / 2:
        return ""
    return (
        f"The probe is wrong on {floor_error:.1%} of the rows: of no candidate that can be tried is more expected than "
        f"{100 * most:.2f} points, which is not worth a trial. The probe is taken."
    )


def tells_apart(floor_error: float, rows: int) -> bool:
    """Whether the probe is wrong on so many of these rows that trials can tell candidates from each other."""
    return round(floor_error * rows) >= FEWEST_ERRORS


def search(
    candidates: Sequence[Candidate],
    run: Run,
    *,
    floor_error: float,
    seconds: Callable[[Candidate], float],
    budget: float,
    part: float = 1 / FOLDS,
    short: Callable[[Candidate], float] = lambda _: SHORT,
    say: Callable[[str], None] = lambda _: None,
) -> Search:
    """The candidate to train fully, or none where none is worth its price.

    ``run`` trains a candidate on all rows but those of a fold (of two), for a share of its epochs. ``seconds``: what
    training it fully will take; ``part``: of the rows that it then learns from, how many a trial does. ``budget``:
    seconds for all trials. ``short``: the share of its epochs that a short trial has, which is 1 where they are too few
    to be cut. Successive halving (Jamieson and Talwalkar 2016) with two rungs: short trials of every candidate on one
    fold, then full length on both; expected gains are those that were hoped for, corrected by what was measured, each
    weighted by its certainty. ``say`` hears every decision as it is made.
    """
    return _Searcher(candidates, run, floor_error, seconds, budget, part, short, say).search()


class _Searcher:
    def __init__(
        self,
        candidates: Sequence[Candidate],
        run: Run,
        floor_error: float,
        seconds: Callable[[Candidate], float],
        budget: float,
        part: float,
        short: Callable[[Candidate], float],
        tell: Callable[[str], None],
    ) -> None:
        self.candidates, self.run, self.floor_error, self.tell = candidates, run, floor_error, tell
        self.part, self.short = part, short
        self.seconds = {candidate.name: seconds(candidate) for candidate in candidates}
        self.dearest = max(self.seconds.values(), default=0.0)
        most = TRIALS_PER_TRAINING * self.dearest
        self.left = min(budget, most)
        bound = "--time-limit leaves" if budget <= most else "twice the dearest training makes"
        self.bound = f"all trials together have {duration(self.left)}, what {bound}"
        self.result = Search()

    def search(self) -> Search:
        if not self.candidates:
            self.say("No candidate is left to try, for the reason given with each: the probe is taken.")
            return self.result
        if len(self.candidates) > 1:
            self.short_trials()
        self.try_fully(self.survivors())
        while (candidate := self.next_best()) is not None:
            self.say(
                f"None is known by a full-length trial to be worth its price: {candidate.name} is tried at full length "
                "next."
            )
            self.try_fully([candidate])
        self.decide()
        return self.result

    def short_trials(self) -> None:
        """Of the most hopeful that half of the budget has room for."""
        half = self.left / 2
        room, tried = half, []
        for candidate in self.candidates:
            price = self.price(candidate, self.short(candidate))
            if price <= room:
                tried.append(candidate)
                room -= price
            else:
                self.say(f"{candidate.name}: no short trial, {self.bound}.")
        for candidate in tried:
            # They may take longer than was predicted, and must leave what full-length ones need.
            share = self.short(candidate)
            if self.affordable(candidate, share, keep=half if self.result.trials else 0.0):
                self.add(self.run(candidate, 0, share))
            else:
                self.say(f"{candidate.name}: no short trial, {self.bound}.")

    def survivors(self) -> list[Candidate]:
        """Those whose full-length trials are worth making, the most promising first."""
        extra = int(self.floor_error >= WORTH_ONE_MORE) + int(self.floor_error >= 2 * WORTH_ONE_MORE)
        ranked = sorted(
            (candidate for candidate in self.candidates if not self.failed(candidate)),
            key=lambda candidate: -self.worth(candidate),
        )
        # A rate that is best on one task destroys the backbone on another. It comes second, since there may be no time
        # for a third.
        others = [candidate for candidate in ranked if _policy(candidate) != _policy(ranked[0])]
        ranked = list(dict.fromkeys([*ranked[:1], *others[:1], *ranked]))
        kept = ranked[: 1 + extra]
        if extra and len(ranked) > len(kept):
            # Some tasks stand on a plateau and then jump: accuracy alone would drop what is about to.
            kept = self.with_trending(kept, ranked[len(kept) :])
        if kept:
            names = "; ".join(candidate.name for candidate in kept)
            self.say(f"The probe leaves {self.floor_error:.1%} errors: to be tried at full length: {names}.")
        return kept

    def with_trending(self, kept: list[Candidate], others: Sequence[Candidate]) -> list[Candidate]:
        """Those that are kept, with one of the others that accuracy would drop, though it trends.

        It takes the place of the last, unless that is the only one with another rate or norm policy than the first.
        """
        for candidate in others:
            why = self.trend(candidate)
            if not why:
                continue
            alone = len(kept) < 3 and _policy(candidate) == _policy(kept[0]) != _policy(kept[-1])
            place = "too" if alone else f"in place of {kept[-1].name}"
            self.say(f"{candidate.name}: {why}, it is tried at full length {place}.")
            return [*(kept if alone else kept[:-1]), candidate]
        return kept

    def trend(self, candidate: Candidate) -> str:
        """What its short trial shows beside accuracy: a single class that rises, or a loss that falls much faster."""
        tried = {trial.candidate.name: trial for trial in self.result.trials if not trial.failed}
        trial = tried.get(candidate.name)
        if trial is None:
            return ""
        if trial.best_class_gain >= NormalDist().inv_cdf(1 - RISEN_BY_CHANCE / len(np.unique(trial.y))):
            return f"one class rose by {trial.best_class_gain:.1f} standard errors"
        # The loss of pairs falls otherwise than that of classes.
        falls = sorted(trial.fall for trial in tried.values() if trial.candidate.strategy not in ON_PAIRS)
        if candidate.strategy in ON_PAIRS or len(falls) < 3:
            return ""
        if trial.fall == falls[-1] and trial.fall > 1.5 * max(falls[-2], 0.0):
            return f"its training loss falls fastest ({trial.fall:.0%})"
        return ""

    def try_fully(self, kept: Sequence[Candidate]) -> None:
        """One half for each, then the other half for those between which it is still open."""
        for candidate in kept:
            self.try_half(candidate, 0)
        for candidate in sorted(kept, key=lambda one: -self.worth(one)):
            if self.failed(candidate):
                continue
            now, best = self.expect(candidate), max(self.worth(other) for other in kept)
            if now.gain + 2 * now.error < max(0.0, best):
                self.say(
                    f"{candidate.name}: clearly below what is known to be better, no second half is tried."
                )
            elif now.full_length:
                self.try_half(candidate, 1)

    def next_best(self) -> Candidate | None:
        """The most promising that was tried short alone, where all longer trials have disappointed and time is left."""
        expected = [self.expect(candidate) for candidate in self.candidates if not self.failed(candidate)]
        if any(one.full_length and one.worth > 0 for one in expected):
            return None
        open_ = [one for one in expected if self.promises(one) and self.affordable(one.candidate, 1.0)]
        return max(open_, key=lambda one: one.worth).candidate if open_ else None

    @staticmethod
    def promises(expected: Expectation) -> bool:
        """Whether a short trial alone says that it is worth more than it costs."""
        return expected.measured and not expected.full_length and expected.worth > 0

    def try_half(self, candidate: Candidate, fold: int) -> None:
        if any(
            trial.candidate == candidate and trial.fold == fold and trial.share == 1.0
            for trial in self.result.trials
        ):
            # Its short trial was as long as that.
            return
        if self.affordable(candidate, 1.0):
            self.add(self.run(candidate, fold, 1.0))
        else:
            self.say(f"{candidate.name}: no full-length trial on half {fold + 1}, {self.bound}.")

    def worth(self, candidate: Candidate) -> float:
        """What it is expected to gain, less its price; a broken one is worth nothing."""
        return -math.inf if self.failed(candidate) else self.expect(candidate).worth

    def affordable(self, candidate: Candidate, share: float, *, keep: float = 0.0) -> bool:
        """Whether there is time for a trial, of which ``keep`` seconds are for others; as late as those before it."""
        late = [
            trial.seconds - self.price(trial.candidate, trial.share)
            for trial in self.result.trials
            if not trial.failed
        ]
        return self.price(candidate, share) + max(0.0, sum(late) / max(1, len(late))) <= self.left - keep

    def late(self, candidate: Candidate) -> float:
        """How many times longer than predicted its trials took, 1 at least."""
        own = [trial for trial in self.result.trials if trial.candidate == candidate]
        whole = [trial for trial in own if trial.share == 1.0] or own
        predicted = sum(self.price(trial.candidate, trial.share) for trial in whole)
        return max(1.0, sum(trial.seconds for trial in whole) / predicted) if predicted else 1.0

    def price(self, candidate: Candidate, share: float) -> float:
        """The seconds that a trial is predicted to take, by the rows that it learns from."""
        return share * self.seconds[candidate.name] * self.part

    def add(self, trial: Trial) -> None:
        self.left -= trial.seconds
        self.result.trials.append(trial)
        name, length = trial.candidate.name, "short" if trial.share < 1 else "full-length"
        if trial.failed:
            self.say(f"{name}: {length} trial failed: {trial.failed}")
        else:
            self.say(
                f"{name}: {length} trial, {trial.right.mean():.1%} right on {len(trial.y)} held-out rows, "
                f"the probe {trial.floor_right.mean():.1%} ({trial.seconds:.0f} s)."
            )

    def failed(self, candidate: Candidate) -> bool:
        return any(trial.failed for trial in self.result.trials if trial.candidate == candidate)

    def expect(self, candidate: Candidate) -> Expectation:
        """The hoped-for gain, corrected by what was measured (a normal prior and normal measurements)."""
        hoped = (
            candidate.hope * self.floor_error,
            max((DOUBT * candidate.hope + LEAST_DOUBT) * self.floor_error, 1e-6),
        )
        known, halves, found = [hoped], [], []
        behind = candidate.behind * self.floor_error
        trials = [trial for trial in self.result.trials if trial.candidate == candidate and not trial.failed]
        longest = max((trial.share for trial in trials), default=0.0)
        for trial in trials:
            # A short trial says nothing that a full-length one does not say better.
            if trial.share < longest:
                continue
            doubt = SHORT_DOUBT if trial.share < 1 else 1.0
            halves.append((trial.gain, doubt * paired_error(*trial.answers())))
            right, floor_right, groups = trial.answers(trial.train)
            if len(right):
                error = doubt * paired_error(right, floor_right, groups)
                found.append((paired_gain(right, floor_right), error))
        if halves:
            measured, error = pooled(halves)
            # How far they are behind is known no better than by about as much, and the same for all of them.
            known.append((measured + behind, math.hypot(error, behind)))
        gain, error = pooled(known)
        found_gain, found_error = pooled(found) if found else (None, None)
        seconds = self.seconds[candidate.name]
        return Expectation(
            candidate=candidate,
            gain=gain,
            error=error,
            seconds=seconds,
            price=price_of(seconds, dearest=self.dearest),
            full_length=longest == 1.0,
            found=found_gain,
            found_error=found_error,
            behind=behind,
            hoped=hoped[0],
            hoped_error=hoped[1],
        )

    def decide(self) -> None:
        found = sorted(
            (self.expect(candidate) for candidate in self.candidates if not self.failed(candidate)),
            key=lambda expectation: -expectation.worth,
        )
        self.result.expectations = tuple(found)
        # What was never tried is not preferred to what was: it has only its hope.
        tried = [expectation for expectation in found if expectation.measured] or found
        full = [expectation for expectation in tried if expectation.full_length] or tried
        if not full or full[0].worth <= 0:
            self.say(self.why_none(found))
            return
        best = full[0]
        self.result.chosen = best
        self.result.late = self.late(best.candidate)
        known = "of what was hoped alone, since there was no time to try it"
        if best.measured:
            known = "of what was hoped and what was tried" + (" on fewer rows" if best.behind else "")
        self.say(
            f"{best.candidate.name} is taken: {gain_text(best.gain, best.error)} over the probe "
            f"are expected, {known}, less {100 * best.price:.1f} for its {duration(best.seconds)}."
        )

    def why_none(self, found: Sequence[Expectation]) -> str:
        """Why the probe is taken: trials failed or found nothing worth its price, or there was no time for them."""
        failed = [candidate.name for candidate in self.candidates if self.failed(candidate)]
        if len(failed) == len(self.candidates) == 1:
            return "Its trial failed: the probe is taken. Another strategy can be named with --strategy."
        if not found:
            return "A trial of every candidate failed: the probe is taken."
        also = f" Trials of {' and '.join(failed)} failed." if failed else ""
        if not any(one.measured for one in found):
            names = " and ".join(one.candidate.name for one in found)
            return (
                f"There was no time to try {names}, and what was hoped for is not more than the price: the probe is "
                f"taken.{also}"
            )
        # Of the rest no more is hoped than it costs, so that a trial is not missed.
        longer = [one.candidate.name for one in found if self.promises(one)]
        at_all = [one.candidate.name for one in found if not one.measured and one.worth > 0]
        which = " that was tried at full length" if longer else " that was tried" if at_all else ""
        missed = [
            f"{' and '.join(names)} {how}" for names, how in ((longer, "longer"), (at_all, "at all")) if names
        ]
        late = f" There was no time to try {', or '.join(missed)}." if missed else ""
        return (
            f"No candidate{which} is expected to gain more over the probe than it costs: the probe is taken."
            f"{late}{also}"
        )

    def say(self, sentence: str) -> None:
        self.result.decisions.append(sentence)
        self.tell(sentence)


def _policy(candidate: Candidate) -> tuple[object, ...]:
    """The rate and the norm policy of a candidate, None where they are those of weights or of grafts by default."""
    return candidate.strategy in GRAFTING, candidate.changes.get("rate"), candidate.changes.get("norm")


def price_of(seconds: float, *, dearest: float) -> float:
    """The gain that a training of so many seconds costs, where the dearest candidate takes ``dearest``."""
    return PRICE * seconds / max(dearest, 1e-9)


def gain_text(gain: float, error: float, *, among: int = 1) -> str:
    """A gain in points with its 95 % interval, which is wider for the best of ``among``."""
    return f"{points(gain)} ± {100 * reach(error, among=among):.1f}"
