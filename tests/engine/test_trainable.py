"""Every trainable parameter is in exactly one group, and only what is thawed is in training mode."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from unfreeze.backbones.timm_ import assemble
from unfreeze.engine.trainable import (
    _split_by_decay,
    describe_phase,
    head_key,
    select,
    set_modes,
    stage_of_parameters,
    stages_with,
)
from unfreeze.errors import UnfreezeError
from unfreeze.plan import Phase, Thaw


def rates_of(groups):
    found = {}
    for group in groups:
        for name, _ in group.parameters:
            assert name not in found
            found[name] = group.rate
    return found


def phase(*thaw, **settings):
    return Phase(name="p", epochs=1, thaw=tuple(Thaw(*item) for item in thaw), **settings)


def test_thawed_stages_and_head_are_in_exactly_one_group_at_their_rate(t, kind):
    backbone = t.toy(kind)
    head = t.head_of(backbone)
    groups = select(backbone, head, phase((1, "weights", 0.1), (2, "weights", 0.02), head_rate=0.5))
    rates = rates_of(groups)
    wanted = {
        name: 0.1 if name.startswith("block1.") or name.startswith("block1") else 0.02
        for name, _ in backbone.module.named_parameters()
        if stage_of_parameters(backbone)[name] in (1, 2)
    }
    assert rates == wanted | {head_key("weight"): 0.5, head_key("bias"): 0.5}
    for name, parameter in backbone.module.named_parameters():
        assert parameter.requires_grad == (name in rates)


def test_the_line_of_a_phase_says_what_is_trained_and_at_which_rates(t, kind):
    backbone = t.toy(kind)
    head = t.head_of(backbone)
    chosen = phase((2, "weights", 1e-3), head_rate=1e-2)
    groups = select(backbone, head, chosen)
    trained = sum(parameter.numel() for group in groups for _, parameter in group.parameters)
    total = sum(parameter.numel() for parameter in (*backbone.module.parameters(), *head.parameters()))
    line = describe_phase(chosen, groups, backbone, "Nothing is stored.")
    assert line == (
        f"Phase p: 1 epoch, {trained:,} of {total:,} parameters trainable ({trained / total:.2%}), rates 1.0e-03 to "
        "1.0e-02, norm statistics frozen. Nothing is stored."
    )
    moving = phase((2, "weights", 1e-3), norm="train")
    assert "rates 1.0e-03, norm statistics trained." in describe_phase(
        moving, select(backbone, head, moving), backbone, ""
    )
    told = describe_phase(replace(moving, epochs=5, patience=2), groups, backbone, "")
    assert "5 epochs (fewer after 2 without a lower validation log-loss), " in told
    assert "fewer" not in describe_phase(replace(moving, epochs=2, patience=2), groups, backbone, "")


def test_only_matrices_are_decayed(t, kind):
    backbone = t.toy(kind)
    for group in select(backbone, t.head_of(backbone), phase((1, "weights", 0.1), weight_decay=0.3)):
        for _, parameter in group.parameters:
            assert group.weight_decay == (0.3 if parameter.ndim > 1 else 0.0)


def test_what_timm_spares_and_what_is_a_vector_by_its_shape_is_not_decayed(t):
    backbone = t.toy("vit")
    names = [name for name, parameter in backbone.module.named_parameters() if parameter.ndim > 1]
    backbone.module.no_weight_decay = lambda: {names[0]}
    backbone.module.register_parameter("token", torch.nn.Parameter(torch.zeros(1, 1, 6)))
    chosen = [(name, backbone.module.get_parameter(name)) for name in (*names, "token")]
    groups = _split_by_decay("all", 0, 0.1, 0.3, chosen, spared=frozenset(backbone.module.no_weight_decay()))
    decays = {name: group.weight_decay for group in groups for name, _ in group.parameters}
    assert decays == {name: 0.0 if name in (names[0], "token") else 0.3 for name in (*names, "token")}


def test_a_real_vit_and_a_real_swin_decay_neither_tokens_nor_positions_nor_tables():
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        module = timm.create_model(name, num_classes=0)
        backbone = assemble(module, name, architecture=name, arguments={"num_classes": 0}, image_size=None)
        thaw = tuple(Thaw(stage, "weights", 0.1) for stage in stages_with(backbone, "weights"))
        groups = select(
            backbone,
            torch.nn.Linear(backbone.dim, 2),
            Phase(name="all", epochs=1, thaw=thaw, weight_decay=0.3),
        )
        decayed = {path for group in groups if group.weight_decay for path, _ in group.parameters}
        assert not [path for path in decayed if "token" in path or "pos_embed" in path or "bias" in path]
        assert any("attn" in path for path in decayed)


def test_norms_may_have_a_rate_of_their_own_whatever_the_order(t, kind):
    for items in (((1, "weights", 0.1), (1, "norm", 0.07)), ((1, "norm", 0.07), (1, "weights", 0.1))):
        backbone = t.toy(kind)
        rates = rates_of(select(backbone, t.head_of(backbone), phase(*items)))
        for name, rate in rates.items():
            if not name.startswith("head"):
                assert rate == (0.07 if ".norm" in name else 0.1), name


def test_biases_alone_can_be_thawed(t):
    backbone = t.toy("vit")
    rates = rates_of(select(backbone, t.head_of(backbone), phase((2, "bias", 0.1), head_rate=None)))
    assert set(rates) == {f"block2.{n}.bias" for n in ("norm1", "norm2", "qkv", "proj", "fc1", "fc2")}


def test_a_head_without_rate_is_not_trained(t):
    backbone, head = t.toy("vit"), None
    head = t.head_of(backbone)
    select(backbone, head, phase((2, "weights", 0.1), head_rate=None))
    assert not any(parameter.requires_grad for parameter in head.parameters())


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((3, "weights", 0.1), "stage 3 .pool., which has none: the stages that have are 0, 1, 2[.]"),
        ((9, "weights", 0.1), "stages 0 to 3"),
        ((1, "graft", 0.1), "graft of stage 1 .block1., which has none: the stages that have are none"),
    ],
)
def test_a_stage_with_nothing_to_thaw_is_refused(t, item, message):
    backbone = t.toy("cnn")
    with pytest.raises(UnfreezeError, match=message):
        select(backbone, t.head_of(backbone), phase(item))


def modes(backbone):
    return {name: module.training for name, module in backbone.module.named_modules() if name}


def test_dropout_acts_in_thawed_stages_only(t, kind):
    backbone = t.toy(kind)
    head = t.head_of(backbone)
    set_modes(backbone, head, phase((2, "weights", 0.1)))
    found = modes(backbone)
    assert found["block2.dropout"]
    assert not found["block1.dropout"]
    assert head.training


def test_norm_statistics_move_only_where_thawed_and_asked_for(t):
    for norm, wanted in (("freeze", (False, False)), ("train", (False, True))):
        backbone = t.toy("cnn")
        backbone.module.train()
        set_modes(backbone, t.head_of(backbone), phase((2, "weights", 0.1), norm=norm))
        found = modes(backbone)
        assert (found["block1.norm"], found["block2.norm"]) == wanted


def test_a_norm_that_keeps_the_variance_alone_is_held_too(t):
    backbone = t.toy("cnn")
    backbone.module.block2.norm.running_mean = None
    set_modes(backbone, t.head_of(backbone), phase((2, "weights", 0.1), norm="freeze"))
    assert not modes(backbone)["block2.norm"]


def test_a_graft_belongs_to_the_stage_it_stands_in(t):
    backbone = t.toy("vit")
    stages = backbone.stages

    class Wrapped(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base
            self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False)})

    class Grafted(type(backbone)):
        stages = property(lambda self: given)

    given = stages
    backbone.module.block2.qkv = Wrapped(backbone.module.block2.qkv)
    backbone.module.block3.adapter = nn.Linear(8, 8)
    backbone.__class__ = Grafted
    owner = stage_of_parameters(backbone)
    assert owner["block2.qkv.base_layer.weight"] == 2
    assert owner["block2.qkv.lora_A.default.weight"] == 2
    assert owner["block3.adapter.weight"] == 3
    rates = rates_of(select(backbone, t.head_of(backbone), phase((2, "graft", 0.1), (3, "graft", 0.02))))
    assert {name for name in rates if not name.startswith("head")} == {
        "block2.qkv.lora_A.default.weight",
        "block3.adapter.weight",
        "block3.adapter.bias",
    }
    backbone.module.stray = nn.Linear(2, 2)
    with pytest.raises(UnfreezeError, match=r"stray.* belongs to no stage"):
        stage_of_parameters(backbone)


def test_a_module_named_head_in_the_backbone_is_not_the_head(t):
    backbone = t.toy("vit")
    backbone.module.head = backbone.module._modules.pop("pool")
    backbone.names = (*backbone.names[:-1], "head")
    names = rates_of(select(backbone, t.head_of(backbone), phase((4, "weights", 0.1), head_rate=0.2)))
    assert names == {"head.weight": 0.1, "head.bias": 0.1, "head:weight": 0.2, "head:bias": 0.2}


def test_real_backbones_name_every_stage_once():
    from unfreeze.backbones.timm_ import assemble
    from unfreeze.backbones.timm_loading import create_timm

    torch.manual_seed(0)
    module = create_timm("test_convnext", {})
    backbone = assemble(module, "test_convnext", architecture="test_convnext", arguments={}, image_size=64)
    head = nn.Linear(backbone.dim, 2)
    owned = sorted(set(stage_of_parameters(backbone).values()))
    groups = select(backbone, head, phase(*((index, "weights", 0.1) for index in owned)))
    assert len(rates_of(groups)) == len(list(module.parameters())) + 2
    names = [group.name for group in groups]
    assert len(set(names)) == len(names)
