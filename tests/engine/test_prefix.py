"""A stored prefix gives what running it gives, and it is chosen by measured times."""

import errno
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unfreeze.contracts import State
from unfreeze.engine import activations, shelf, storing
from unfreeze.engine.activations import Activations, ActivationWriter, HalfOverflowError
from unfreeze.engine.estimate import Estimate, served_together
from unfreeze.engine.storing import StoringMaker
from unfreeze.errors import StoppedError
from unfreeze.plan import Phase, Plan, Thaw

PHASE = Phase(name="p", epochs=3)
# A float16 keeps 11 bits: each activation is off by at most 2^-11 of itself.
HALF_TOLERANCE = 5e-3


def pair(t, kind, folder, boundary, *, half, augment="none", token_dropout=0.0):
    backbone = t.toy(kind)
    task = t.task_of(kind, augment=augment, token_dropout=token_dropout)
    augmented = augment != "none" or token_dropout > 0
    plain = t.maker(backbone, task).make(PHASE, boundary, rounds=3)
    stored = t.maker(backbone, task, folder, use="on", half=half, augmented=augmented).make(
        PHASE, boundary, rounds=3
    )
    assert (plain.stored, stored.stored) == ((), (boundary,))
    return backbone, task, plain, stored


@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_stored_and_run_prefixes_give_the_same_features(t, kind, tmp_path, half, varied):
    options = {}
    if varied:
        options = {"token_dropout": 0.3} if kind == "text" else {"augment": "strong"}
    stages = len(t.toy(kind).stages)
    for boundary in (1, stages - 1, stages):
        backbone, _, plain, stored = pair(t, kind, tmp_path, boundary, half=half, **options)
        seen = []
        for round_ in (0, 2, 1):
            rows = np.array([7, 3, 30, 3, 11])
            first, second = plain.train_batch(rows, round_), stored.train_batch(rows, round_)
            with torch.no_grad():
                one, two = (backbone.run(state, boundary).h for state in (first, second))
            assert float((one - two).abs().max()) < (HALF_TOLERANCE if half else 1e-5)
            seen.append(two)
        assert torch.equal(seen[0], seen[1]) == (not varied)
        for first, second in zip(
            plain.val_batches(np.arange(24), 9), stored.val_batches(np.arange(24), 9), strict=True
        ):
            with torch.no_grad():
                gap = backbone.run(first, boundary).h - backbone.run(second, boundary).h
            assert float(gap.abs().max()) < (HALF_TOLERANCE if half else 1e-5)
        stored.close()
    assert not list(tmp_path.iterdir())


def test_views_come_round_again(t, tmp_path):
    _, _, _, stored = pair(t, "cnn", tmp_path, 1, half=False, augment="light")
    rows = np.arange(5)
    assert torch.equal(stored.train_batch(rows, 1).h, stored.train_batch(rows, 4).h)
    assert not torch.equal(stored.train_batch(rows, 1).h, stored.train_batch(rows, 2).h)


def test_a_store_over_the_budget_is_not_made_and_says_so(t, tmp_path):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    made = t.maker(backbone, task, tmp_path, use="on", budget=1000).make(PHASE, 1, rounds=3)
    assert not made.stored
    assert re.search(r"would take \d+ kB, more than --store-budget \(1 kB\)", made.reason)


def test_its_size_is_predicted_to_the_byte_for_pictures(t, tmp_path):
    backbone, task = t.toy("cnn"), t.task_of("cnn", augment="light")
    notes = []
    maker = t.maker(backbone, task, tmp_path, use="on", augmented=True, half=True, estimates=notes)
    made = maker.make(PHASE, 1, rounds=2)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written == notes[0].bytes == (38 * 2 + 24) * 4 * 8 * 8 * 2
    assert notes[0].views == 2
    made.close()


def test_the_choice_follows_the_measured_times(t, tmp_path, monkeypatch):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    for frozen, rounds, wanted in ((1.0, 3, True), (1.0, 1, False), (0.0, 3, False)):
        estimate = Estimate(frozen=frozen, trained=0.1, input=0.0, rows=38, rounds=rounds, views=1, bytes=1)
        monkeypatch.setattr(StoringMaker, "measure", lambda *_, found=estimate, **__: found)
        made = t.maker(backbone, task, tmp_path, use="auto").make(PHASE, 1, rounds=rounds)
        assert bool(made.stored) == wanted, made.reason
        made.close()


def test_the_predictions_are_those_of_the_formula():
    estimate = Estimate(frozen=2.0, trained=1.0, input=0.5, rows=10, rounds=4, views=2, bytes=1)
    assert estimate.stored_seconds == 10 * (2 * 2.5 + 4 * 3)
    assert estimate.plain_seconds == 10 * 4 * 5.5
    assert estimate.epoch_speedup == 5.5 / 3


def test_a_choice_that_was_made_is_not_made_again(t, tmp_path, monkeypatch):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    monkeypatch.setattr(StoringMaker, "measure", lambda *_, **__: pytest.fail("measured again"))
    maker = t.maker(backbone, task, tmp_path, use="auto")
    assert not maker.make(PHASE, 1, rounds=3, stored=()).stored
    made = maker.make(PHASE, 1, rounds=3, stored=(1,))
    assert made.stored
    made.close()


