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
    ruinous = t.plan_of(backbone, epochs=2, rate=0.1)
    trained, head = t.run(t.plan_of(backbone, epochs=3, rate=0.02), backbone, task)
    assert trained.ledger[0].drift["pool"] > 0
    # The collapse is not kept, so that nothing has moved.
    result, _ = t.run(ruinous, backbone, replace(t.misled(task), precisions=("bf16",)), head=head)
    assert result.taken == "start"
    assert set(result.ledger[0].drift.values()) == {0.0}


@pytest.mark.parametrize("lowest", [1, 2])
def test_only_what_lies_above_the_lowest_boundary_is_run_again_with_the_same_result(t, kind, lowest):
    backbone, inputs = t.toy(kind), t.rows_of(kind, 40, 0).inputs
    read, run = [], []

    class Noting:
        def __len__(self):
            return len(inputs)

        def batch(self, rows, round_):
            read.append(len(rows))
            return inputs.batch(rows, round_)

    whole, part = Drift(backbone, inputs, seed=3), Drift(backbone, Noting(), seed=3, lowest=lowest)
    assert read == [32, 8]
    with torch.no_grad():
        for stage in backbone.stages[lowest:]:
            for name in stage.tensors:
                tensor = backbone.module.state_dict()[name]
                if tensor.is_floating_point():
                    tensor *= 1.01
    plain = backbone.run

    def noting(state, start=0, stop=None):
        run.append(start)
        given = state.h.clone()
        done = plain(state, start, stop)
        # A stage may write into what it is given.
        state.h.copy_(torch.zeros_like(given))
        return done

    first = whole.since_start()
    backbone.run = noting
    assert part.since_start() == first == part.since_start()
    assert read == [32, 8]
    assert min(run) == lowest
    assert sum(first.values()) > 0


def test_states_too_large_to_be_kept_are_computed_again(t, monkeypatch):
    backbone, inputs = t.toy("cnn"), t.rows_of("cnn", 40, 0).inputs
    monkeypatch.setattr("unfreeze.engine.drift.MOST_KEPT_BYTES", 100)
    run, plain = [], backbone.run
    backbone.run = lambda state, start=0, stop=None: run.append(start) or plain(state, start, stop)
    drift = Drift(backbone, inputs, seed=3, lowest=2)
    assert set(drift.since_start().values()) == {0.0}
    assert run.count(0) == 4


def three_phases():
    head, body = Phase(name="a", epochs=1), Phase(name="b", epochs=1, thaw=(Thaw(2, "weights", 0.01),))
    return Plan(strategy="own", phases=(head, body, replace(head, name="c")), batch_size=8)


def test_a_phase_of_the_head_alone_is_not_looked_at_and_keeps_what_was_there_before(t, monkeypatch):
    looks, plain = [], Drift._features
    monkeypatch.setattr(Drift, "_features", lambda self, **rest: looks.append(1) or plain(self, **rest))
    result, _ = t.run(three_phases(), t.toy("vit"), t.task_of("vit", val=0))
    one, two, three = (record.drift for record in result.ledger)
    assert set(one.values()) == {0.0}
    assert three == two
    assert (two["block1"], two["block2"] > 0) == (0, True)
    assert len(looks) == 2


def test_a_training_of_the_head_alone_runs_no_row_for_it(t, monkeypatch):
    backbone, task = t.toy("vit"), t.task_of("vit", val=0)
    monkeypatch.setattr(Drift, "_at_lowest", lambda *_: pytest.fail("a row was run"))
    plan = Plan(strategy="own", phases=(Phase(name="a", epochs=1),), batch_size=8)
    result, _ = t.run(plan, backbone, task)
    assert set(result.ledger[0].drift.values()) == {0.0}
