"""What a training does where memory ends: smaller batches of the same rows, and no trace of the pass that failed."""

import weakref

import pytest
import torch

from unfreeze.contracts import State
from unfreeze.engine.activations import Activations
from unfreeze.engine.prefix import PlainMaker
from unfreeze.engine.stepping import Stepper
from unfreeze.errors import LoneError, UnfreezeError
from unfreeze.executors.halving import REFUSALS, in_halves, is_out_of_memory, joined_states
from unfreeze.plan import Phase, Plan, Thaw

REFUSED = "DefaultCPUAllocator: can't allocate memory: 8 bytes"


def scarce(backbone, monkeypatch, rows, *, seen=None):
    """The backbone's passes, which memory has no room for with more rows than these."""
    run = backbone.run

    def limited(state, start=0, stop=None):
        if len(state.h) > rows:
            raise RuntimeError(REFUSED)
        if seen is not None:
            seen.append(len(state.h))
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", limited)


@pytest.fixture
def held(monkeypatch):
    """What is still in a device's memory of stores."""
    refs, hold = [], Activations.held_on

    def noting(self, device):
        made = hold(self, device)
        refs.append(weakref.ref(made))
        return made

    monkeypatch.setattr(Activations, "held_on", noting)
    return lambda: [ref for ref in refs if ref() is not None]


def crowded(backbone, monkeypatch, held, *, rows=8, seen=None):
    """The backbone's training passes, which find no room beside a store, nor with more rows than these."""
    run = backbone.run

    def limited(state, start=0, stop=None):
        if torch.is_grad_enabled():
            if seen is not None:
                seen.append(bool(held()))
            if held() or len(state.h) > rows:
                raise RuntimeError(REFUSED)
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", limited)


@pytest.mark.parametrize("rows", [8, 3])
def test_a_store_in_the_memory_of_a_device_makes_room_before_a_batch_is_cut(
    t, kind, held, monkeypatch, tmp_path, rows
):
    found, said = [], []
    for room in (True, False):
        monkeypatch.setattr("unfreeze.engine.shelf.has_room", lambda *_, room=room: room)
        backbone, task, telling, seen = t.toy(kind), t.task_of(kind), t.Telling(), []
        crowded(backbone, monkeypatch, held, rows=rows, seen=seen)
        prefix = t.maker(backbone, task, tmp_path, use="on")
        _, head = t.run(t.plan_of(backbone), backbone, task, prefix=prefix, progress=telling)
        found.append(t.tensors_of(backbone, head))
        said.append([sentence for sentence in telling.told if "Out of memory" in sentence])
        # One pass fails beside the store, which does not come back.
        assert seen.count(True) == room
    assert said[0] == ["Out of memory: what is stored is read from its files from now on.", *said[1]]
    assert len(said[1]) == (0 if rows == 8 else 2)
    assert t.same(*found)


@pytest.mark.parametrize("plain", [True, False], ids=["by PyTorch", "by an executor"])
@pytest.mark.parametrize("freeze", [0, 1, 3])
def test_every_pass_of_a_training_finds_room(t, kind, monkeypatch, freeze, plain):
    results = []
    for limit in (None, 3):
        backbone, seen = t.toy(kind), []
        backbone.module.apply(lambda module: setattr(module, "p", 0.0) if hasattr(module, "p") else None)
        if limit is not None:
            scarce(backbone, monkeypatch, limit, seen=seen)
        plan = t.plan_of(backbone, freeze=freeze, rate=1e-3, batch_size=16, clip=0.0)
        task = t.task_of(kind)
        result, _ = t.run(plan, backbone, task, prefix=PlainMaker(backbone, task) if plain else None)
        results.append(([record.val_log_loss for record in result.history], result.ledger[0].drift))
        assert not seen or max(seen) == limit
    (losses, drift), (again, moved) = results
    assert again == pytest.approx(losses, rel=1e-2)
    assert moved == pytest.approx(drift, rel=0.2, abs=1e-6)


