"""``--strategy auto`` through the whole program, with prices that are laid down instead of measured."""

import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import unfreeze
from unfreeze.choose.candidates import Candidate
from unfreeze.choose.cost import Cost, PhaseCost
from unfreeze.choose.trials import Expectation, Search, Trial
from unfreeze.config import TrainRequest
from unfreeze.errors import DivergedError, RequestError, StoppedError
from unfreeze.plan import Phase, Plan, Thaw
from unfreeze.training import choosing

SETTINGS = {
    "image_size": 64,
    "epochs": 4,
    "views": 1,
    "augment": "none",
    "batch_size": 8,
    "precision": "fp32",
    "device": "cpu",
}
PARTIAL = Candidate(strategy="partial", hope=9.0, reason="as the test wants it")


@pytest.fixture
def settings(tiny_cnn):
    return SETTINGS | {"backbone": tiny_cnn}


@pytest.fixture
def pretrained():
    """For trials that must end above the floor, which those of random weights do not."""
    return SETTINGS | {"backbone": "efficientnet-lite0"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Folders of two classes, a quarter of the pictures in the wrong one: no probe is without errors."""
    root = tmp_path_factory.mktemp("data") / "cells"
    random = np.random.default_rng(0)
    for number in range(40):
        shown = number % 2
        folder = root / ("dark", "light")[shown if number % 8 < 6 else 1 - shown]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(random.normal(90 + 80 * shown, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return root


class Priced:
    """A second an epoch."""

    def __init__(self, material):
        pass

    def predict(self, plan):
        phases = tuple(
            PhaseCost(
                name=phase.name,
                boundary=0,
                rows=1,
                epochs=phase.epochs,
                stored=False,
                epoch_seconds=1.0,
                plain_epoch_seconds=1.0,
                filling_seconds=0.0,
                once_seconds=0.0,
                store_bytes=0,
                memory_bytes=0,
                reason="",
            )
            for phase in plan.phases
        )
        return Cost(strategy=plan.strategy, phases=phases, around={}, memory_bytes=10**9)


@pytest.fixture
def auto(monkeypatch, plain_torch):
    monkeypatch.setattr("unfreeze.training.learning.CostModel", Priced)
    return monkeypatch


@pytest.fixture
def taken(wanted):
    """The candidate is taken without a trial."""
    expected = Expectation(candidate=PARTIAL, gain=0.1, error=0.1, seconds=4.0, price=0.0, full_length=False)
    found = Search(expectations=(expected,), chosen=expected, decisions=["It is taken."])
    wanted.setattr("unfreeze.training.choosing.search", lambda *_, **__: found)
    return wanted


@pytest.fixture
def wanted(auto):
    """One candidate, of which so much is hoped that it is taken whatever its trials say."""
    auto.setattr("unfreeze.training.choosing.list_candidates", lambda *_, **__: (PARTIAL,))
    # Trials take real seconds, of which a busy machine needs more than the laid down price allows.
    auto.setattr("unfreeze.choose.trials.TRIALS_PER_TRAINING", 1e6)
    return auto


def choice_of(folder):
    return json.loads((folder / "choice.json").read_text())


def origin_of(run, name):
    return next(entry for entry in run.report.settings if entry.name == name)


def test_what_is_taken_was_tried_on_both_halves_and_is_told_with_its_evidence(
    wanted, cells, tmp_path, pretrained
):
    wanted.setattr(
        "unfreeze.training.chosen.judge",
        lambda *_, **__: SimpleNamespace(ship=True, gain=0.1, reason="Good."),
    )
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **pretrained)
    choice = choice_of(run.folder)
    assert run.strategy == choice["shipped"] == "partial"
    trials = choice["trials"]
    assert [(trial["fold"], trial["share_of_epochs"]) for trial in trials] == [(0, 1.0), (1, 1.0)]
    rows = 40 - len(run.test_names)
    assert sum(trial["rows"] for trial in trials) == choice["floor"]["rows"] == rows
    assert all(len(trial["training_loss"]) == 4 for trial in trials)
    setting = origin_of(run, "strategy")
    assert (setting.value, setting.origin, setting.reason) == ("partial", "trial", "Good.")
    assert "auto" not in [entry.value for entry in run.report.settings]
    titles = [section.title for section in run.report.sections]
    assert titles == ["How the strategy was chosen", "How it was thawed", "The ledger", "What it took"]
    assert [baseline.kind for baseline in run.report.baselines][-1] == "probe"
    page = (run.folder / "report.html").read_text()
    assert "partial" in page
    assert "half of them" in page


def test_a_model_that_does_not_beat_the_probe_is_not_shipped(wanted, cells, tmp_path, pretrained):
    wanted.setattr(
        "unfreeze.training.chosen.judge",
        lambda *_, **__: SimpleNamespace(ship=False, gain=-0.1, reason="Worse."),
    )
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **pretrained)
    probed = unfreeze.train(
        str(cells),
        output_dir=tmp_path / "probe",
        **{**pretrained, "epochs": None, "views": None, "augment": None},
        strategy="feature-extraction",
    )
    assert run.strategy == "feature-extraction"
    assert run.test == probed.test
    assert not (run.folder / "ledger.json").exists()
    assert choice_of(run.folder)["chosen"] == "partial"
    assert run.model().labels == probed.model().labels
    # What it took beside what was predicted is told of a training that was not shipped, too.
    assert [section.title for section in run.report.sections] == [
        "How the strategy was chosen",
        "What it took",
    ]


def test_a_collapse_starts_again_at_a_third_of_the_rate(taken, cells, tmp_path, settings):
    fallen = iter([True, True, False, False, False, False])
    taken.setattr("unfreeze.training.chosen.CollapseWatch.fallen", lambda *_: next(fallen))
    taken.setattr(
        "unfreeze.training.chosen.judge",
        lambda *_, **__: SimpleNamespace(ship=True, gain=0.1, reason="Good."),
    )
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **settings, lr=9e-6)
    assert choice_of(run.folder)["restarts_at_lower_rates"] == 2
    (record,) = json.loads((run.folder / "ledger.json").read_text())
    assert record["groups"][0]["rate"] == pytest.approx(1e-6)
    assert sum("the rate is too high" in sentence for sentence in choice_of(run.folder)["decisions"]) == 2


def test_a_loss_that_is_no_number_starts_again_at_a_third_of_the_rate(taken, cells, tmp_path, settings):
    from unfreeze.training.thawing import thaw

    broken = iter([True, False])

    def thawed(*arguments, **settings):
        if next(broken):
            raise DivergedError("The loss is not finite")
        return thaw(*arguments, **settings)

    taken.setattr("unfreeze.training.chosen.thaw", thawed)
    taken.setattr(
        "unfreeze.training.chosen.judge",
        lambda *_, **__: SimpleNamespace(ship=True, gain=0.1, reason="Good."),
    )
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **settings, lr=9e-6)
    assert choice_of(run.folder)["restarts_at_lower_rates"] == 1
    (record,) = json.loads((run.folder / "ledger.json").read_text())
    assert record["groups"][0]["rate"] == pytest.approx(3e-6)
    told = choice_of(run.folder)["decisions"][-2:]
    assert told == [
        "The loss is not finite.",
        "It starts again at a third of its rates, for 4 epochs: what was hoped and what its trials found does "
        "not count any more.",
    ]


def test_what_starts_again_is_judged_by_its_own_rows_and_for_its_own_price(taken, cells, tmp_path, settings):
    seen = []

    def judge(expected, right, floor_right, **_):
        seen.append(expected)
        return SimpleNamespace(ship=True, gain=0.1, reason="Good.")

    tried = Expectation(
        candidate=PARTIAL,
        gain=0.1,
        error=0.1,
        seconds=8.0,
        price=0.004,
        full_length=True,
        found=0.2,
        found_error=0.01,
        hoped=0.3,
        hoped_error=0.1,
    )
    found = Search(expectations=(tried,), chosen=tried, decisions=["It is taken."])
    taken.setattr("unfreeze.training.choosing.search", lambda *_, **__: found)
    taken.setattr("unfreeze.training.chosen.judge", judge)
    for name, tells, fallen in (
        ("few", False, [False] * 4),
        ("many", True, [False] * 4),
        ("fallen", False, [True, *[False] * 4]),
    ):
        answers = iter(fallen)
        taken.setattr("unfreeze.training.chosen.CollapseWatch.fallen", lambda *_, a=answers: next(a))
        taken.setattr("unfreeze.training.chosen.tells_apart", lambda *_, told=tells: told)
        unfreeze.train(str(cells), output_dir=tmp_path / name, **settings)
    # What was hoped counts where the rows are too few to tell.
    assert [(one.found, one.price, one.hoped) for one in seen] == [
        (0.2, 0.004, 0.3),
        (0.2, 0.004, None),
        (None, pytest.approx(0.002), None),
    ]


def test_a_run_that_is_killed_when_it_starts_again_can_be_resumed(taken, cells, tmp_path, settings):
    from unfreeze.training.thawing import thaw

    thawed = []

    def killed(*arguments, **settings):
        thawed.append(settings["resume"])
        if len(thawed) == 2:
            raise KeyboardInterrupt
        return thaw(*arguments, **settings)

    fallen = iter([True, *[False] * 4])
    taken.setattr("unfreeze.training.chosen.CollapseWatch.fallen", lambda *_: next(fallen))
    taken.setattr("unfreeze.training.chosen.thaw", killed)
    with pytest.raises(StoppedError):
        unfreeze.train(str(cells), output_dir=tmp_path / "run", **settings)
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", resume=True, **settings)
    assert thawed == [False, False, True]
    assert choice_of(run.folder)["restarts_at_lower_rates"] == 1


def test_a_row_that_was_trained_on_a_copy_of_judges_nothing(taken, cells, tmp_path, settings):
    counted = []

    def judge(expected, right, floor_right, **_):
        counted.append(len(right))
        return SimpleNamespace(ship=True, gain=0.1, reason="Good.")

    taken.setattr("unfreeze.training.chosen.judge", judge)
    for name in ("distinct", "copied"):
        run = unfreeze.train(str(cells), output_dir=tmp_path / name, **settings)
        validated = json.loads((run.folder / "metrics.json").read_text())["validation"]["n"]
        for folder in cells.iterdir():
            # The same picture by another name may be drawn into another part.
            for number, path in enumerate(sorted(folder.glob("[0-9]*.png"))):
                (tmp_path / "copied-cells" / folder.name).mkdir(parents=True, exist_ok=True)
                for copy in range(2):
                    target = tmp_path / "copied-cells" / folder.name / f"{number}-{copy}.png"
                    target.write_bytes(path.read_bytes())
        cells = tmp_path / "copied-cells"
        counted.append(validated)
    assert counted[0] == counted[1]
    assert 0 < counted[2] < counted[3]


def test_a_training_that_always_collapses_ships_the_probe(taken, cells, tmp_path, settings):
    taken.setattr("unfreeze.training.chosen.CollapseWatch.fallen", lambda *_: True)
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **settings)
    assert run.strategy == "feature-extraction"
    assert "at lower rates too" in choice_of(run.folder)["verdict"]["reason"]


def test_what_starts_again_takes_the_epochs_that_the_time_is_enough_for(taken, cells, tmp_path, settings):
    from unfreeze.training.chosen import train_chosen

    plans, clock = [], iter([597.0, 640.0])

    def thawed(folder, material, plan, **settings):
        plans.append(plan)
        raise DivergedError("The loss is not finite")

    def hurried(*arguments, predict, elapsed):
        return train_chosen(*arguments, predict=predict, elapsed=lambda: next(clock))

    taken.setattr("unfreeze.training.chosen.thaw", thawed)
    taken.setattr("unfreeze.training.learning.train_chosen", hurried)
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **settings)
    # A second an epoch, and three are left of ten minutes.
    assert [plan.epochs for plan in plans] == [4, 3]
    assert run.strategy == "feature-extraction"
    choice = choice_of(run.folder)
    assert choice["epochs_by_phase"] == [3]
    assert choice["verdict"]["reason"].endswith(
        "0 s of --time-limit are left, into which fewer than 3 epochs fit: the probe is shipped."
    )


def test_without_time_the_probe_is_shipped_and_it_says_so(auto, cells, tmp_path, settings):
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", time_limit="1s", **settings)
    choice = choice_of(run.folder)
    assert run.strategy == "feature-extraction"
    assert choice["trials"] == []
    assert any("epochs would fit" in sentence for sentence in choice["decisions"])
    assert choice["decisions"][-1] == (
        "No candidate is left to try, for the reason given with each: the probe is taken."
    )
    assert origin_of(run, "strategy").reason == choice["decisions"][-1]


def test_epochs_are_cut_to_the_time_there_is(wanted, cells, tmp_path, settings):
    seen = []

    def search(candidates, run, **settings):
        seen.append(run.plans["partial"].epochs)
        return SimpleNamespace(chosen=None, trials=[], expectations=(), decisions=["Enough."])

    wanted.setattr("unfreeze.training.choosing.search", search)
    unfreeze.train(str(cells), output_dir=tmp_path / "run", time_limit="60s", **settings | {"epochs": 100})
    assert 3 <= seen[0] <= 30


def test_a_run_that_is_stopped_goes_on_with_what_was_chosen(wanted, cells, tmp_path, stopping, pretrained):
    wanted.setattr(
        "unfreeze.training.chosen.judge",
        lambda *_, **__: SimpleNamespace(ship=True, gain=0.1, reason="Good."),
    )
    with stopping(3):
        unfreeze.train(str(cells), output_dir=tmp_path / "run", **pretrained)
    before = choice_of(tmp_path / "run")

    def never(*_, **__):
        raise AssertionError("it was tried again")

    wanted.setattr("unfreeze.training.choosing.search", never)
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", resume=True, **pretrained)
    assert run.strategy == "partial"
    assert choice_of(run.folder)["trials"] == before["trials"]


def test_a_stopped_run_says_that_another_time_limit_comes_too_late(
    wanted, cells, tmp_path, stopping, pretrained
):
    with stopping(3):
        unfreeze.train(str(cells), output_dir=tmp_path / "run", time_limit="5m", **pretrained)
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", time_limit="2h", resume=True, **pretrained)
    setting = origin_of(run, "time_limit")
    assert setting.value == "2h"
    assert setting.reason.startswith("trials and epochs are those of 5 min")


@pytest.fixture(params=[2])
def stopped_in_trials(request, wanted, cells, tmp_path, pretrained):
    """A run that was stopped in one of its trials: the halves that are tried from then on, and what goes on with it."""
    from unfreeze.training.trying import Trier

    ran, run = [], Trier._run

    def counted(self, candidate, fold, share):
        ran.append(fold)
        if len(ran) == request.param:
            raise StoppedError("Stopped as asked, without a checkpoint.")
        return run(self, candidate, fold, share)

    def resumed(**changes):
        settings = pretrained | {"time_limit": "5m", "resume": True} | changes
        return unfreeze.train(str(cells), output_dir=tmp_path / "run", **settings)

    wanted.setattr(Trier, "_run", counted)
    with pytest.raises(StoppedError, match=r"that were finished are kept\. Continue with --resume"):
        resumed(resume=None)
    ran[:] = ["before"] * request.param
    return ran, resumed


def test_a_run_that_is_stopped_among_its_trials_goes_on_with_those_that_are_finished(
    wanted, cells, tmp_path, pretrained, stopped_in_trials
):
    ran, resumed = stopped_in_trials
    whole = choice_of(unfreeze.train(str(cells), output_dir=tmp_path / "whole", **pretrained).folder)
    wanted.setattr("unfreeze.training.choosing._begin", None)
    ran[2:] = []
    run = resumed(time_limit="2h")
    assert ran[2:] == [1]
    choice = choice_of(run.folder)
    told = [{name: value for name, value in trial.items() if name != "seconds"} for trial in choice["trials"]]
    assert told == [
        {name: value for name, value in trial.items() if name != "seconds"} for trial in whole["trials"]
    ]
    assert choice["expectations"] == whole["expectations"]
    assert choice["time_limit_seconds"] == 300
    assert origin_of(run, "time_limit").reason.startswith("trials and epochs are those of 5 min")
    assert not (run.folder / "checkpoints").exists()


@pytest.mark.parametrize("last", [1, 2])
def test_a_run_that_is_asked_to_stop_while_a_trial_is_scored_stops(wanted, cells, tmp_path, pretrained, last):
    from unfreeze.training.trying import Trier

    ran, run = [], Trier._run

    def asked(self, candidate, fold, share):
        trial = run(self, candidate, fold, share)
        ran.append(fold)
        if len(ran) == last:
            signal.raise_signal(signal.SIGINT)
        return trial

    settings = pretrained | {"output_dir": tmp_path / "run", "time_limit": "5m"}
    wanted.setattr(Trier, "_run", asked)
    with pytest.raises(StoppedError, match="that were finished are kept"):
        unfreeze.train(str(cells), **settings)
    assert ran == [0, 1][:last]
    unfreeze.train(str(cells), **settings, resume=True)
    assert ran == [0, 1]


@pytest.mark.parametrize("stopped_in_trials", [1], indirect=True)
def test_a_run_that_is_stopped_in_its_first_trial_can_be_resumed(stopped_in_trials, wanted):
    ran, resumed = stopped_in_trials
    wanted.setattr("unfreeze.training.choosing._begin", None)
    resumed()
    assert ran[1:] == [0, 1]


def test_a_trial_that_failed_is_tried_again_and_counts_for_none_that_it_was_better_than(
    wanted, cells, tmp_path, pretrained
):
    from unfreeze.training.chosen import _tried
    from unfreeze.training.trial_record import read_trials
    from unfreeze.training.trying import Trier

    run = Trier._run

    def failing(self, candidate, fold, share):
        made = run(self, candidate, fold, share)
        kept.append(len(read_trials(tmp_path / "run" / "checkpoints" / "trials.json").trials))
        return replace(made, failed="Memory ran out.") if fold == 0 else made

    kept = []
    wanted.setattr(Trier, "_run", failing)
    found = unfreeze.train(str(cells), output_dir=tmp_path / "run", **pretrained)
    choice = choice_of(found.folder)
    assert [trial["failed"] for trial in choice["trials"]] == ["Memory ran out."]
    assert kept == [0]
    good = {"candidate": "full", "share_of_epochs": 1.0, "failed": None}
    trials = [
        good,
        good | {"candidate": "lora", "failed": "x"},
        good | {"candidate": "a", "share_of_epochs": 0.25},
    ]
    # Short trials of others have picked it.
    assert _tried({"trials": trials}) == 2
    assert _tried({"trials": [*trials, good | {"candidate": "partial"}]}) == 3


def test_trials_of_other_settings_are_not_taken_up(stopped_in_trials):
    _, resumed = stopped_in_trials
    with pytest.raises(RequestError, match=r"this was tried with another --epochs .4, now 5."):
        resumed(epochs=5)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["trials"][0].update(right="012"),
        lambda record: record["trials"][0].update(seconds=-1),
        lambda record: record["candidates"][0].update(epochs=[100]),
        lambda record: record["candidates"][0].update(name="another"),
        lambda record: record.pop("left"),
        lambda record: record["trials"][0].update(right="01"),
    ],
    ids=["no answers", "negative time", "more epochs", "no candidate", "not whole", "other rows"],
)
def test_trials_that_cannot_have_been_made_here_are_made_anew(stopped_in_trials, tmp_path, change):
    ran, resumed = stopped_in_trials
    path = tmp_path / "run" / "checkpoints" / "trials.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    resumed()
    assert ran[2:] == [0, 1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"lr": 1e-4}, "another --lr .none, now 0.0001."), ({"epochs": 5}, "another --epochs .4, now 5.")],
    ids=str,
)
def test_a_stopped_run_is_not_taken_up_with_other_settings(
    wanted, cells, tmp_path, stopping, change, sentence, pretrained
):
    with stopping(3):
        unfreeze.train(str(cells), output_dir=tmp_path / "run", **pretrained)
    with pytest.raises(RequestError, match=f"this was chosen with {sentence}"):
        unfreeze.train(str(cells), output_dir=tmp_path / "run", resume=True, **pretrained | change)


RECORDS = {
    "nothing": "",
    "half of one": '{"floor": {"strat',
    "a list": "[1]",
    "nested beyond what is followed": "[" * 100_000,
    "no UTF-8": b"\xff\xfe{}",
    "no fields": "{}",
    "settings that are none": '{"settings": 3}',
}
# By the path to what is changed in a record that is whole: what may stand there instead.
CHANGES = {
    ("floor",): [None, [], {}],
    ("floor", "accuracy_out_of_fold"): ["0.9", float("nan"), 7.0, None],
    ("floor", "interval"): [[0.1], "ab", [0.1, float("inf")]],
    ("floor", "rows"): [-1, 1.5, 10**4000],
    ("settings",): [3, [], {"data": [2]}, {"data": "x" * 10_000}],
    ("candidates",): [None, [{}], [{"name": "partial", "epochs": "4", "predicted_seconds": 4.0}]],
    ("candidates", 0, "name"): ["full", None],
    ("candidates", 0, "strategy"): ["feature-extraction", "auto", "os.system", None],
    ("candidates", 0, "hope"): [-1, float("nan"), "all"],
    ("candidates", 0, "behind"): [-20, float("nan"), "all"],
    ("candidates", 0, "changes"): [
        None,
        {"epochs": 10**9},
        {"rate": -1.0},
        {"norm": "burn"},
        {"rank": 10**12},
    ],
    ("facts",): [None, [], {"rows": 34}, {"rows": {"value": float("inf"), "sentence": "Many."}}],
    ("trials",): [None, 5, [{"candidate": "partial"}]],
    ("expectations",): [[], None, [{}]],
    ("expectations", 0, "gain"): [float("nan"), 1e308, "0.1", None],
    ("expectations", 0, "error"): [-1.0, float("inf")],
    ("expectations", 0, "price"): [[], 50.0],
    ("expectations", 0, "candidate"): ["full", None],
    ("expectations", 0, "colour"): ["blue"],
    ("decisions",): [None, "all", [1]],
    ("chosen",): ["full", "x" * 100_000, 3, ["partial"]],
    ("epochs_by_phase",): [None, [], [0], [-3], [10**9], ["4"], [float("nan")], [4, 4], [True]],
    ("restarts_at_lower_rates",): [-1, 10**9, "1", float("inf"), float("nan"), None],
}


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The record of a run that was stopped after its choice, and what goes on with it."""
    plan = Plan(
        phases=(Phase(name="last", epochs=4, thaw=(Thaw(stage=1, what="weights", rate=1e-4),)),),
        strategy="partial",
    )
    request = TrainRequest(data="cells", epochs=4)
    material = SimpleNamespace(
        dataset=SimpleNamespace(labels=("dark", "light")),
        decisions=SimpleNamespace(request=request),
        backbone=None,
        part=lambda _: range(34),
    )
    monkeypatch.setattr(choosing, "plan_candidate", lambda *_: plan)
    settings = {"--seed": "0", "--epochs": "4"}
    monkeypatch.setattr(choosing, "identify_choice", lambda _: settings)
    rows = np.ones(5, dtype=bool)
    settled = {"candidate": PARTIAL, "fold": 0, "y": rows.astype(np.intp), "train": rows, "seconds": 1.0}
    trials = (
        Trial(**settled, share=1.0, right=rows, floor_right=~rows, losses=(0.5, 0.25)),
        # One that diverged.
        Trial(**settled, share=0.25, right=rows, floor_right=rows, losses=(float("nan"),), failed="It fell."),
    )
    expected = Expectation(
        candidate=PARTIAL, gain=0.1, error=0.1, seconds=4.0, price=0.0, full_length=True, found=0.2
    )
    record = {
        "floor": {
            "strategy": "feature-extraction",
            "accuracy_out_of_fold": 0.9,
            "interval": [0.8, 1],
            "rows": 34,
        },
        "facts": {"rows": {"value": 34, "sentence": "There are 34 images."}},
        "time_limit_seconds": 600.0,
        "settings": settings,
        "candidates": [PARTIAL.to_dict() | {"predicted_seconds": 4.0, "epochs": 4}],
        "trials": [trial.to_dict() for trial in trials],
        "expectations": [expected.to_dict()],
        "decisions": ["It is taken."],
        "chosen": "partial",
        "epochs_by_phase": [4],
    }
    choosing.write_choice(choosing.Choice(record, plan, expected).to_dict(), tmp_path)
    path = tmp_path / "choice.json"
    return path, lambda: choosing._choice_from(path, material)


@pytest.mark.timeout(60)
def test_a_choice_that_says_what_cannot_be_is_a_sentence(stopped):
    path, read = stopped
    whole = json.loads(path.read_text())
    assert read().plan.epochs == 4
    for name, content in RECORDS.items():
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        refused(read, name)
    for where, values in CHANGES.items():
        for value in values:
            record = json.loads(json.dumps(whole))
            holder = record
            for step in where[:-1]:
                holder = holder[step]
            holder[where[-1]] = value
            path.write_text(json.dumps(record))
            refused(read, (where, str(value)[:40]))
    for name in ("floor", "facts", "settings", "candidates", "trials", "expectations", "decisions", "chosen"):
        path.write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        refused(read, name)
    path.write_text(json.dumps(whole | {"settings": whole["settings"] | {"--epochs": "5"}}))
    with pytest.raises(RequestError, match=r"this was chosen with another --epochs \(5, now 4\)"):
        read()
    path.write_text(json.dumps(whole | {"chosen": None, "decisions": []}))
    refused(read, "no reason")
    path.unlink()
    os.mkfifo(path)
    refused(read, "a pipe")


def refused(read, what):
    said = "nothing"
    try:
        read()
    except RequestError as problem:
        said = str(problem)
    assert said.startswith("--resume: "), (what, said)
    assert "damaged or from another version" in said, what
    assert len(said) < 500, what


def test_a_later_version_may_have_added_to_a_choice(stopped):
    path, read = stopped
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"colour": "blue"}))
    assert read().plan.epochs == 4


