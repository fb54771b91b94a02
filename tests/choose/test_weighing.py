"""Which candidates there is time and room for, with a clock and costs that are laid down."""

from types import SimpleNamespace

import pytest

from unfreeze.choose.candidates import Candidate
from unfreeze.choose.cost import Cost
from unfreeze.errors import DataError, RequestError, StoppedError
from unfreeze.plan import Phase, Plan, Thaw
from unfreeze.training import weighing
from unfreeze.training.weighing import fit_late, weigh

MEASURING, AN_EPOCH = 20.0, 10.0


class Desk:
    """Measures the cost of a strategy when it is asked for the first time, which takes a while."""

    def __init__(self, **bytes_of):
        self.gone, self.bytes_of, self.measured, self.dropped = 0.0, bytes_of, [], {}
        self.broken = {}

    def predict(self, plan):
        if plan.strategy not in self.measured:
            self.measured.append(plan.strategy)
            self.gone += MEASURING
        if plan.strategy in self.broken:
            raise self.broken[plan.strategy]
        around = {"all": AN_EPOCH * plan.epochs}
        memory = self.bytes_of.get(plan.strategy, 1)
        return Cost(strategy=plan.strategy, phases=(), around=around, memory_bytes=memory)

    def weigh(self, *strategies, limit, few=False, part=0.5):
        wanted = {}
        for strategy in strategies:
            phase = Phase(name="a", epochs=40, thaw=(Thaw(0, "weights", 1e-3),))
            wanted[Candidate(strategy=strategy, hope=0.1, reason="")] = Plan(
                strategy=strategy, phases=(phase,)
            )
        plans, left = weigh(
            wanted,
            SimpleNamespace(),
            self.predict,
            lambda: self.gone,
            limit,
            few=few,
            part=part,
            drop=lambda candidate, why: self.dropped.update({candidate.strategy: why}),
        )
        return {candidate.strategy: plan.epochs for candidate, plan in plans.items()}, left


@pytest.fixture(autouse=True)
def room(monkeypatch):
    monkeypatch.setattr(weighing, "_room_for_training", lambda _: 100)


def test_epochs_are_cut_to_half_of_what_is_left_when_all_are_measured():
    desk = Desk()
    # 1,000 s less 40 for measuring: 480 for 40 epochs of 10 s. With 640 there are 300 left, for 30 of them.
    assert desk.weigh("full", "lora", limit="1000s") == ({"full": 40, "lora": 40}, 960.0)
    assert Desk().weigh("full", "lora", limit="640s") == ({"full": 30, "lora": 30}, 600.0)


def test_the_final_training_leaves_room_for_trials_of_all_their_rows():
    # 1,000 s for it and twice 0.75 of it; for all of its epochs that is 400 and 600.
    assert Desk().weigh("full", limit="1000s", few=True, part=0.75) == ({"full": 30}, 980.0)
    assert Desk().weigh("full", limit="1021s", few=True, part=0.75) == ({"full": 40}, 1001.0)


@pytest.mark.parametrize(
    ("left", "late", "epochs"),
    [(400.0, 1.0, 40), (400.0, 1.3, 30), (720.0, 1.8, 40), (200.0, 1.0, 20), (-5.0, 1.0, 4)],
)
def test_what_is_later_than_predicted_has_the_epochs_that_fit(left, late, epochs):
    desk = Desk()
    phase = Phase(name="a", epochs=40, thaw=(Thaw(0, "weights", 1e-3),))
    fitting, told = fit_late(Plan(strategy="full", phases=(phase,)), desk.predict, left, late=late)
    assert fitting.epochs == epochs
    assert told == (
        f"It is trained for {epochs} of its 40 epochs: {max(left, 0):.0f} s of --time-limit are left"
        + (f", and its trials took {late:.1f} times what was predicted." if late > 1 else ".")
        if epochs < 40
        else ""
    )


def test_the_first_is_measured_however_late_it_is_and_others_are_not():
    desk = Desk()
    assert desk.weigh("full", "lora", limit="10s") == ({}, 0.0)
    assert desk.measured == ["full"]
    assert desk.dropped["lora"] == "--time-limit 10s is over before its cost is measured"
    assert desk.dropped["full"].endswith("0 s of --time-limit are left: fewer than 4 epochs would fit")


def test_how_few_epochs_would_not_fit_is_what_a_plan_is_cut_to():
    desk = Desk()
    # Half of 70 s: a tenth of 40 epochs takes 40, and a plan is cut no further.
    assert desk.weigh("full", limit="90s") == ({}, 70.0)
    assert desk.dropped["full"].endswith("fewer than 4 epochs would fit")


def test_of_few_the_first_with_time_and_room_is_the_last_that_is_measured():
    desk = Desk(full=1000)
    assert desk.weigh("full", "lora", "partial", limit="1000s", few=True) == ({"lora": 40}, 960.0)
    assert desk.measured == ["full", "lora"]
    assert list(desk.dropped) == ["full"]
    assert desk.dropped["full"].startswith("it would take 1 kB of memory, and there are 100")


@pytest.mark.parametrize("problem", [RequestError("It breaks."), RuntimeError("It breaks.\nAt length.")])
@pytest.mark.parametrize("few", [True, False])
def test_one_that_breaks_while_it_is_measured_falls_out_and_says_why(problem, few):
    desk = Desk()
    desk.broken["lora"] = problem
    assert desk.weigh("lora", "full", limit="1000s", few=few) == ({"full": 40}, 960.0)
    assert desk.dropped == {"lora": "its cost cannot be measured: It breaks"}


@pytest.mark.parametrize("problem", [DataError("A picture has vanished."), StoppedError("Asked to stop.")])
def test_what_is_no_fault_of_a_candidate_ends_measuring(problem):
    desk = Desk()
    desk.broken["lora"] = problem
    with pytest.raises(type(problem)):
        desk.weigh("lora", "full", limit="1000s")
