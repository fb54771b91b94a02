"""Weights that FSDP2 shards, cutting them over the processes of a training, where it does not fit into one device.

Frozen weights need 4 bytes a parameter, trained ones five times as much and more: gradients, two moments of AdamW, the
averaged weights. So the stages that a phase thaws are cut for as long as it takes its steps. Every process then holds a
part of each of their tensors, and the optimizer works on these parts as on any parameter; FSDP puts a stage together
while it is run, and takes it apart behind. Before and after the steps all weights are whole; where the steps were
stopped, or another process has gone with its parts, those of the cut stages are as before the phase.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unfreeze.contracts import Backbone
from unfreeze.engine.ranks import Ranks, carried
from unfreeze.engine.trainable import Group, stage_of_parameters
from unfreeze.plan import Phase

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, eq=False)
class Shards:
    """The modules that are cut, by path, and the whole ones whose places they have taken; none where nothing is.

    ``live``: FSDP's parameters by name; ``parts``: what this rank has of each, in the same memory, for the optimizer.
    """

    root: nn.Module
    count: int = 1
    whole_modules: Mapping[str, nn.Module] = field(default_factory=dict)
    live: Mapping[str, DTensor] = field(default_factory=dict)
    parts: Mapping[str, nn.Parameter] = field(default_factory=dict)

    def groups(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """The same groups, with this rank's parts in the place of what is cut."""
        return tuple(
            replace(
                group,
                parameters=tuple((name, self.parts.get(name, whole)) for name, whole in group.parameters),
            )
            for group in groups
        )

    def collect(self) -> None:
        """Give the parts their gradients: the sums over all ranks of what was added up in backward passes."""
        for name, part in self.parts.items():
            given = self.live[name].grad
            self.live[name].grad = None
            # FSDP takes means over ranks. What the part has by itself was divided by their number too.
            sums = [own for own in (part.grad, None if given is None else _own(given)) if own is not None]
            part.grad = sum(sums[1:], sums[0]) * self.count if sums else None

    def part(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's copy of its part of each whole tensor of these names; what is not cut stays as it is."""
        return {name: self._part(name, tensor) for name, tensor in tensors.items()}

    def whole(self, tensors: Mapping[str, Tensor], *, home: torch.device | None = None) -> dict[str, Tensor]:
        """The whole tensors, put together from all ranks' parts; every rank has to ask for the same names.

        ``home``: where each that was put together goes before the next one is: the device has no room for all of them.
        The meta device is the home of a rank that keeps none. What is not cut stays as and where it is.
        """
        return {name: self._whole(name, tensor, home) for name, tensor in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put whole values in place of what is cut."""
        with torch.no_grad():
            for name, tensor in tensors.items():
                self.parts[name].copy_(self._part(name, tensor))

    def restore(self) -> None:
        """Put the whole modules back, with what their parts have become; by all ranks."""
        found = {path: self._whole_module(path, self.root.get_submodule(path)) for path in self.whole_modules}
        self.drop()
        for path, values in found.items():
            held = self.whole_modules[path].state_dict(keep_vars=True)
            for name, tensor in held.items():
                place = self.live.get(f"{path}.{name}", values[name]).device
                tensor.data = values[name].to(place, tensor.dtype)

    def _whole_module(self, path: str, module: nn.Module) -> dict[str, Tensor]:
        """All tensors of a module that is cut, by their names in it, whole and in the processor's memory."""
        named = {f"{path}.{name}": tensor for name, tensor in module.state_dict(keep_vars=True).items()}
        # The device has no room for the whole tensors beside the parts.
        whole = self.whole(named, home=torch.device("cpu"))
        return {name.removeprefix(f"{path}."): tensor for name, tensor in whole.items()}

    def drop(self) -> None:
        """Put the whole modules back as they were when they were cut."""
        for path, module in self.whole_modules.items():
            _put(self.root, path, module)

    def _part(self, name: str, tensor: Tensor) -> Tensor:
        from torch.distributed.tensor import distribute_tensor

        like = self.live.get(name)
        if like is None:
            return tensor
        # Every rank has the whole tensor: nothing needs to be sent.
        given = distribute_tensor(
            tensor.detach().to(like.device), like.device_mesh, like.placements, src_data_rank=None
        )
        return given.to_local().clone()

    def _whole(self, name: str, tensor: Tensor, home: torch.device | None) -> Tensor:
        from torch.distributed.tensor import DTensor

        like = self.live.get(name)
        if like is None:
            return tensor.detach()
        own = _own(tensor) if isinstance(tensor, DTensor) else tensor.detach()
        joined = DTensor.from_local(
            own, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        with carried():
            found: Tensor = joined.full_tensor()
        return found.to(home or found.device)


def shard_stages(backbone: Backbone, phase: Phase, ranks: Ranks, device: torch.device) -> Shards:
    """The thawed stages of a phase cut over the ranks, in their places; nothing is where the ranks hold all weights.

    See ``stages_to_shard`` for what is not cut and stays whole.
    """
    root = backbone.module
    paths = stages_to_shard(backbone, phase, ranks)
    if ranks.sharding is None or not paths:
        return Shards(root)
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (ranks.count,))
    whole_modules = {path: root.get_submodule(path) for path in paths}
    twins = []
    for path, module in whole_modules.items():
        twin = copy.deepcopy(module)
        for parameter in module.parameters():
            parameter.data = parameter.data.cpu()
        twins.append(fsdp.fully_shard(twin, mesh=mesh, reshard_after_forward=ranks.sharding.reshard))
        _put(root, path, twin)
    # Each stage is a root for FSDP. By itself it would hold its whole gradients until the backward pass has ended, all
    # stages together; in one context the next stage lets go of them. Not every version of torch 2 has this function.
    if hasattr(fsdp, "share_comm_ctx"):
        fsdp.share_comm_ctx(twins)
    live: dict[str, Any] = {
        name: parameter
        for name, parameter in root.named_parameters()
        if any(name.startswith(f"{path}.") for path in paths)
    }
    parts = {
        name: nn.Parameter(_own(parameter), requires_grad=parameter.requires_grad)
        for name, parameter in live.items()
    }
    return Shards(root, ranks.count, whole_modules, live, parts)


def stages_to_shard(backbone: Backbone, phase: Phase, ranks: Ranks) -> list[str]:
    """Paths of the modules that hold one thawed stage each, whole and alone; none where the ranks hold all weights.

    A stage stays whole where a weight has several names or is a single number, of which FSDP has no parts.
    """
    if ranks.sharding is None:
        return []
    owner = stage_of_parameters(backbone)
    parameters = dict(backbone.module.named_parameters(remove_duplicate=False))
    names = Counter(id(parameter) for parameter in parameters.values())
    found = []
    for stage in sorted({thaw.stage for thaw in phase.thaw}):
        holders = [name.split(".")[:-1] for name in backbone.stages[stage].tensors]
        shares = takewhile(lambda parts: len(set(parts)) == 1, zip(*holders, strict=False))
        path = ".".join(parts[0] for parts in shares)
        inside = [name for name in parameters if path and name.startswith(f"{path}.")]
        # FSDP gives each name a parameter of its own, which would take weights that share a memory apart.
        shardable = all(names[id(parameters[name])] == 1 and parameters[name].dim() for name in inside)
        if inside and shardable and {owner[name] for name in inside} == {stage}:
            found.append(path)
    return found


def describe_shards(shards: Shards, groups: Sequence[Group]) -> str:
    """What is cut of the parameters in the groups, which hold the whole ones, as a sentence."""
    if not shards.parts:
        return "FSDP cuts nothing of what this phase trains: no stage of it lies in a module of its own."
    sizes = {name: whole.numel() for group in groups for name, whole in group.parameters}
    share = sum(size for name, size in sizes.items() if name in shards.live) / sum(sizes.values())
    return (
        f"FSDP cuts {len(shards.whole_modules)} stages over {shards.count} processes while they are trained, "
        f"{share:.0%} of the trained parameters."
    )


def _own(tensor: Any) -> Tensor:
    """What this rank holds of a tensor that is cut, in the same memory."""
    local: Tensor = tensor.to_local()
    return local.detach()


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent)._modules[name] = module