def test_measuring_leaves_no_trace_in_statistics_and_gradients(t, tmp_path):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    before = t.tensors_of(backbone)
    backbone.module.train()
    maker = t.maker(backbone, task, tmp_path, use="on")
    found = maker.measure(maker.build((1,)), 1, rounds=3, views=1)
    assert t.same(before, t.tensors_of(backbone))
    assert all(parameter.grad is None for parameter in backbone.module.parameters())
    assert found.trained > 0
    assert found.frozen > 0


def test_measuring_takes_fewer_rows_when_memory_runs_out(t, tmp_path, monkeypatch):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    maker = t.maker(backbone, task, tmp_path, use="on")
    executor = maker.build((1,))
    sizes, run = [], backbone.run

    def scarce(state, start=0, stop=None):
        if start == 1:
            sizes.append(len(state.h))
            if len(state.h) > 2:
                raise torch.OutOfMemoryError
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", scarce)
    assert maker.measure(executor, 1, rounds=3, views=1).trained > 0
    assert sizes == [8, 4, 2, 2]


def test_a_value_too_large_for_half_precision_is_not_stored(t, tmp_path):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    backbone.module.stem.norm.weight.data *= 1e7
    made = t.maker(backbone, task, tmp_path, use="on", half=True).make(PHASE, 1, rounds=3)
    assert not made.stored
    assert "half precision" in made.reason
    assert not list(tmp_path.iterdir())


def test_a_full_disk_means_running_the_prefix(t, tmp_path, monkeypatch):
    backbone, task = t.toy("cnn"), t.task_of("cnn")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ActivationWriter, "add", full)
    made = t.maker(backbone, task, tmp_path, use="on").make(PHASE, 1, rounds=3)
    assert not made.stored
    assert "No space left on device" in made.reason
    assert not list(tmp_path.iterdir())