def test_a_row_without_room_is_said(t, monkeypatch):
    backbone = t.toy("cnn")
    scarce(backbone, monkeypatch, 0)
    with pytest.raises(UnfreezeError, match="One row alone does not fit"):
        t.run(t.plan_of(backbone), backbone, t.task_of("cnn"))


@pytest.mark.parametrize("words", REFUSALS)
def test_memory_is_refused_in_several_words(words):
    def limited(state):
        if len(state.h) > 1:
            raise RuntimeError(f"{words} when calling something")
        return state

    assert len(in_halves(limited, State(torch.zeros(4, 2)), joined_states).h) == 4


@pytest.mark.parametrize("place", ["DEVICE", "HOST"])
def test_it_is_told_from_a_problem_of_cudnn_9(place):
    said = "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"
    assert is_out_of_memory(RuntimeError(f"{said}_{place}_ALLOCATION_FAILED"))
    assert not is_out_of_memory(RuntimeError(said))


def test_another_problem_is_not_taken_for_a_lack_of_memory():
    def broken(state):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_halves(broken, State(torch.zeros(4, 2)), joined_states)


def test_halves_come_back_in_order_with_their_masks():
    state = State(torch.arange(14.0).view(7, 2), torch.arange(14).view(7, 2) % 3 == 0)

    def narrow(part):
        if len(part.h) > 2:
            raise torch.OutOfMemoryError
        return State(part.h * 2, part.mask)

    found = in_halves(narrow, state, joined_states)
    assert torch.equal(found.h, state.h * 2)
    assert torch.equal(found.mask, state.mask)


def test_halves_of_which_one_may_be_padded_are_taken_for_padded():
    sides = {
        full: State(torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool), full=full)
        for full in (True, False, None)
    }
    for first, one in sides.items():
        for second, other in sides.items():
            assert joined_states(one, other).full is (first if first is second else False)
    assert sides[True].rows(slice(1)).full is True


@pytest.mark.parametrize("norm", ["train", "freeze"])
def test_a_pass_that_failed_has_moved_no_statistic(t, monkeypatch, norm):
    """Whether memory ends before a pass or in the middle of it is the same to what is trained."""
    gradients, found = Stepper._gradients, []
    for late in (False, True):
        backbone, failed = t.toy("cnn"), []

        def refused(self, state, rows, parts, late=late, failed=failed):
            if late or failed:
                loss = gradients(self, state, rows, parts)
            if failed:
                return loss
            failed.append(parts)
            raise RuntimeError(REFUSED)

        monkeypatch.setattr(Stepper, "_gradients", refused)
        _, head = t.run(t.plan_of(backbone, phase={"norm": norm}), backbone, t.task_of("cnn"))
        found.append(t.tensors_of(backbone, head))
    assert t.same(*found)
    # Five batches in two epochs, each in two parts.
    assert found[0]["block2.norm.num_batches_tracked"] == (20 if norm == "train" else 0)


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ({"norm": "freeze"}, "in 2 parts, which add up to the same step."),
        ({"norm": "train"}, "in 2 parts, and norms see the statistics of a part."),
        ({"objective": "pairs", "head_rate": None}, "in 2 parts, and pairs are those within a part."),
    ],
    ids=["frozen norms", "trained norms", "pairs"],
)
def test_it_is_said_what_parts_change(t, monkeypatch, phase, said):
    backbone, telling, gradients = t.toy("cnn"), t.Telling(), Stepper._gradients
    failed = []

    def once(self, state, rows, parts):
        if failed:
            return gradients(self, state, rows, parts)
        failed.append(parts)
        raise RuntimeError(REFUSED)

    monkeypatch.setattr(Stepper, "_gradients", once)
    t.run(t.plan_of(backbone, phase=phase), backbone, t.task_of("cnn"), progress=telling)
    assert [sentence for sentence in telling.told if "Out of memory" in sentence] == [
        f"Out of memory: every batch is now computed {said}"
    ]


