"""The classic recipe: the rates, epochs and stages that the guides print, for every kind of network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from unfreeze.config import STRATEGIES
from unfreeze.errors import RequestError
from unfreeze.plan import Adapters, Lora
from unfreeze.strategies import classic
from unfreeze.strategies.settings import BACKBONE_RATE, StrategySettings

SETTINGS = StrategySettings(rows=1000, classes=2)
ALONE = ("feature-extraction", "partial", "gradual", "discriminative", "full", "scratch")


def schedule(backbone, strategy):
    """Per phase: name, epochs, stage → rate, rate of the head."""
    plan = classic.PLANS[strategy](backbone, SETTINGS)
    assert plan.strategy == strategy
    return [(p.name, p.epochs, {t.stage: t.rate for t in p.thaw}, p.head_rate) for p in plan.phases]


def deep(t, stages, family="vit"):
    """A toy with so many stages, each with weights of its own."""
    backbone = t.toy("vit")
    names = ("embed", *(f"block{index}" for index in range(1, stages - 1)), "pool")
    backbone.module = t.Net({name: nn.Linear(2, 2) for name in names})
    backbone.names, backbone.family = names, family
    return backbone


def test_every_strategy_that_the_guides_know_has_a_classic_plan():
    assert set(classic.PLANS) == {*ALONE, "lora", "adapters"} <= set(STRATEGIES)


def test_feature_extraction_is_the_head_alone(t):
    for kind in t.KINDS:
        assert schedule(t.toy(kind), "feature-extraction") == [("head", 5, {}, 1e-3)]


def test_gradual_goes_from_the_head_to_one_block_to_three(t):
    assert schedule(t.toy("vit"), "gradual") == [
        ("head", 5, {}, 1e-3),
        ("last-block", 5, {3: 1e-4, 4: 1e-4}, 1e-4),
        ("two-more-blocks", 10, {1: 1e-5, 2: 1e-5, 3: 1e-5, 4: 1e-5}, 1e-5),
    ]
    # The pooling of the CNN has no weights, and its stem is the third block from the top.
    assert schedule(t.toy("cnn"), "gradual")[1:] == [
        ("last-block", 5, {2: 1e-4}, 1e-4),
        ("two-more-blocks", 10, {0: 1e-5, 1: 1e-5, 2: 1e-5}, 1e-5),
    ]
    # Of 12 blocks the last three: stages 10 to 12 behind the embedding, and the norm above them.
    assert list(schedule(deep(t, 14), "gradual")[2][2]) == [10, 11, 12, 13]


@pytest.mark.parametrize(("stages", "phases"), [(1, 2), (2, 2), (3, 3)])
def test_gradual_leaves_out_a_phase_that_thaws_nothing_more(t, stages, phases):
    backbone = deep(t, 4)
    backbone.names = ("embed", "block1", "block2", "pool")[4 - stages :]
    found = schedule(backbone, "gradual")
    assert [name for name, *_ in found] == ["head", "last-block", "two-more-blocks"][:phases]
    thawed = [frozenset(rates) for _, _, rates, _ in found]
    assert len(set(thawed)) == phases
    assert thawed[-1] == set(range(stages))


def test_partial_trains_the_last_third_of_a_transformer(t):
    [(_, epochs, rates, head_rate)] = schedule(deep(t, 14), "partial")
    assert (epochs, head_rate) == (20, 1e-4)
    # The embedding and blocks 0 to 7 are frozen: stages 0 to 8.
    assert rates == dict.fromkeys(range(9, 14), 1e-5)
    [(_, epochs, rates, head_rate)] = schedule(t.toy("text"), "partial")
    assert (epochs, rates, head_rate) == (3, {3: 1e-5, 4: 1e-5}, 1e-4)
    [(_, _, rates, _)] = schedule(t.toy("cnn"), "partial")
    assert rates == {2: 1e-5}


@pytest.mark.parametrize(
    ("stages", "early", "middle", "late"),
    [(14, 4, 5, 5), (9, 3, 3, 3), (4, 1, 1, 2), (3, 1, 1, 1), (1, 0, 0, 1)],
)
def test_discriminative_divides_the_stages_into_thirds(t, stages, early, middle, late):
    backbone = deep(t, 14)
    backbone.names = backbone.names[-stages:]
    [(_, epochs, rates, head_rate)] = schedule(backbone, "discriminative")
    assert epochs == 20
    assert head_rate == pytest.approx(1e-3)
    assert list(rates.values()) == pytest.approx([1e-6] * early + [1e-5] * middle + [1e-4] * late)


def test_full_trains_everything_at_one_rate(t):
    assert schedule(t.toy("cnn"), "full") == [("full", 20, dict.fromkeys(range(3), 1e-4), 1e-4)]
    assert schedule(t.toy("vit"), "full") == [("full", 20, dict.fromkeys(range(5), 1e-4), 1e-4)]
    assert schedule(t.toy("text"), "full") == [("full", 3, dict.fromkeys(range(5), 2e-5), 2e-5)]


def test_scratch_starts_at_random_and_learns_its_norms(t):
    assert schedule(t.toy("cnn"), "scratch") == [("scratch", 20, dict.fromkeys(range(3), 1e-3), 1e-3)]
    plan = classic.PLANS["scratch"](t.toy("cnn"), SETTINGS)
    assert (plan.start, plan.phases[0].norm) == ("random", "train")


@pytest.mark.parametrize(("kind", "epochs"), [("vit", 20), ("text", 3)])
def test_lora_updates_a_fused_projection_and_says_that_the_keys_are_in_it(t, kind, epochs):
    plan = classic.PLANS["lora"](t.toy(kind), SETTINGS)
    targets = ("block1.qkv", "block2.qkv", "block3.qkv")
    assert plan.graft == Lora(rank=8, alpha=32.0, dropout=0.05, targets=targets)
    assert "keys are updated too" in plan.notes[0]
    [phase] = plan.phases
    assert [(thaw.stage, thaw.what, thaw.rate) for thaw in phase.thaw] == [
        (s, "graft", 1e-4) for s in (1, 2, 3)
    ]
    assert (phase.epochs, phase.head_rate) == (epochs, 1e-4)


@pytest.mark.parametrize(
    "names",
    [
        ("query", "key", "value"),
        ("q_proj", "k_proj", "v_proj"),
        ("q_lin", "k_lin", "v_lin"),
        ("q", "k", "v"),
        ("query_proj", "key_proj", "value_proj"),
    ],
)
def test_lora_updates_queries_and_values_where_they_have_layers_of_their_own(t, names):
    backbone = t.toy("text")
    for path in backbone.blocks:
        block = backbone.module.get_submodule(path)
        del block.qkv
        for name in names:
            block.add_module(name, nn.Linear(8, 8))
    plan = classic.PLANS["lora"](backbone, SETTINGS)
    wanted = {f"block{index}.{name}" for index in (1, 2, 3) for name in (names[0], names[2])}
    assert set(plan.graft.targets) == wanted
    assert plan.notes == ()


@pytest.mark.parametrize(("kind", "epochs"), [("vit", 20), ("text", 3)])
def test_adapters_stand_behind_every_block(t, kind, epochs):
    plan = classic.PLANS["adapters"](t.toy(kind), SETTINGS)
    assert plan.graft == Adapters(reduction=16, blocks=("block1", "block2", "block3"), norm=False)
    [phase] = plan.phases
    assert [(thaw.stage, thaw.what, thaw.rate) for thaw in phase.thaw] == [
        (s, "graft", 1e-4) for s in (1, 2, 3)
    ]
    assert (phase.epochs, phase.head_rate) == (epochs, 1e-4)


def test_a_classic_adapter_is_the_formula_of_the_guide(t):
    """x + up(GELU(down(x))), with GELU(z) = z · Φ(z) and the bottleneck a sixteenth as wide, at least one unit."""
    backbone, bare = t.toy("vit"), t.toy("vit")
    plan = classic.PLANS["adapters"](backbone, SETTINGS)
    t.attach_graft(backbone, plan.graft)
    adapter = backbone.module.block2.adapter
    wanted = {"down.weight": (1, 8), "down.bias": (1,), "up.weight": (8, 1), "up.bias": (8,)}
    assert {name: tuple(value.shape) for name, value in adapter.named_parameters()} == wanted
    generator = torch.Generator().manual_seed(1)
    for block in (backbone.module.block1, backbone.module.block2, backbone.module.block3):
        for value in block.adapter.parameters():
            value.data = torch.randn(value.shape, generator=generator)
    batch = t.task_of("vit").train.inputs.batch(np.arange(6), None)
    below = backbone.run(batch, 0, 2)
    x = bare.run(below, 2, 3).h
    down, up = adapter.down, adapter.up
    z = x @ down.weight.T + down.bias
    formula = x + (z * (1 + torch.erf(z / 2**0.5)) / 2) @ up.weight.T + up.bias
    assert torch.allclose(backbone.run(below, 2, 3).h, formula, atol=1e-6)


@pytest.mark.parametrize("name", ["lora", "adapters"])
def test_a_graft_without_a_place_in_the_network_is_refused(t, name):
    with pytest.raises(
        RequestError, match=f"The classic guide has no {name} for toy.*leave --recipe classic out"
    ):
        classic.PLANS[name](t.toy("cnn"), SETTINGS)


@pytest.mark.parametrize("name", classic.PLANS)
def test_images_start_from_a_new_mlp_and_hold_their_rates(t, name):
    plan = classic.PLANS[name](t.toy("vit"), SETTINGS)
    assert (plan.head, plan.dropout, plan.batch_size, plan.augment) == ("mlp", 0.2, 32, "light")
    assert (plan.ema, plan.interpolate, plan.pull, plan.mixup, plan.label_smoothing) == (None, False, 0, 0, 0)
    assert plan.clip == 0
    for phase in plan.phases:
        assert (phase.schedule, phase.warmup, phase.weight_decay, phase.patience) == (
            "constant",
            0,
            0.01,
            None,
        )
        assert phase.norm == ("train" if name == "scratch" else "freeze")


@pytest.mark.parametrize("name", classic.PLANS)
def test_texts_start_from_a_new_linear_head_and_warm_up(t, name):
    plan = classic.PLANS[name](t.toy("text"), SETTINGS)
    assert (plan.head, plan.dropout, plan.batch_size, plan.augment) == ("linear", 0.1, 16, "none")
    for phase in plan.phases:
        assert (phase.schedule, phase.warmup, phase.weight_decay, phase.patience) == (
            "linear",
            0.1,
            0.01,
            None,
        )


@pytest.mark.parametrize("name", classic.PLANS)
def test_nothing_of_it_can_be_chosen(t, name):
    plan = classic.PLANS[name](t.toy("vit"), SETTINGS)
    given = replace(
        SETTINGS, rows=50, classes=9, epochs=1, rate=1e-2, batch_size=7, freeze=1, ema=0.9, patience=1, rank=2
    )
    assert classic.PLANS[name](t.toy("vit"), given) == plan


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("family", BACKBONE_RATE)
def test_every_classic_plan_holds_for_every_family(t, name, family):
    for kind in ("text",) if family in ("encoder", "decoder") else ("cnn", "vit"):
        backbone = t.toy(kind)
        backbone.family = family
        for phase in classic.PLANS[name](backbone, SETTINGS).phases:
            assert all(0 <= thaw.stage < len(backbone.stages) and thaw.rate > 0 for thaw in phase.thaw)
    one = deep(t, 3)
    one.names, one.family = ("pool",), family
    thawed = {thaw.stage for phase in classic.PLANS[name](one, SETTINGS).phases for thaw in phase.thaw}
    assert thawed == (set() if name == "feature-extraction" else {0})


@pytest.mark.parametrize("kind", ["cnn", "vit", "text"])
def test_a_classic_plan_trains_a_toy_from_its_new_head(t, kind):
    from unfreeze.heads.module import new_head

    backbone = t.toy(kind)
    before = t.tensors_of(backbone)
    plan = replace(classic.PLANS["feature-extraction"](backbone, SETTINGS), augment="none", batch_size=4)
    head = new_head(plan.head, backbone.dim, 2, dropout=plan.dropout, seed=0)
    start = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    result, head = t.run(plan, backbone, t.task_of(kind, train=120), head=head)
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert result.history[-1].val_log_loss < 0.69
    assert not any(torch.equal(tensor, start[name]) for name, tensor in head.state_dict().items())
    assert t.same(t.tensors_of(backbone), before)
