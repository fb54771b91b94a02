"""A float16 phase scales its loss, leaves out the steps that overflow, and resumes to the same bits."""

from itertools import pairwise

import pytest
import torch

from unfreeze.engine import scaling
from unfreeze.engine.checkpoints import Checkpoints
from unfreeze.engine.scaling import adjust, first_scale, scaled, unscale
from unfreeze.engine.stepping import Stepper
from unfreeze.errors import StoppedError, UnfreezeError

CPU = torch.device("cpu")


def train(t, kind="cnn", *, folder=None, stop_after=None, resume=False, precision="fp16", **settings):
    backbone, task = t.toy(kind), t.task_of(kind, precisions=(precision,))
    steps = iter(range(1, 1000))
    result, head = t.run(
        t.plan_of(backbone, phase={"epochs": 4}, **settings),
        backbone,
        task,
        checkpoints=None if folder is None else Checkpoints(folder, {"data": "d"}),
        resume=resume,
        should_stop=lambda: next(steps) == stop_after,
    )
    return result, t.tensors_of(backbone, head)


@pytest.fixture
def scales(monkeypatch):
    """The scale after every step."""
    seen, take = [], Stepper.take

    def noting(self, *given, **settings):
        loss = take(self, *given, **settings)
        seen.append(float(self.standing.scale["scale"]))
        return loss

    monkeypatch.setattr(Stepper, "take", noting)
    return seen


def test_the_loss_falls_and_the_ledger_names_the_precision(t, kind):
    result, tensors = train(t, kind)
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert result.ledger[0].precision == "fp16"
    assert all(tensor.dtype != torch.float16 for tensor in tensors.values())


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_scale_that_overflows_is_halved_until_it_fits_and_costs_only_those_steps(
    t, scales, monkeypatch, clip
):
    monkeypatch.setattr(scaling, "FIRST", 2.0**40)
    result, tensors = train(t, clip=clip)
    # The head starts at zero and hands nothing down in the first step.
    assert scales[:2] == [2.0**40, 2.0**39]
    assert scales[-1] < 2.0**39
    assert scales == sorted(scales, reverse=True)
    assert len(scales) == 20
    # What was left out was not all: it learned, and nothing became infinite.
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_stopping_changes_nothing_and_keeps_the_scale(t, scales, monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "FIRST", 2.0**40)
    monkeypatch.setattr(scaling, "GOOD_STEPS", 3)
    whole = train(t, folder=tmp_path / "whole")
    expected, scales[:] = list(scales), []
    with pytest.raises(StoppedError):
        train(t, folder=tmp_path / "cut", stop_after=7)
    resumed = train(t, folder=tmp_path / "cut", resume=True)
    assert t.same(whole[1], resumed[1])
    assert scales == expected
    assert any(later > earlier for earlier, later in pairwise(scales))


def test_gradients_that_no_scale_mends_stop_the_run(t, monkeypatch):
    gradients = Stepper._gradients

    def broken(self, state, rows, parts):
        loss = gradients(self, state, rows, parts)
        for _, parameter in self.groups[0].parameters:
            parameter.grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(Stepper, "_gradients", broken)
    monkeypatch.setattr(scaling, "FIRST", 4.0)
    with pytest.raises(UnfreezeError, match="epoch 1, step 3"):
        train(t)


def test_the_scale_cancels_out_and_doubles_after_many_good_steps(monkeypatch):
    monkeypatch.setattr(scaling, "GOOD_STEPS", 2)
    state = first_scale("fp16", CPU)
    weight = torch.tensor([3.0], requires_grad=True)
    scaled(weight.square().sum(), state).backward()
    unscale([weight.grad], state)
    assert weight.grad.item() == pytest.approx(6.0)
    good, bad = torch.tensor(True), torch.tensor(False)
    found = []
    for finite in (good, good, good, bad, good, good):
        adjust(state, finite)
        found.append(float(state["scale"]) / 2**16)
    assert found == [1, 2, 2, 1, 1, 2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_other_precision_has_a_scale(precision):
    state = first_scale(precision, CPU)
    loss = torch.tensor(2.0)
    assert state == {}
    assert scaled(loss, state) is loss
    adjust(state, torch.tensor(False))
