"""Weights cut over processes: each holds a part of what is trained, and whole weights come back."""

import os
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from unfreeze.engine.launching import gathered
from unfreeze.engine.ranks import ALONE, PeerLostError, Sharding, carried
from unfreeze.engine.sharding import describe_shards, shard_stages
from unfreeze.engine.state import STEP, beside, set_optimizer_state
from unfreeze.engine.trainable import select
from unfreeze.errors import RequestError
from unfreeze.plan import Phase, Thaw

KINDS = pytest.mark.parametrize("kind", ["cnn", "vit", "text"])
CPU = torch.device("cpu")


def forked(test):
    """For a test that runs processes of its own."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")(test))


def thawing(backbone, *stages):
    thaw = tuple(Thaw(stage, "weights", 1e-3) for stage in stages or range(len(backbone.stages)))
    return Phase(name="own", epochs=1, thaw=tuple(one for one in thaw if backbone.stages[one.stage].tensors))


def work_with_a_cut(t, kind, sharding):
    """What a rank holds of each cut parameter, what the network answers, and what becomes of its weights."""
    backbone = t.toy(kind)
    batch = t.task_of(kind, train=4, val=0).train.inputs.batch(np.arange(4), None)
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    backbone.module.eval()
    with torch.no_grad():
        wanted = backbone.run(batch).h

    def work(ranks):
        phase = thawing(backbone)
        groups = select(backbone, t.head_of(backbone), phase)
        shards = shard_stages(backbone, phase, replace(ranks, sharding=sharding), CPU)
        with torch.no_grad():
            answers = backbone.run(batch).h
            held = {name: part.numel() for name, part in shards.parts.items()}
            ours = {name for group in shards.groups(groups) for name, one in group.parameters if name in held}
            for part in shards.parts.values():
                part.mul_(2)
        joined = {name: tensor.numpy() for name, tensor in shards.whole(shards.parts).items()}
        same = {name: tensor.numpy() for name, tensor in shards.whole(shards.part(before)).items()}
        shards.restore()
        after = {name: tensor.numpy() for name, tensor in backbone.module.state_dict().items()}
        return held, ours, float((answers - wanted).abs().max()), joined, same, after

    return before, work


@forked
@KINDS
def test_each_holds_half_of_what_is_trained(t, together, kind, tmp_path):
    before, work = work_with_a_cut(t, kind, Sharding())
    answers = together(2, tmp_path, work)
    held = [answer[0] for answer in answers]
    assert held[0].keys() == held[1].keys()
    assert {name: held[0][name] + held[1][name] for name in held[0]} == {
        name: before[name].numel() for name in held[0]
    }
    assert sum(held[1].values()) >= 0.4 * sum(before[name].numel() for name in held[0])
    for _, ours, difference, *_ in answers:
        assert ours == set(held[0])
        assert difference == 0


@forked
@KINDS
def test_whole_weights_come_back_with_what_was_trained(t, together, kind, tmp_path):
    before, work = work_with_a_cut(t, kind, Sharding(reshard=False))
    for held, _, _, joined, same, after in together(2, tmp_path, work):
        assert joined.keys() == held.keys()
        for name, tensor in before.items():
            whole = tensor.numpy()
            assert np.array_equal(same[name], whole)
            assert np.array_equal(after[name], 2 * whole if name in held else whole)
            assert name not in held or np.array_equal(joined[name], 2 * whole)


class Counting:
    """Adds up gradients over ranks as FSDP does, and counts how many whole ones are held at a time."""

    def __init__(self):
        self.held, self.most = [], 0

    def allocate(self, size, *, dtype, device):
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor, input_tensor, group, op, async_op=False):
        self.held.append(weakref.ref(input_tensor))
        self.most = max(self.most, sum(one() is not None for one in self.held))
        parts = list(input_tensor.chunk(dist.get_world_size(group)))
        return dist.reduce_scatter(output_tensor, parts, op=op, group=group, async_op=async_op)


@forked
def test_whole_gradients_of_one_stage_are_held_at_a_time(t, together, tmp_path):
    backbone = t.toy("vit")
    batch = t.task_of("vit", train=4, val=0).train.inputs.batch(np.arange(4), None)

    def work(ranks):
        phase = thawing(backbone)
        select(backbone, t.head_of(backbone), phase)
        shards = shard_stages(backbone, phase, replace(ranks, sharding=Sharding()), CPU)
        counting = Counting()
        for path in shards.whole_modules:
            backbone.module.get_submodule(path).set_custom_reduce_scatter(counting)
        for _ in range(2):
            backbone.run(batch).h.square().sum().backward()
            shards.collect()
        return len(shards.whole_modules), len(counting.held), counting.most

    for stages, passed, most in together(2, tmp_path, work):
        assert stages >= 4
        assert passed == 2 * stages
        assert most == 1


@forked
def test_one_whole_tensor_is_on_the_device_at_a_time(monkeypatch, t, together, tmp_path):
    backbone, held, most = t.toy("vit"), [], []
    joining = DTensor.full_tensor

    def counting(tensor):
        found = joining(tensor)
        held.append(weakref.ref(found))
        most.append(sum(one() is not None for one in held))
        return found

    monkeypatch.setattr(DTensor, "full_tensor", counting)

    def work(ranks):
        shards = shard_stages(backbone, thawing(backbone), replace(ranks, sharding=Sharding()), CPU)
        # A home that keeps nothing, as that of a rank which does not write.
        kept = shards.whole(shards.parts, home=torch.device("meta"))
        return shards.parts.keys() == kept.keys(), {tensor.device.type for tensor in kept.values()}, max(most)

    assert together(2, tmp_path, work) == [(True, {"meta"}, 1)] * 2


@pytest.mark.parametrize("home", [None, CPU], ids=["beside", "home"])
def test_an_optimizer_goes_on_where_its_weights_are(home):
    weight = nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = torch.optim.AdamW([weight])
    state = {STEP: {"w": torch.tensor(2.0)}, "exp_avg": {"w": torch.ones(3)}}
    set_optimizer_state(optimizer, {"w": weight}, state, home=home)
    assert optimizer.state[weight]["exp_avg"].device == (home or weight.device)
    # The step count is looked at by the processor, unless the optimizer is fused.
    assert optimizer.state[weight][STEP].device == CPU


def test_averages_go_to_where_their_weights_are():
    found = beside({"w": torch.ones(3)}, {"w": torch.zeros(3, device="meta")})
    assert found["w"].device.type == "meta"


def share_over_stages(module):
    module.block1.fc1 = module.block2.fc1
    return {"block1", "block2"}


def share_within_a_stage(module):
    module.block1.norm2 = module.block1.norm1
    return {"block1"}


def add_a_number(module):
    module.block2.scale = nn.Parameter(torch.ones(()))
    return {"block2"}


@pytest.mark.parametrize("change", [share_over_stages, share_within_a_stage, add_a_number])
@forked
def test_a_stage_that_has_no_parts_stays_whole(t, together, change, tmp_path):
    backbone = t.toy("vit")
    whole = change(backbone.module)

    def work(ranks):
        phase = thawing(backbone)
        select(backbone, t.head_of(backbone), phase)
        shards = shard_stages(backbone, phase, replace(ranks, sharding=Sharding()), CPU)
        paths = set(shards.whole_modules)
        shards.restore()
        return paths

    for paths in together(2, tmp_path, work):
        assert paths == {"block1", "block2", "block3", "embed", "pool"} - whole - {"embed"}


@forked
def test_what_is_cut_is_told_with_its_share(t, together, tmp_path):
    backbone = t.toy("vit")
    head = t.head_of(backbone)

    def work(ranks):
        told = []
        for stages in ([1, 2, 3], [0]):
            phase = thawing(backbone, *stages)
            groups = select(backbone, head, phase)
            shards = shard_stages(backbone, phase, replace(ranks, sharding=Sharding()), CPU)
            told.append(describe_shards(shards, groups))
            shards.drop()
        return told

    for some, none in together(2, tmp_path, work):
        assert (
            some
            == "FSDP cuts 3 stages over 2 processes while they are trained, 99% of the trained parameters."
        )
        assert none.startswith("FSDP cuts nothing of what this phase trains")


def test_alone_nothing_is_cut(t):
    backbone = t.toy("vit")
    shards = shard_stages(backbone, thawing(backbone), ALONE, CPU)
    assert not shards.parts
    tensors = dict(backbone.module.named_parameters())
    assert all(shards.part(tensors)[name] is tensor for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed, which is not supported"),
        ({"ACCELERATE_USE_FSDP": "true"}, "set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "set fsdp_version: 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "fsdp_offload_params",
        ),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "fsdp_activation_checkpointing",
        ),
        (
            {
                "ACCELERATE_USE_FSDP": "true",
                "FSDP_VERSION": "2",
                "FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD",
            },
            "fsdp_reshard_after_forward 'full_shard': set it to true or false",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_what_a_launcher_asks_for_in_vain_is_refused(monkeypatch, asked, sentence):
    for name, value in (asked | {"WORLD_SIZE": "2", "RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=sentence), gathered("cpu"):
        pass


@pytest.mark.parametrize("reshard", [True, False])
@forked
def test_a_launcher_says_how_weights_are_cut(monkeypatch, together, reshard, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", str(reshard))
    # It counts nothing here, so it may be anything.
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "NONE_THAT_IS_KNOWN")
    assert together(2, tmp_path, lambda ranks: ranks.sharding) == [Sharding(reshard)] * 2
    assert "WORLD_SIZE" not in os.environ


def test_only_what_carries_tensors_tells_of_a_lost_process():
    with pytest.raises(PeerLostError, match="--resume"), carried():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), carried():
        raise RuntimeError("shapes do not match")
