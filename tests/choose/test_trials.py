"""The search over made-up candidates whose true worth is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from unfreeze.choose.candidates import Candidate
from unfreeze.choose.paired import paired_error, paired_score
from unfreeze.choose.trials import PRICE, Expectation, Trial, hopeless, search, tells_apart

ROWS = 400
FLOOR = 0.70


def candidate(strategy: str, hope: float = 0.2, **changes: object) -> Candidate:
    return Candidate(strategy=strategy, hope=hope, reason="made up", changes=changes)


class Bench:
    """Trials that are right as often as was laid down, and notes of what was run."""

    def __init__(
        self,
        worth: dict[str, tuple[float, float]],
        *,
        rows: int = ROWS,
        floor: float = FLOOR,
        late: float = 0.0,
    ) -> None:
        self.late = late
        self.worth, self.rows, self.floor = worth, rows, floor
        self.runs: list[tuple[str, int, float]] = []
        self.seconds = dict.fromkeys(worth, 100.0)
        self.losses: dict[str, tuple[float, ...]] = {}
        self.failing: set[str] = set()

    def __call__(self, one: Candidate, fold: int, share: float) -> Trial:
        self.runs.append((one.name, fold, share))
        half = self.rows // 2
        short, full = self.worth[one.name]
        right = np.arange(half) < round(half * (full if share == 1 else short))
        return Trial(
            candidate=one,
            fold=fold,
            share=share,
            right=right,
            floor_right=np.arange(half) < round(half * self.floor),
            y=np.arange(half) % 2,
            train=np.arange(half) % 5 > 0,
            losses=self.losses.get(one.name, (0.7, 0.6, 0.5)),
            seconds=self.seconds[one.name] * share / 2 + self.late,
            failed="the loss is not finite" if one.name in self.failing else "",
        )

    def search(self, *ones: Candidate, error: float | None = None, budget: float = 1e9, **settings: object):
        return search(
            ones,
            self,
            floor_error=1 - self.floor if error is None else error,
            seconds=lambda one: self.seconds[one.name],
            budget=budget,
            **settings,
        )


def test_the_candidate_that_is_right_most_often_is_taken():
    bench = Bench({"full": (0.72, 0.85), "partial": (0.71, 0.74)})
    found = bench.search(candidate("full"), candidate("partial"))
    assert found.chosen is not None
    assert found.chosen.candidate.name == "full"
    assert 0.10 < found.chosen.gain < 0.16
    assert ("full", 0, 1.0) in bench.runs
    assert ("full", 1, 1.0) in bench.runs


def test_nothing_is_taken_where_nothing_beats_the_probe():
    bench = Bench({"full": (0.69, 0.69), "partial": (0.70, 0.70)}, rows=4000)
    found = bench.search(candidate("full"), candidate("partial"))
    assert found.chosen is None
    assert "the probe is taken" in found.decisions[-1]


def test_where_the_most_promising_disappoints_the_next_is_tried_while_there_is_time():
    worth = {"full": (0.98, 0.90), "lora": (0.97, 0.96)}
    bench = Bench(worth, floor=0.92)
    found = bench.search(candidate("full"), candidate("lora"))
    assert [run for run in bench.runs if run[2] == 1] == [
        ("full", 0, 1.0),
        ("full", 1, 1.0),
        ("lora", 0, 1.0),
    ]
    assert (
        "None is known by a full-length trial to be worth its price: lora is tried at full length next."
        in found.decisions
    )
    assert found.chosen is not None
    assert found.chosen.candidate.name == "lora"

    # Short trials of both and one half of the first take all of the time.
    bench = Bench(worth, floor=0.92)
    found = bench.search(candidate("full"), candidate("lora"), budget=2 * 25 / 2 + 50 + 1)
    assert found.chosen is None
    assert found.decisions[-1] == (
        "No candidate that was tried at full length is expected to gain more over the probe than it costs: the probe "
        "is taken. There was no time to try lora longer."
    )


def test_where_every_trial_fails_the_probe_is_taken():
    bench = Bench({"full": (0.9, 0.9), "lora": (0.9, 0.9)})
    bench.failing = {"full", "lora"}
    found = bench.search(candidate("full"), candidate("lora"))
    assert found.chosen is None
    assert found.expectations == ()
    assert found.decisions[-1] == "A trial of every candidate failed: the probe is taken."
    alone = bench.search(candidate("full"))
    assert alone.decisions[-1] == (
        "Its trial failed: the probe is taken. Another strategy can be named with --strategy."
    )


NOT_WORTH_IT = "is expected to gain more over the probe than it costs: the probe is taken."


@pytest.mark.parametrize(
    ("full", "lora", "failing", "budget", "closing"),
    [
        # Short trials, then each at full length; the costs of the two are 100 s and 1,000 s.
        (0.69, 0.69, (), 1e9, f"No candidate {NOT_WORTH_IT}"),
        (0.69, 0.69, ("lora",), 1e9, f"No candidate {NOT_WORTH_IT} Trials of lora failed."),
        (0.69, 0.69, (), 200.0, f"No candidate that was tried {NOT_WORTH_IT} There was no time to try lora at all."),
        (0.69, 0.69, ("full",), 200.0, "of what was hoped alone, since there was no time to try it"),
        (0.69, 0.69, (), 0.0, "of what was hoped alone, since there was no time to try it"),
        (0.75, 0.69, (), 200.0, "of what was hoped and what was tried, less"),
    ],
)  # fmt: skip
def test_what_is_said_last_is_why(full, lora, failing, budget, closing):
    bench = Bench({"full": (full, full), "lora": (lora, lora)}, rows=40_000)
    bench.seconds["lora"] = 1000.0
    bench.failing = set(failing)
    found = bench.search(candidate("full"), candidate("lora"), budget=budget)
    last = found.decisions[-1]
    assert (last == closing) if found.chosen is None else (closing in last)
    assert (found.chosen is None) == (NOT_WORTH_IT in closing)


@pytest.mark.parametrize(("failing", "also"), [((), ""), (("full",), " Trials of full failed.")])
def test_a_hope_below_its_price_that_there_was_no_time_to_try_is_not_called_tried(failing, also):
    bench = Bench({"full": (0.9, 0.9), "lora": (0.9, 0.9)})
    bench.seconds["lora"] = 1000.0
    bench.failing = set(failing)
    names = "lora" if failing else "lora and full"
    found = bench.search(
        candidate("full", hope=0.001), candidate("lora", hope=0.016), budget=200.0 if failing else 0.0
    )
    assert found.chosen is None
    assert found.decisions[-1] == (
        f"There was no time to try {names}, and what was hoped for is not more than the price: the probe is taken."
        + also
    )


def test_where_no_candidate_is_left_the_reasons_stand_with_each():
    found = Bench({}).search()
    assert found.decisions == [
        "No candidate is left to try, for the reason given with each: the probe is taken."
    ]


@pytest.mark.parametrize(
    ("hope", "error", "points"),
    [(0.2, 0.005, "0.10"), (0.02, 0.12, "0.24"), (0.02, 0.13, ""), (0.2, 0.1, "")],
)
def test_a_trial_is_worth_making_where_half_its_price_may_be_gained(hope, error, points):
    told = hopeless((candidate("full", hope=hope), candidate("partial", hope=hope / 2)), error)
    assert ("not worth a trial" in told) == bool(points)
    assert f"{points} points" in told or not points


def test_without_a_candidate_there_is_nothing_to_hope_for():
    assert "0.00 points" in hopeless((), 0.3)


def test_of_two_that_are_equal_the_cheaper_is_taken():
    bench = Bench({"full": (0.75, 0.80), "partial": (0.75, 0.80)})
    bench.seconds = {"full": 1000.0, "partial": 100.0}
    found = bench.search(candidate("full"), candidate("partial"))
    assert found.chosen is not None
    assert found.chosen.candidate.name == "partial"


def test_a_gain_below_its_price_is_not_taken():
    bench = Bench({"full": (0.70, 0.70 + PRICE / 2)}, rows=200_000)
    found = bench.search(candidate("full", hope=0.05))
    assert found.chosen is None


def test_the_more_errors_the_floor_leaves_the_more_are_tried_at_full_length():
    def tried(floor: float) -> set[str]:
        bench = Bench(dict.fromkeys("abcd", (floor, floor + 0.01)), floor=floor)
        bench.search(*(candidate(name) for name in "abcd"))
        return {name for name, _, share in bench.runs if share == 1.0}

    assert [len(tried(floor)) for floor in (0.95, 0.85, 0.70)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("floor", "tried"),
    [(0.95, ["a"]), (0.85, ["a", "d, rate 0.001"]), (0.70, ["a", "d, rate 0.001", "b"])],
    ids=str,
)
def test_of_those_that_are_tried_fully_one_has_another_rate_or_norm_policy(floor, tried):
    ones = [*map(candidate, "abc"), candidate("d", rate=1e-3)]
    above = (0.04, 0.03, 0.02, 0.01)
    bench = Bench(
        {one.name: (floor + gain, floor) for one, gain in zip(ones, above, strict=True)}, floor=floor
    )
    found = bench.search(*ones)
    named = next(sentence for sentence in found.decisions if "to be tried at full length" in sentence)
    assert named.partition("full length: ")[2].rstrip(".").split("; ") == tried


@pytest.mark.parametrize("kind", ["rate", "norm", "graft"])
def test_a_policy_that_differs_already_takes_no_place(kind):
    second = candidate("lora", rank=1) if kind == "graft" else candidate("b", **{kind: 1})
    ones = [candidate("a"), second, candidate("c", rate=2)]
    bench = Bench({one.name: (0.9 - 0.01 * place, 0.85) for place, one in enumerate(ones)}, floor=0.85)
    assert f"full length: a; {second.name}." in " ".join(bench.search(*ones).decisions)


def test_where_there_is_no_time_for_a_third_it_is_not_the_other_policy_that_falls_out():
    ones = [*map(candidate, "abcd"), candidate("e", rate=1e-3)]
    bench = Bench({one.name: (0.74 - 0.01 * place, 0.7) for place, one in enumerate(ones)})
    bench.search(*ones)
    # 200 s for five short trials of 12.5 and full-length ones of 50.
    assert [name for name, fold, share in bench.runs if (fold, share) == (0, 1.0)] == ["a", "e, rate 0.001"]


@pytest.mark.parametrize("rate", [None, 1e-4])
def test_a_trend_takes_no_place_from_the_only_other_policy(rate):
    slow = candidate("slow", hope=0.02, **({} if rate is None else {"rate": rate}))
    ones = [candidate("a"), candidate("b"), candidate("c", rate=1e-3), slow]
    bench = Bench(dict.fromkeys((one.name for one in ones), (0.85, 0.85)), floor=0.85)
    bench.losses = dict.fromkeys((one.name for one in ones), (0.70, 0.68, 0.66)) | {
        slow.name: (0.7, 0.6, 0.4)
    }
    found = bench.search(*ones)
    named = next(sentence for sentence in found.decisions if "to be tried at full length:" in sentence)
    wanted = ["a", "c, rate 0.001", "slow"] if rate is None else ["a", slow.name]
    assert named.partition("full length: ")[2].rstrip(".").split("; ") == wanted
    place = "too." if rate is None else "in place of c, rate 0.001."
    assert any(sentence.endswith(f"it is tried at full length {place}") for sentence in found.decisions)


def test_a_short_trial_that_cannot_be_shorter_is_the_full_length_one():
    bench = Bench({"a": (0.72, 0.85), "b": (0.71, 0.74)})
    found = bench.search(candidate("a"), candidate("b"), short=lambda one: 1.0 if one.name == "a" else 0.25)
    assert bench.runs.count(("a", 0, 1.0)) == 1
    assert ("a", 1, 1.0) in bench.runs
    assert found.chosen is not None
    assert found.chosen.full_length


@pytest.mark.parametrize(("part", "halves"), [(0.5, [0, 1]), (0.6, [0])])
def test_trials_are_predicted_by_the_rows_that_they_learn_from(part, halves):
    bench = Bench({"full": (0.75, 0.8)})
    bench.search(candidate("full"), budget=105.0, part=part)
    assert [fold for _, fold, _ in bench.runs] == halves


def test_a_task_on_a_plateau_is_found_by_its_training_loss():
    # After the short trial all stand where the probe stands; only the slow one jumps, at full length.
    bench = Bench(
        {"a": (0.72, 0.72), "b": (0.72, 0.72), "c": (0.72, 0.72), "slow": (0.70, 0.98)}, floor=0.85 - 0.1
    )
    bench.losses = dict.fromkeys("abc", (0.70, 0.68, 0.66)) | {"slow": (0.70, 0.60, 0.40)}
    found = bench.search(*(candidate(name) for name in "abc"), candidate("slow", hope=0.1))
    assert ("slow", 0, 1.0) in bench.runs
    assert found.chosen is not None
    assert found.chosen.candidate.name == "slow"
    assert any("training loss falls fastest" in sentence for sentence in found.decisions)


@pytest.mark.parametrize(("floor", "takes"), [(0.95, False), (0.85, True)], ids=str)
def test_it_is_said_whose_place_a_trend_takes_and_only_where_it_takes_one(floor, takes):
    bench = Bench(dict.fromkeys(("a", "b", "slow"), (floor, floor)), floor=floor)
    bench.losses = dict.fromkeys("ab", (0.70, 0.68, 0.66)) | {"slow": (0.70, 0.60, 0.40)}
    found = bench.search(candidate("a"), candidate("b"), candidate("slow", hope=0.02))
    told = [sentence for sentence in found.decisions if "falls fastest" in sentence]
    assert [sentence.partition("it is")[2] for sentence in told] == (
        [" tried at full length in place of b."] if takes else []
    )


@pytest.mark.parametrize(("classes", "takes"), [(2, True), (40, False)], ids=str)
def test_a_class_must_rise_by_more_where_there_are_many_to_rise(classes, takes):
    class Rising(Bench):
        """One class of the last candidate rises by 2.8 standard errors, and others fall as far."""

        def __call__(self, one, fold, share):
            trial = super().__call__(one, fold, share)
            y = np.arange(len(trial.y)) % classes
            floor_right = np.arange(len(y)) % 20 > 2
            right = floor_right.copy()
            if one.name == "slow":
                wrong = np.flatnonzero(~floor_right)
                y[wrong[:9]] = 0
                right[wrong[:9]] = True
                kept = np.flatnonzero(floor_right & (y != 0))
                right[kept[:9]] = False
                y[kept[:9]] = 1
            return dataclasses.replace(trial, right=right, floor_right=floor_right, y=y)

    bench = Rising(dict.fromkeys(("a", "b", "slow"), (0.85, 0.85)), floor=0.85)
    found = bench.search(candidate("a"), candidate("b"), candidate("slow", hope=0.0))
    assert any("one class rose" in sentence for sentence in found.decisions) == takes


def test_the_loss_of_pairs_is_no_trend():
    bench = Bench(dict.fromkeys(("a", "b", "c", "contrastive"), (0.85, 0.85)), floor=0.85)
    bench.losses = dict.fromkeys("abc", (0.70, 0.68, 0.66)) | {"contrastive": (0.70, 0.60, 0.40)}
    ones = [candidate(name) for name in "abc"] + [candidate("contrastive", hope=0.02)]
    assert not any("falls fastest" in sentence for sentence in bench.search(*ones).decisions)


def test_what_trials_found_is_kept_without_hope_and_without_validation_rows():
    bench = Bench({"full": (0.70, 0.80)})
    (expectation,) = bench.search(candidate("full", hope=0.05)).expectations
    half = np.arange(ROWS // 2)
    of_train = (half[half % 5 > 0] < 0.8 * len(half)).mean() - (half[half % 5 > 0] < 0.7 * len(half)).mean()
    assert expectation.found == pytest.approx(of_train)
    assert expectation.gain != pytest.approx(of_train, abs=1e-3)
    assert expectation.found_error is not None
    assert expectation.error < expectation.found_error


@pytest.mark.parametrize(("budget", "bound"), [(60.0, "--time-limit leaves"), (1e9, "twice the dearest")])
def test_it_is_said_what_bounds_the_trials(budget, bound):
    bench = Bench(dict.fromkeys("abcd", (0.71, 0.71)))
    told = bench.search(*(candidate(name) for name in "abcd"), budget=budget).decisions
    assert any("no full-length trial" in sentence and bound in sentence for sentence in told)


def test_a_candidate_that_breaks_is_never_taken():
    bench = Bench({"full": (0.9, 0.99), "partial": (0.72, 0.75)})
    bench.failing = {"full"}
    found = bench.search(candidate("full"), candidate("partial"))
    assert found.chosen is not None
    assert found.chosen.candidate.name == "partial"
    assert any("failed: the loss is not finite" in sentence for sentence in found.decisions)


def test_one_that_is_clearly_below_the_probe_gets_no_second_half():
    bench = Bench({"full": (0.3, 0.3)})
    bench.search(candidate("full"))
    assert bench.runs == [("full", 0, 1.0)]


@pytest.mark.parametrize("budget", [0.0, 30.0, 80.0, 170.0])
def test_trials_keep_to_their_budget(budget):
    bench = Bench(dict.fromkeys("abcd", (0.75, 0.8)))
    bench.search(*(candidate(name) for name in "abcd"), budget=budget)
    assert sum(bench.seconds[name] * share / 2 for name, _, share in bench.runs) <= budget


def test_short_trials_that_take_longer_than_predicted_leave_time_for_full_length_ones():
    bench = Bench(dict.fromkeys("abcd", (0.75, 0.8)), late=15.0)
    found = bench.search(*(candidate(name) for name in "abc"), candidate("d", hope=0.1))
    # 200 s: a short one is predicted to take 12.5 and takes 27.5, so that a fourth would not leave half of them.
    assert bench.runs[:4] == [("a", 0, 0.25), ("b", 0, 0.25), ("c", 0, 0.25), ("a", 0, 1.0)]
    assert sum("d: no short trial, all trials together have" in sentence for sentence in found.decisions) == 1
    assert sum(trial.seconds for trial in found.trials) <= 200.0


def test_it_is_known_how_late_full_length_trials_were():
    late = Bench({"full": (0.75, 0.8)}, late=20.0).search(candidate("full")).late
    assert late == pytest.approx(70 / 50)
    assert Bench({"full": (0.75, 0.8)}, late=-20.0).search(candidate("full")).late == 1.0
    assert Bench({"full": (0.75, 0.8)}).search(candidate("full"), budget=0.0).late == 1.0


def test_what_is_chosen_is_as_late_as_its_own_trials():
    class Slow(Bench):
        def __call__(self, one, fold, share):
            trial = super().__call__(one, fold, share)
            return dataclasses.replace(trial, seconds=trial.seconds * (3 if one.name == "lora" else 1.5))

    found = Slow({"full": (0.72, 0.85), "lora": (0.71, 0.74)}).search(candidate("full"), candidate("lora"))
    assert found.chosen is not None
    assert found.chosen.candidate.name == "full"
    assert found.late == pytest.approx(1.5)


def test_trials_take_at_most_twice_what_the_training_takes():
    bench = Bench(dict.fromkeys("abcd", (0.75, 0.8)))
    bench.search(*(candidate(name) for name in "abcd"))
    assert sum(bench.seconds[name] * share / 2 for name, _, share in bench.runs) <= 200.0


def test_what_trials_on_fewer_rows_are_behind_is_added():
    def expect(behind):
        one = Candidate(strategy="full", hope=0.2, reason="made up", behind=behind)
        (expectation,) = Bench({"full": (0.70, 0.70)}, rows=40_000).search(one).expectations
        return expectation

    level, behind = expect(0.0), expect(0.05)
    assert level.gain == pytest.approx(0, abs=1e-3)
    # Of what was hoped a little is left: behind is known no better than by as much.
    hoped, added = 0.2 * (1 - FLOOR), 0.05 * (1 - FLOOR)
    weights = 1 / (0.2 * (1 - FLOOR)) ** 2, 1 / added**2
    assert behind.gain == pytest.approx(np.average([hoped, added], weights=weights), abs=2e-4)
    # Two halves know it no better than one.
    assert behind.error == pytest.approx(sum(weights) ** -0.5, rel=0.02)
    # What was found is told as it was.
    assert (behind.behind, behind.found) == (pytest.approx(0.05 * (1 - FLOOR)), level.found)


def test_what_is_hoped_for_counts_less_the_more_rows_were_tried():
    gains = []
    for rows in (40, 400, 40_000):
        bench = Bench({"full": (0.70, 0.70)}, rows=rows)
        (expectation,) = bench.search(candidate("full", hope=0.3)).expectations
        gains.append(expectation.gain)
    assert gains[0] > gains[1] > gains[2]
    assert gains[0] < 0.3 * (1 - FLOOR)
    assert gains[2] == pytest.approx(0, abs=1e-3)


def test_the_error_of_a_difference_counts_the_rows_that_differ():
    right, floor = np.zeros(100, dtype=bool), np.zeros(100, dtype=bool)
    assert paired_error(right, floor) == pytest.approx(1 / 100)
    right[:8] = True
    assert paired_error(right, floor) == pytest.approx(3 / 100)


def test_thirty_wrong_answers_tell_candidates_apart():
    for rows in range(31, 400):
        assert tells_apart(1 - (rows - 30) / rows, rows)
        assert not tells_apart(1 - (rows - 29) / rows, rows)


def test_rows_of_a_group_that_rise_together_are_less_certain():
    right, floor = np.repeat([True, False], [60, 40]), np.repeat([True, False], [50, 50])
    tens = np.arange(100) // 10
    # One group of ten rises, and one more could.
    assert paired_error(right, floor, tens) == pytest.approx(np.sqrt(100 + 100) / 100)
    assert paired_error(right, floor, np.arange(100)) == paired_error(right, floor)
    assert paired_score(right, floor) == pytest.approx(10 / np.sqrt(11))
    assert paired_score(right, floor, tens) == pytest.approx(10 / np.sqrt(200))


def test_an_expectation_is_kept_as_json():
    one = candidate("full", rate=1e-4)
    made = Expectation(candidate=one, gain=0.1, error=0.02, seconds=3.0, price=0.003, full_length=True)
    assert Expectation.from_dict(made.to_dict(), one) == made
    assert made.to_dict()["candidate"] == "full, rate 0.0001"
    assert not made.measured
    assert made.worth == pytest.approx(0.097)