def test_norms_are_never_trained_on_a_single_row(t, monkeypatch):
    backbone = t.toy("cnn")
    run = backbone.run

    def narrow(state, start=0, stop=None):
        if torch.is_grad_enabled() and len(state.h) > 1:
            raise RuntimeError(REFUSED)
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", narrow)
    with pytest.raises(UnfreezeError, match="Norm statistics are trained on two rows or more"):
        t.run(t.plan_of(backbone, phase={"norm": "train"}), backbone, t.task_of("cnn"))
    monkeypatch.undo()
    backbone = t.toy("cnn")
    with pytest.raises(
        UnfreezeError, match="'only' trains norm statistics, and batches of one row have none"
    ):
        t.run(t.plan_of(backbone, batch_size=1, phase={"norm": "train"}), backbone, t.task_of("cnn"))
    # Frozen ones need no second row, and where nothing thawed has any there is nothing to train.
    t.run(t.plan_of(backbone, epochs=1, batch_size=1), backbone, t.task_of("cnn", train=6))
    head = Plan(
        strategy="own", phases=(Phase(name="a", epochs=1, head_rate=0.1, norm="train"),), batch_size=1
    )
    t.run(head, backbone, t.task_of("cnn", train=6))
    plan = t.plan_of(t.toy("vit"), epochs=1, batch_size=1, phase={"norm": "train"})
    t.run(plan, t.toy("vit"), t.task_of("vit", train=6))


@pytest.mark.parametrize(("norm", "last"), [("train", [2]), ("freeze", [1, 1])])
def test_a_short_last_batch_is_cut_into_single_rows_only_where_norms_are_frozen(t, monkeypatch, norm, last):
    backbone, sizes = t.toy("cnn"), []
    run = backbone.run

    def limited(state, start=0, stop=None):
        if torch.is_grad_enabled():
            if len(state.h) > 8:
                raise RuntimeError(REFUSED)
            sizes.append(len(state.h))
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", limited)
    plan = t.plan_of(backbone, epochs=1, batch_size=16, phase={"norm": norm})
    t.run(plan, backbone, t.task_of("cnn", train=18, val=0))
    assert sizes == [8, 8, *last]


def test_one_row_without_room_ends_the_process_that_met_it():
    def never(state):
        raise torch.OutOfMemoryError

    with pytest.raises(LoneError, match="One row alone does not fit"):
        in_halves(never, State(torch.zeros(4, 2)), joined_states)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_spoils_nothing_however_it_is_clipped(t, monkeypatch, clip):
    backbone, gradients, steps = t.toy("cnn"), Stepper._gradients, []

    def broken(self, state, rows, parts):
        loss = gradients(self, state, rows, parts)
        steps.append(rows)
        if len(steps) == 3:
            self.groups[0].parameters[0][1].grad.view(-1)[0] = float("inf")
        return loss

    monkeypatch.setattr(Stepper, "_gradients", broken)
    with pytest.raises(UnfreezeError, match="epoch 1, step 3"):
        t.run(t.plan_of(backbone, clip=clip), backbone, t.task_of("cnn", val=0))
    assert all(torch.isfinite(tensor).all() for tensor in t.tensors_of(backbone).values())


def test_what_a_later_phase_reads_is_what_an_earlier_one_has_trained(t, tmp_path):
    """A boundary that comes back: what ran the stages below it before must not run them as they were."""
    phases = (
        Phase(name="a", epochs=1, thaw=(Thaw(2, "weights", 0.01),), head_rate=0.02),
        Phase(name="b", epochs=1, thaw=(Thaw(0, "weights", 0.1), Thaw(1, "weights", 0.1))),
        Phase(name="c", epochs=1, thaw=(Thaw(2, "weights", 0.01),)),
    )
    plan, found = Plan(strategy="own", phases=phases, batch_size=8), []
    for use in ("off", "on"):
        backbone, task = t.toy("cnn"), t.task_of("cnn")
        made = t.maker(backbone, task, tmp_path, use=use, phases=phases)
        _, head = t.run(plan, backbone, task, prefix=made)
        found.append(t.tensors_of(backbone, head))
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-5), name
