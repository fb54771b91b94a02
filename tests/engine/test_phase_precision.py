"""A phase computes in the lower precision only where that is measurably faster, and what it chose holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unfreeze.engine import devices, shelf
from unfreeze.engine import phase_precision as module
from unfreeze.engine.checkpoints import Checkpoints
from unfreeze.engine.devices import precisions
from unfreeze.engine.phase_precision import choose_precision
from unfreeze.engine.trainable import select
from unfreeze.errors import StoppedError
from unfreeze.plan import Phase

BOTH = ("fp32", "bf16")


@pytest.fixture
def brief(monkeypatch):
    """Phases of a few steps measure too."""
    monkeypatch.setattr(module, "FEW_STEPS", 0)


@pytest.fixture
def timed(monkeypatch):
    """Steps that seem to take these seconds."""

    def give(**seconds):
        monkeypatch.setattr(module, "_time_step", lambda *given: seconds[given[-1].precision])

    return give


def choosing(t, backbone, task, *, prefix=None, steps=100):
    """The choice for a phase that trains from stage 2 on, norm statistics too, ready to be made."""
    phase, head = t.plan_of(backbone, freeze=2, phase={"norm": "train"}).phases[0], t.head_of(backbone)
    select(backbone, head, phase)
    made = t.maker(backbone, task).make(phase, 2, rounds=1) if prefix is None else prefix
    return lambda: choose_precision(
        backbone, head, task=task, prefix=made, phase=phase, rows=np.arange(8), steps=steps
    )


def choose(t, backbone, task, *, prefix=None, steps=100):
    return choosing(t, backbone, task, prefix=prefix, steps=steps)()


@pytest.mark.parametrize(
    ("device", "wanted", "native", "found"),
    [
        ("cpu", "auto", True, BOTH),
        ("cpu", "auto", False, ("fp32",)),
        ("cuda", "auto", True, BOTH),
        ("cuda", "auto", False, ("fp32", "fp16")),
        ("mps", "auto", True, ("fp32",)),
        ("cpu", "fp32", True, ("fp32",)),
        ("cuda", "fp32", True, ("fp32",)),
        ("cpu", "bf16", True, ("bf16",)),
        ("cuda", "bf16", False, ("bf16",)),
        ("cuda", "fp16", True, ("fp16",)),
    ],
)
def test_the_candidates_follow_the_wish_and_the_device(monkeypatch, device, wanted, native, found):
    monkeypatch.setattr(devices, "has_bf16", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert precisions(torch.device(device), wanted) == found


@pytest.mark.parametrize(("low", "taken"), [(0.9, "bf16"), (0.91, "fp32"), (1.5, "fp32")])
def test_the_lower_precision_must_be_a_tenth_faster(t, timed, low, taken):
    timed(fp32=1.0, bf16=low)
    choice = choose(t, t.toy("cnn"), t.task_of("cnn", precisions=BOTH))
    assert choice.precision == taken
    assert f"computes in {taken}" in choice.reason
    assert "1000.0 ms" in choice.reason
    assert f"{low * 1e3:.1f} ms" in choice.reason


def test_the_best_of_three_steps_counts_after_one_to_warm_up(t, monkeypatch):
    seconds = {"fp32": iter([0.001, 0.05, 0.01, 0.03]), "bf16": iter([0.0, 0.09, 0.02, 0.008])}
    monkeypatch.setattr(module, "_time_step", lambda *given: next(seconds[given[-1].precision]))
    choice = choose(t, t.toy("cnn"), t.task_of("cnn", precisions=BOTH))
    assert choice.reason == (
        "Phase only computes in bf16: a step takes 8.0 ms, 10.0 ms in fp32; its 100 steps are to take 0.80 s."
    )


def test_long_steps_are_measured_once_after_one_to_warm_up(t, monkeypatch):
    seconds = {"fp32": [9.0, 5.0], "bf16": [8.0, 4.0]}
    left = {precision: iter(times) for precision, times in seconds.items()}
    monkeypatch.setattr(module, "_time_step", lambda *given: next(left[given[-1].precision]))
    choice = choose(t, t.toy("cnn"), t.task_of("cnn", precisions=BOTH))
    assert choice.reason == (
        "Phase only computes in bf16: a step takes 4000.0 ms, 5000.0 ms in fp32; its 100 steps are to take 6 min 40 s."
    )
    assert module.choosing_seconds(5.0, 4.0) == 18.0
    assert module.choosing_seconds(0.5, 0.4) == pytest.approx(3.6)


@pytest.mark.parametrize(
    ("high", "low", "measured"),
    [(0.2, 0.14, 1), (0.2, 0.16, 3), (0.2, 0.19, 3), (0.2, 0.21, 1), (0.1, 0.05, 3), (0.05, 0.09, 3)],
)
def test_what_is_clear_after_one_step_is_not_measured_again(t, timed, monkeypatch, high, low, measured):
    timed(fp32=high, bf16=low)
    counted, time_step = [], module._time_step
    monkeypatch.setattr(module, "_time_step", lambda *given: counted.append(1) or time_step(*given))
    choose(t, t.toy("cnn"), t.task_of("cnn", precisions=BOTH))
    assert len(counted) == 2 * (1 + measured)
    assert module.choosing_seconds(high, low) == pytest.approx((high + low) * (1 + measured))


def test_of_a_part_of_a_batch_nothing_is_predicted(t, monkeypatch):
    sizes = []

    def step(backbone, head, task, prefix, rows, suffix):
        sizes.append(len(rows))
        if len(rows) > 4:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(module, "_time_step", step)
    choice = choose(t, t.toy("cnn"), t.task_of("cnn", precisions=BOTH))
    assert sizes[0] == 8
    assert set(sizes[1:]) == {4}
    assert choice.step_seconds is None
    assert "are to take" not in choice.reason


@pytest.mark.parametrize(("steps", "taken"), [(1, "fp32"), (15, "fp32"), (16, "bf16"), (0, "bf16")])
def test_for_a_few_steps_nothing_is_measured(t, timed, steps, taken):
    timed(fp32=1.0, bf16=0.5)
    choice = choose(t, t.toy("cnn"), t.task_of("cnn", precisions=BOTH), steps=steps)
    assert choice.precision == taken
    assert ("of so few steps none is measured" in choice.reason) == (taken == "fp32")
    assert ("are to take" in choice.reason) == (steps == 16)


@pytest.mark.parametrize("only", BOTH)
def test_one_candidate_is_not_measured(t, monkeypatch, only):
    monkeypatch.setattr(module, "_time_step", lambda *_: pytest.fail("measured"))
    choice = choose(t, t.toy("cnn"), t.task_of("cnn", precisions=(only,)))
    assert (choice.precision, choice.reason) == (only, "")


def test_a_head_on_stored_features_has_nothing_to_choose(t, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_time_step", lambda *_: pytest.fail("measured"))
    backbone, task = t.toy("cnn"), t.task_of("cnn", precisions=BOTH)
    phase = Phase(name="head", epochs=1)
    stored = t.maker(backbone, task, tmp_path, use="on").make(phase, 4, rounds=1)
    choice = choose(t, backbone, task, prefix=stored)
    assert choice.precision == "fp32"
    assert choice.reason.endswith("computes in fp32: it runs the head alone.")
    stored.close()


def test_measuring_changes_neither_weights_nor_statistics_nor_chance(t, kind):
    backbone, seen = t.toy(kind), []
    make = choosing(t, backbone, t.task_of(kind, precisions=BOTH))
    before, chance = t.tensors_of(backbone), torch.get_rng_state()
    dropout = backbone.module.block2.dropout
    handle = dropout.register_forward_hook(lambda *_: seen.append(dropout.training))
    choice = make()
    handle.remove()
    assert choice.reason.count(" ms") == 2
    # Once to warm up and three times to measure, in each precision, with dropout at work.
    assert len(seen) == 8 * (1 if kind == "cnn" else 2)
    assert all(seen)
    assert t.same(before, t.tensors_of(backbone))
    assert torch.equal(chance, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in backbone.module.parameters())
    assert not any(part.training for part in backbone.module.modules())


def test_measuring_takes_fewer_rows_when_memory_runs_out(t, monkeypatch):
    backbone, sizes = t.toy("cnn"), []
    run = backbone.run

    def scarce(state, start=0, stop=None, most=3):
        if start == 2:
            sizes.append(len(state.h))
            if len(state.h) > most:
                raise torch.OutOfMemoryError
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", scarce)
    task = t.task_of("cnn", precisions=BOTH)
    assert " ms" in choose(t, backbone, task).reason
    assert sizes == [8, 4, *[2] * 8]
    monkeypatch.setattr(backbone, "run", lambda *given: scarce(*given, most=0))
    choice = choose(t, backbone, task)
    assert choice.precision == "bf16"
    assert "no measurement" in choice.reason


def test_measuring_takes_no_fewer_rows_where_a_store_can_make_room(t, monkeypatch, tmp_path):
    monkeypatch.setattr(shelf, "has_room", lambda *_: True)
    backbone, task, sizes = t.toy("cnn"), t.task_of("cnn", precisions=BOTH), []
    prefix = t.maker(backbone, task, tmp_path, use="on").make(Phase(name="only", epochs=1), 2, rounds=1)
    run, make_room = backbone.run, prefix.give_room

    def scarce(state, start=0, stop=None):
        sizes.append(len(state.h))
        if "gone" not in sizes:
            raise torch.OutOfMemoryError
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", scarce)
    monkeypatch.setattr(prefix, "give_room", lambda: make_room() and not sizes.append("gone"))
    choice = choose(t, backbone, task, prefix=prefix)
    assert sizes == [8, "gone", *[8] * 8]
    assert choice.step_seconds is not None
    prefix.close()


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("taken", BOTH)
def test_the_choice_reaches_training_and_validation_and_the_frozen_part_keeps_its_executor(
    t, kind, timed, monkeypatch, taken
):
    timed(fp32=1.0, bf16=0.5 if taken == "bf16" else 2.0)
    backbone, task = t.toy(kind), t.task_of(kind, precisions=BOTH)
    run, seen = backbone.run, set()

    def note(state, start=0, stop=None):
        where = ("frozen" if start == 0 else "trained", torch.is_grad_enabled())
        # What measures drift goes stage by stage.
        seen.add(
            ("drift" if stop == start + 1 else where, torch.is_autocast_enabled("cpu"))
            if stop
            else (where, torch.is_autocast_enabled("cpu"))
        )
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", note)
    telling = t.Telling()
    plan = t.plan_of(backbone, freeze=2, interpolate=True)
    result, head = t.run(plan, backbone, task, progress=telling)
    low = taken == "bf16"
    lowest = {(("frozen", False), False), (("trained", True), low), (("trained", False), low)}
    assert seen == lowest | {("drift", False)}
    assert result.ledger[0].precision == taken
    assert sum("computes in" in sentence for sentence in telling.told) == 1
    # What was chosen trains to the bits of what was asked for.
    given = t.toy(kind)
    _, other = t.run(plan, given, replace(task, precisions=(taken,)))
    assert t.same(t.tensors_of(backbone, head), t.tensors_of(given, other))


def test_the_two_precisions_are_not_the_same(t):
    found = []
    for precision in BOTH:
        backbone = t.toy("vit")
        t.run(t.plan_of(backbone, freeze=2), backbone, t.task_of("vit", precisions=(precision,)))
        found.append(t.tensors_of(backbone))
    assert not t.same(*found)


@pytest.mark.usefixtures("brief")
def test_a_phase_that_is_gone_on_with_does_not_choose_again(t, tmp_path, timed, monkeypatch):
    def train(folder, *, stop_after=None, resume=False):
        backbone, steps = t.toy("vit"), iter(range(1, 100))
        result, head = t.run(
            t.plan_of(backbone, freeze=2),
            backbone,
            t.task_of("vit", precisions=BOTH),
            checkpoints=Checkpoints(folder, {"data": "d"}),
            resume=resume,
            should_stop=lambda: next(steps) == stop_after,
        )
        records = result.ledger
        tensors = t.tensors_of(backbone, head)
        taken, predicted = zip(*((record.precision, record.epoch_seconds) for record in records), strict=True)
        return tensors, taken, predicted, result.decided

    timed(fp32=1.0, bf16=0.5)
    whole = train(tmp_path / "whole")
    assert whole[2] == (2.5,)
    with pytest.raises(StoppedError):
        train(tmp_path / "cut", stop_after=3)
    monkeypatch.setattr(module, "_time_step", lambda *_: pytest.fail("measured again"))
    tensors, taken, predicted, decided = train(tmp_path / "cut", resume=True)
    assert taken == whole[1] == ("bf16",)
    assert predicted == whole[2]
    # Why, too: what was measured then, and not that it was so before.
    (one,) = decided.values()
    assert "computes in bf16: a step takes 500.0 ms, 1000.0 ms in fp32" in one.precision
    assert decided == whole[3]
    assert t.same(tensors, whole[0])


@pytest.mark.usefixtures("brief")
def test_every_phase_chooses_for_itself(t, monkeypatch):
    def step(backbone, head, task, prefix, rows, suffix):
        return {"fp32": 1.0, "bf16": 0.5 if prefix.boundary == 1 else 2.0}[suffix.precision]

    monkeypatch.setattr(module, "_time_step", step)
    backbone = t.toy("vit")
    first = t.plan_of(backbone, freeze=1, epochs=1)
    second = replace(t.plan_of(backbone, freeze=3, epochs=1).phases[0], name="second")
    result, _ = t.run(
        replace(first, phases=(*first.phases, second)), backbone, t.task_of("vit", precisions=BOTH)
    )
    assert [record.precision for record in result.ledger] == ["bf16", "fp32"]


def test_what_the_store_expects_of_the_trained_part_is_its_faster_precision(t, tmp_path, monkeypatch):
    from unfreeze.engine import storing

    backbone, task = t.toy("cnn"), t.task_of("cnn", precisions=BOTH)
    tried = []

    def take(self, suffix, state, rows, parameters):
        tried.append(suffix.precision)
        return {"fp32": 6.0, "bf16": 2.4}[suffix.precision]

    monkeypatch.setattr(storing.StoringMaker, "_try_suffix", take)
    maker = t.maker(backbone, task, tmp_path, use="on")
    assert maker.measure(maker.build((1,)), 1, rounds=1, views=1).trained == pytest.approx(2.4 / 8 / 3)
    assert sorted(tried) == ["bf16", "bf16", "fp32", "fp32"]