def test_without_validation_rows_the_probe_is_taken_before_anything_is_tried(
    wanted, cells, tmp_path, settings
):
    pictures = sorted(cells.glob("*/*.png"))
    few = [str(path) for path in (*pictures[:3], *pictures[-3:])]
    labels = ["dark"] * 3 + ["light"] * 3
    run = unfreeze.train((few, labels), output_dir=tmp_path / "run", **settings)
    choice = choice_of(run.folder)
    assert run.strategy == "feature-extraction"
    assert choice["candidates"] == choice["trials"] == []
    assert choice["decisions"][0].startswith("There are no validation rows")


def test_candidates_are_not_measured_when_the_time_is_over(auto, cells, tmp_path, settings):
    from unfreeze.training.choosing import candidate_plans

    seen = []

    def slow(*arguments, **named):
        plans = candidate_plans(*arguments, **named)
        seen.extend(candidate.name for candidate in plans)
        return plans

    auto.setattr("unfreeze.training.choosing.candidate_plans", slow)
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", time_limit="0.01s", **settings)
    late = [one for one in choice_of(run.folder)["decisions"] if "is over before its cost is measured" in one]
    assert [sentence.partition(":")[0] for sentence in late] == seen[1:]


def test_where_nothing_is_hoped_for_no_cost_is_measured(auto, cells, tmp_path, pretrained):
    def measured(self, plan):
        raise AssertionError("a cost is measured")

    auto.setattr(Priced, "predict", measured)
    auto.setattr(
        "unfreeze.training.choosing.list_candidates",
        lambda *_, **__: (Candidate(strategy="partial", hope=0.0, reason="as the test wants it"),),
    )
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **pretrained)
    choice = choice_of(run.folder)
    assert run.strategy == choice["shipped"] == "feature-extraction"
    assert choice["trials"] == choice["candidates"] == []
    (decision,) = choice["decisions"]
    assert "0.00 points, which is not worth a trial. The probe is taken." in decision


