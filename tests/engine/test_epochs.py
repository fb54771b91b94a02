"""What holds in every epoch, not only in the first: the modes of modules, and what the time is said to have gone to."""

from types import SimpleNamespace

import pytest
import torch

from unfreeze.engine import fit as loop
from unfreeze.engine.inputs import ImageInputs
from unfreeze.engine.stepping import Stepper

EPOCHS = 3


@pytest.mark.parametrize("norm", ["freeze", "train"])
def test_modules_train_in_every_epoch_s_steps_and_never_while_they_are_judged(t, norm):
    backbone, head = t.toy("cnn"), t.head_of(t.toy("cnn"))
    seen = {name: [] for name in ("block1.norm", "block1.dropout", "block2.norm", "block2.dropout", "")}

    def note(module, name):
        module.register_forward_pre_hook(
            lambda found, _: seen[name].append((torch.is_grad_enabled(), found.training))
        )

    for name in seen:
        note(backbone.module.get_submodule(name) if name else head, name)
    plan = t.plan_of(backbone, freeze=2, epochs=EPOCHS, phase={"norm": norm})
    t.run(plan, backbone, t.task_of("cnn"), head=head)
    judged, learning, learning_frozen = (False, False), (True, True), (True, False)
    # Five steps of 38 rows an epoch; validation, with the same modules, before the first and after each.
    for name in ("block2.dropout", ""):
        assert seen[name].count(learning) == 5 * EPOCHS
        assert set(seen[name]) == {judged, learning}
        assert seen[name][0] == judged
        assert seen[name][-1] == judged
    of_norm = learning if norm == "train" else learning_frozen
    assert seen["block2.norm"].count(of_norm) == 5 * EPOCHS
    assert set(seen["block2.norm"]) == {judged, of_norm}
    for name in ("block1.norm", "block1.dropout"):
        assert set(seen[name]) == {judged}


def test_the_share_of_waiting_for_data_is_that_of_the_clock(t, monkeypatch):
    now = 0.0
    real_batch, real_take = ImageInputs.batch, Stepper.take

    def batch(self, rows, round_):
        nonlocal now
        # Validation is no part of an epoch's time.
        now += 3.0
        return real_batch(self, rows, round_)

    def take(self, *arguments, **named):
        nonlocal now
        now += 1.0
        return real_take(self, *arguments, **named)

    monkeypatch.setattr(ImageInputs, "batch", batch)
    monkeypatch.setattr(Stepper, "take", take)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))
    backbone = t.toy("cnn")
    result, _ = t.run(t.plan_of(backbone, epochs=EPOCHS), backbone, t.task_of("cnn"))
    assert [record.wait_share for record in result.history] == [0.75] * EPOCHS
    assert [record.seconds for record in result.history] == [5 * 4.0] * EPOCHS
    assert [record.rows_per_second for record in result.history] == [38 / 20.0] * EPOCHS