def test_what_padding_holds_is_neither_stored_nor_judged(tmp_path):
    h = torch.ones(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    h[~mask] = 1e9
    with ActivationWriter(tmp_path / "a", rows=2, half=True) as writer:
        writer.add(np.array([1, 0]), State(h, mask))
    found = writer.mapped()
    assert found.values[0].shape == (5, 3)
    state = found.read(np.array([0, 1]), torch.device("cpu"))
    assert state.mask.sum(1).tolist() == [3, 2]
    assert state.h.sum(dim=(1, 2)).tolist() == [9.0, 6.0]
    h[0, 0, 0] = float("nan")
    with ActivationWriter(tmp_path / "b", rows=2, half=True) as writer, pytest.raises(HalfOverflowError):
        writer.add(np.array([1, 0]), State(h, mask))


def test_nothing_is_stored_below_the_first_stage(t):
    made = replace(t.maker(t.toy("cnn"), t.task_of("cnn")), use="on", folder=Path("unused"))
    assert not made.make(PHASE, 0, rounds=3).stored


def descending(stages, *, epochs=(2, 2, 3)):
    """A plan whose boundary moves toward the input: the head alone, the last stage that can be trained, two more."""
    tops = (stages, stages - 2, 1)
    phases = tuple(
        Phase(
            name=f"from {low}",
            epochs=count,
            thaw=tuple(Thaw(stage, "weights", 1e-2) for stage in range(low, stages - 1)),
        )
        for low, count in zip(tops, epochs, strict=True)
    )
    return Plan(strategy="own", phases=phases, batch_size=8)


@pytest.fixture
def fills(monkeypatch):
    """The views of each pass that fills a store, by boundary, and how many phases read them."""
    seen = []
    fill = storing.fill_shelf

    def note(root, executor, passed, **settings):
        assert set(passed) == set(settings["views"])
        seen.append((settings["views"], settings["readers"]))
        return fill(root, executor, passed, **settings)

    monkeypatch.setattr(storing, "fill_shelf", note)
    return seen


def test_one_pass_serves_the_phases_whose_boundary_moves_toward_the_input(t, kind, tmp_path, fills):
    varied = {"token_dropout": 0.3} if kind == "text" else {"augment": "light"}
    plan = descending(len(t.toy(kind).stages))
    trained = []
    for phases in (plan.phases, ()):
        backbone, task = t.toy(kind), t.task_of(kind, **varied)
        prefix = t.maker(backbone, task, tmp_path, use="on", augmented=True, phases=phases)
        result, head = t.run(plan, backbone, task, prefix=prefix)
        trained.append((t.tensors_of(backbone, head), [record.train_loss for record in result.history]))
        assert not list(tmp_path.iterdir())
    stages = len(backbone.stages)
    assert fills[0] == ({stages: 2, stages - 2: 2, 1: 3}, 3)
    assert fills[1:] == [({stages: 2}, 1), ({stages - 2: 2}, 1), ({1: 3}, 1)]
    assert t.same(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]


def test_a_pass_is_shared_only_while_nothing_below_is_trained():
    first, second, third = descending(4).phases
    assert served_together((first, second, third), 4) == 3
    assert served_together((second, second, third), 4) == 3
    assert served_together((second, first, third), 4) == 1
    whole = Phase(name="all", epochs=1, thaw=(Thaw(0, "weights", 1e-2),))
    assert served_together((first, whole, third), 4) == 1
    assert served_together((whole,), 4) == 1


def test_a_shared_store_over_the_budget_is_filled_for_one_phase_at_a_time(t, tmp_path, fills):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    plan = descending(4)
    whole = t.maker(backbone, task, tmp_path, use="on", phases=plan.phases)
    whole.make(plan.phases[0], 4, rounds=2)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    whole.close()
    assert not list(tmp_path.iterdir())
    fills.clear()
    tight = t.maker(backbone, task, tmp_path, use="on", phases=plan.phases, budget=size - 1)
    stored = []
    for phase in plan.phases:
        prefix = tight.make(phase, phase.boundary(4), rounds=phase.epochs)
        stored.append(prefix.stored)
        prefix.close()
    # All three together are too much; the last two are not.
    assert stored == [(4,), (1, 2), (1, 2)]
    assert [readers for _, readers in fills] == [1, 2]
    assert not list(tmp_path.iterdir())


def test_what_ends_a_training_leaves_no_store_for_the_phases_to_come(t, tmp_path):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    plan = descending(4)
    prefix = t.maker(backbone, task, tmp_path, use="on", phases=plan.phases)
    with pytest.raises(StoppedError):
        t.run(plan, backbone, task, prefix=prefix, should_stop=lambda: True)
    assert not list(tmp_path.iterdir())


def test_a_phase_whose_store_was_filled_before_expects_no_filling(t, tmp_path):
    backbone, task = t.toy("cnn"), t.task_of("cnn", augment="light")
    plan, notes = descending(4), []
    maker = t.maker(backbone, task, tmp_path, use="on", augmented=True, phases=plan.phases, estimates=notes)
    first = maker.make(plan.phases[0], 4, rounds=2)
    assert "one pass for the phases from 4, from 2, from 1" in first.reason
    second = maker.make(plan.phases[1], 2, rounds=2)
    assert "an earlier phase's pass" in second.reason
    assert [note.views for note in notes] == [3, 0]
    assert notes[1].trained > 0
    first.close()
    second.close()
    maker.close()


def test_what_one_of_two_writers_wrote_is_read_whatever_the_other_did(tmp_path):
    states = torch.randn(3, 2, 4, 4)
    with ActivationWriter(tmp_path / "a", rows=3, half=False) as first:
        first.add(np.array([2, 0, 1]), State(states))
    with ActivationWriter(tmp_path / "b", rows=3, half=False) as second:
        pass
    joined = Activations.joined([second.mapped(), first.mapped()])
    for part in (joined, joined.held_on(torch.device("cpu"))):
        assert torch.equal(part.read(np.array([1, 2, 0]), torch.device("cpu")).h, states[[2, 0, 1]])


@pytest.mark.parametrize("half", [False, True])
def test_texts_that_two_writers_wrote_are_read_from_a_device_as_from_the_files(tmp_path, half, monkeypatch):
    cpu, lengths = torch.device("cpu"), np.array([3, 9, 1, 12, 5])
    mask = torch.arange(12) < torch.from_numpy(lengths)[:, None]
    states = torch.randn(5, 12, 6)
    with ActivationWriter(tmp_path / "a", rows=5, half=half) as first:
        first.add(np.array([4, 1]), State(states[[4, 1]], mask[[4, 1]]))
    with ActivationWriter(tmp_path / "b", rows=5, half=half) as second:
        second.add(np.array([2, 0, 3]), State(states[[2, 0, 3]], mask[[2, 0, 3]]))
    mapped = Activations.joined([first.mapped(), second.mapped()])
    # A few places at a time.
    monkeypatch.setattr(activations, "PIECE_BYTES", 50)
    held = mapped.held_on(cpu)
    for rows in ([2], [4, 2, 4], [0, 1, 2, 3, 4]):
        one, two = (part.read(np.array(rows), cpu) for part in (mapped, held))
        assert torch.equal(one.h, two.h)
        assert torch.equal(one.mask, two.mask)
    assert mapped.nbytes == lengths.sum() * 6 * (2 if half else 4)


def test_a_training_reads_the_same_from_the_memory_of_a_device(t, kind, tmp_path, monkeypatch):
    stages, trained, held = len(t.toy(kind).stages), [], []
    hold = Activations.held_on
    monkeypatch.setattr(Activations, "held_on", lambda self, device: held.append(self) or hold(self, device))
    for room in (False, True):
        monkeypatch.setattr(shelf, "has_room", lambda device, nbytes, room=room: room)
        backbone, task = t.toy(kind), t.task_of(kind)
        prefix = t.maker(backbone, task, tmp_path, use="on", phases=descending(stages).phases)
        result, head = t.run(descending(stages), backbone, task, prefix=prefix)
        trained.append((t.tensors_of(backbone, head), [record.train_loss for record in result.history]))
    # Training and validation rows of each of three phases.
    assert len(held) == 6
    assert t.same(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]
