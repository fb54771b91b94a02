"""Drift tells how far features moved since the start, and is exactly zero where nothing could move them."""

from dataclasses import replace

import pytest
import torch

from unfreeze.engine.drift import Drift
from unfreeze.plan import Phase, Plan, Thaw


@pytest.mark.parametrize("use", ["off", "on"])
@pytest.mark.parametrize("freeze", [1, 2])
def test_below_the_boundary_it_is_exactly_zero_and_above_it_is_not(t, kind, tmp_path, use, freeze):
    backbone, task = t.toy(kind), t.task_of(kind, val=0)
    prefix = t.maker(backbone, task, tmp_path, use=use)
    plan = t.plan_of(backbone, freeze=freeze, rate=0.05, phase={"norm": "train"})
    result, _ = t.run(plan, backbone, task, prefix=prefix)
    drift = list(result.ledger[0].drift.values())
    assert list(result.ledger[0].drift) == [stage.name for stage in backbone.stages]
    assert drift[:freeze] == [0.0] * freeze
    assert all(moved > 0.001 for moved in drift[freeze:])


def test_it_is_the_mean_distance_relative_to_the_length_of_the_first_features(t):
    backbone = t.toy("vit")
    drift = Drift(backbone, t.rows_of("vit", 40, 0).inputs, seed=3)
    with torch.no_grad():
        for parameter in backbone.module.pool.parameters():
            parameter *= 1.5
    assert drift.since_start() == {
        "embed": 0,
        "block1": 0,
        "block2": 0,
        "block3": 0,
        "pool": pytest.approx(0.5),
    }


def test_features_that_were_zero_move_by_their_length(t):
    backbone = t.toy("vit")
    with torch.no_grad():
        backbone.module.pool.weight.zero_()
        backbone.module.pool.bias.zero_()
    drift = Drift(backbone, t.rows_of("vit", 5, 0).inputs, seed=3)
    assert drift.since_start()["pool"] == 0
    with torch.no_grad():
        backbone.module.pool.bias[0] = 3.0
    assert drift.since_start()["pool"] == pytest.approx(3.0)


def test_a_later_phase_counts_from_the_start_of_the_training(t):
    backbone = t.toy("vit")
    first = Phase(name="a", epochs=1, thaw=(Thaw(1, "weights", 0.01),))
    second = Phase(name="b", epochs=1, thaw=(Thaw(3, "weights", 0.01),))
    plan = Plan(strategy="own", phases=(first, second), batch_size=8)
    result, _ = t.run(plan, backbone, t.task_of("vit", val=0))
    one, two = (record.drift for record in result.ledger)
    assert (one["embed"], two["embed"]) == (0, 0)
    assert (one["block1"], one["block2"]) == (two["block1"], two["block2"])
    assert one["block1"] > 0
    assert one["block3"] != two["block3"]


def test_at_most_64_plain_rows_are_run_in_batches_of_32(t):
    inputs = t.rows_of("cnn", 90, 0, augment="strong").inputs
    seen = []

    class Noting:
        def __len__(self):
            return len(inputs)

        def batch(self, rows, round_):
            seen.append((rows.tolist(), round_))
            return inputs.batch(rows, round_)

    Drift(t.toy("cnn"), Noting(), seed=3).since_start()
    assert [(len(rows), round_) for rows, round_ in seen] == [(32, None)] * 4
    assert seen[:2] == seen[2:]
    assert len({row for rows, _ in seen for row in rows}) == 64
    assert sorted(seen[0][0] + seen[1][0]) != list(range(64))


def test_it_leaves_no_trace(t, kind):
    backbone = t.toy(kind)
    before, chance = t.tensors_of(backbone), torch.get_rng_state()
    backbone.module.train()
    Drift(backbone, t.rows_of(kind, 40, 0).inputs, seed=3).since_start()
    assert t.same(before, t.tensors_of(backbone))
    assert torch.equal(chance, torch.get_rng_state())
    assert not any(module.training for module in backbone.module.modules())


def test_it_is_measured_in_full_precision_on_the_weights_that_are_handed_on(t):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    ruinous = t.plan_of(backbone, epochs=2, rate=30.0)
    trained, head = t.run(t.plan_of(backbone, epochs=3, rate=0.02), backbone, task)
    assert trained.ledger[0].drift["pool"] > 0
    # The collapse is not kept, so that nothing has moved.
    result, _ = t.run(ruinous, backbone, replace(task, precisions=("bf16",)), head=head)
    assert result.taken == "start"
    assert set(result.ledger[0].drift.values()) == {0.0}