def test_what_is_left_of_the_candidates_must_be_worth_a_trial_too(auto, cells, tmp_path, pretrained):
    """The one that was hoped for takes more time than there is."""
    ones = (
        Candidate(strategy="full", hope=9.0, reason="as the test wants it"),
        Candidate(strategy="partial", hope=1e-9, reason="as the test wants it"),
        Candidate(strategy="lora", hope=0.0, reason="as the test wants it"),
    )
    auto.setattr("unfreeze.training.choosing.list_candidates", lambda *_, **__: ones)
    auto.setattr(
        "unfreeze.training.weighing.fit_into", lambda plan, *_: None if plan.strategy == "full" else plan
    )
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **pretrained)
    choice = choice_of(run.folder)
    assert run.strategy == choice["shipped"] == "feature-extraction"
    assert choice["trials"] == []
    dropped, last = choice["decisions"]
    assert dropped.startswith("full:")
    assert "of no candidate that can be tried is more expected" in last
    assert "not worth a trial" in last


@pytest.mark.parametrize(("fewest", "tried"), [(1, 3), (1_000, 1)])
def test_where_few_answers_are_wrong_the_most_hopeful_candidate_alone_is_tried(
    auto, cells, tmp_path, settings, fewest, tried
):
    auto.setattr("unfreeze.choose.trials.FEWEST_ERRORS", fewest)
    auto.setattr("unfreeze.choose.candidates.NEAR_ROWS", 0)
    auto.setattr("unfreeze.training.choosing.hopeless", lambda *_: "")
    measured = []

    class Measuring(Priced):
        def predict(self, plan):
            measured.append(plan.strategy)
            return super().predict(plan)

    auto.setattr("unfreeze.training.learning.CostModel", Measuring)
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **settings)
    choice = choice_of(run.folder)
    names = [one["name"] for one in choice["candidates"]]
    assert len(names) >= tried
    if tried == 1:
        assert names == ["full"]
        assert set(measured) == {"full"}
        assert {trial["share_of_epochs"] for trial in choice["trials"]} <= {1.0}
        assert choice["decisions"][0].endswith(
            "too few to tell candidates from each other by: the most hopeful one is tried."
        )
    else:
        assert 0.25 in {trial["share_of_epochs"] for trial in choice["trials"]}


def test_candidates_that_come_to_the_same_training_are_tried_once(auto, cells, tmp_path, settings):
    from dataclasses import replace

    from unfreeze.training.planning import plan_candidate

    same = [Candidate(strategy=name, hope=9.0, reason="as the test wants it") for name in ("full", "partial")]
    auto.setattr("unfreeze.training.choosing.list_candidates", lambda *_, **__: same)
    plans = []

    def alike(candidate, *arguments):
        plan = plan_candidate(same[0], *arguments)
        phases = tuple(replace(phase, name=candidate.strategy) for phase in plan.phases)
        plans.append(replace(plan, strategy=candidate.strategy, phases=phases))
        return plans[-1]

    auto.setattr("unfreeze.training.choosing.plan_candidate", alike)
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", time_limit="1s", **settings)
    assert len(plans) == 2
    assert len(choice_of(run.folder)["decisions"]) == 2
    assert choice_of(run.folder)["decisions"][0].startswith("full:")


def test_what_memory_has_no_room_for_is_not_tried(auto, cells, tmp_path, settings):
    auto.setattr("unfreeze.training.weighing.free_memory", lambda device: 0)
    auto.setattr("unfreeze.training.weighing.resident_bytes", lambda device: 500_000_000)
    run = unfreeze.train(str(cells), output_dir=tmp_path / "run", **settings)
    choice = choice_of(run.folder)
    assert run.strategy == "feature-extraction"
    assert choice["trials"] == []
    assert choice["decisions"][0] == "full: it would take 1.0 GB of memory, and there are 500 MB."
