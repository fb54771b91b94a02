"""A graft's life: put onto a backbone, trained by the engine, packed into files, settled for use, put back.

``unpack`` is the other way to use one: beside others on one network (``unfreeze.grafts.rowwise``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from unfreeze.backbones.staging import BREAKS
from unfreeze.config import RANGES
from unfreeze.contracts import Backbone, State
from unfreeze.errors import RequestError, first_line
from unfreeze.grafts.targets import targetable, tell_kinds
from unfreeze.plan import Adapters, Graft, Lora

if TYPE_CHECKING:
    from torch import Tensor

    from unfreeze.grafts.rowwise import Behind, LowRank, Updates

# PEFT's names for the files of an adapter, and what its own wrapper puts before the names of the network inside of it.
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_BOTTLENECK = "BOTTLENECK"
# What would change the meaning of a LoRA adapter, or what it is put on; ours never set any of it.
_REFUSED = (
    "use_rslora", "use_dora", "use_qalora", "rank_pattern", "alpha_pattern", "modules_to_save", "exclude_modules",
    "layers_to_transform", "layers_pattern", "layer_replication", "target_parameters", "trainable_token_indices",
    "megatron_config", "eva_config", "corda_config", "loftq_config", "lora_bias", "auto_mapping",
)  # fmt: skip


def attach(backbone: Backbone, graft: Graft, *, seed: int) -> Backbone:
    """The backbone with the graft on it, answering as before; its module is changed in place.

    The new weights are a function of the seed.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(graft, Lora):
            from unfreeze.grafts.lora import add_lora

            add_lora(backbone.module, graft)
            return backbone
        from unfreeze.grafts.adapters import add_adapter

        for path in graft.blocks:
            add_adapter(backbone.module.get_submodule(path), graft)
    return _with_adapters_in_stages(backbone, graft)


def refuse_broken(backbone: Backbone, graft: Graft, sample: State) -> None:
    """Raise RequestError when the grafted network cannot run a sample; it is left in evaluation mode.

    Some networks read of a layer what its wrapping does not have, as DaViT does its convolutions' sizes in timm.
    """
    import torch

    device = next(backbone.module.parameters()).device
    backbone.module.eval()
    try:
        with torch.no_grad():
            backbone.run(sample.map(lambda tensor: tensor.to(device)))
    except BREAKS as error:
        other = "other --targets or another --strategy" if isinstance(graft, Lora) else "another --strategy"
        raise RequestError(
            f"{backbone.name} cannot run with what is grafted onto its layers ({first_line(error)}): choose {other}."
        ) from error


def describe(backbone: Backbone, graft: Graft) -> str:
    """What is grafted where, for a person."""
    if isinstance(graft, Adapters):
        norm = "" if graft.norm else ", without a norm in front of it"
        where = f"behind each of {len(graft.blocks)} blocks{norm}"
        return f"Adapters: a bottleneck of 1/{graft.reduction} of the width {where}."
    return (
        f"LoRA: rank {graft.rank}, alpha {graft.alpha:g}, dropout {graft.dropout:g}, "
        f"on {len(graft.targets)} layers: {tell_kinds(backbone, graft.targets)}."
    )


def pack(backbone: Backbone, graft: Graft, *, base: str) -> dict[str, bytes]:
    """The files of the adapter, by name; LoRA in PEFT's own layout. ``base``: the name of the frozen network."""
    from safetensors.torch import save

    if isinstance(graft, Lora):
        from unfreeze.grafts.lora import lora_config_json, lora_tensors

        return {
            CONFIG: lora_config_json(backbone.module, graft, base=base).encode(),
            TENSORS: save(lora_tensors(backbone.module), metadata={"format": "pt"}),
        }
    config = {"peft_type": _BOTTLENECK, "base_model_name_or_path": base, **asdict(graft)}
    state = backbone.module.state_dict()
    tensors = {name: state[name].detach().cpu().contiguous() for name in _adapter_names(backbone, graft)}
    return {CONFIG: json.dumps(config, indent=2).encode(), TENSORS: save(tensors, metadata={"format": "pt"})}


def can_be_merged(files: Mapping[str, bytes]) -> bool:
    """Whether the settled backbone is the bare architecture again."""
    return bool(json.loads(files[CONFIG])["peft_type"] != _BOTTLENECK)


def settle(backbone: Backbone, graft: Graft) -> Backbone:
    """The backbone as it is used: LoRA merged into the weights (in place); adapters stay what they are."""
    if isinstance(graft, Lora):
        from unfreeze.grafts.lora import merge_lora

        merge_lora(backbone.module)
    return backbone


def restore(backbone: Backbone, files: Mapping[str, bytes]) -> Backbone:
    """A bare backbone with the adapter of these files on it, settled. ValueError when they do not fit it."""
    from safetensors.torch import load

    config, tensors = json.loads(files[CONFIG]), load(files[TENSORS])
    graft = _graft_from(config, backbone)
    grafted = attach(backbone, graft, seed=0)
    if isinstance(graft, Lora):
        from unfreeze.grafts.lora import load_lora

        load_lora(grafted.module, tensors)
    elif set(tensors) != set(_adapter_names(grafted, graft)):
        raise ValueError("the adapter holds other tensors than its configuration says")
    else:
        _check_kinds(tensors, grafted.module.state_dict())
        grafted.module.load_state_dict(tensors, strict=False)
    grafted.module.eval().requires_grad_(False)
    return settle(grafted, graft)


def unpack(backbone: Backbone, files: Mapping[str, bytes]) -> Updates:
    """What these files add to a bare backbone, which stays as it is. ValueError when they do not fit it."""
    from safetensors.torch import load

    config, tensors = json.loads(files[CONFIG]), load(files[TENSORS])
    graft = _graft_from(config, backbone)
    found: dict[str, LowRank | Behind]
    if isinstance(graft, Lora):
        found = {path: _low_rank(backbone, path, graft, tensors) for path in graft.targets}
    else:
        found = {path: _behind(backbone, path, graft, tensors) for path in graft.blocks}
    if tensors:
        raise ValueError(f"the adapter holds other tensors: {min(tensors)!r}")
    return found


def _low_rank(backbone: Backbone, path: str, lora: Lora, tensors: dict[str, Tensor]) -> LowRank:
    """The update of one layer, taken out of ``tensors``."""
    from unfreeze.grafts.rowwise import LowRank
    from unfreeze.grafts.targets import is_transposed

    layer = backbone.module.get_submodule(path)
    weight: Tensor = layer.weight.T if is_transposed(layer) else layer.weight  # type: ignore[assignment]
    down, up = (tensors.pop(f"{PREFIX}{path}.lora_{part}.weight") for part in "AB")
    shapes = (lora.rank, *weight.shape[1:]), (len(weight), lora.rank, *(1 for _ in weight.shape[2:]))
    if (down.shape, up.shape) != shapes or not down.dtype == up.dtype == weight.dtype:
        raise ValueError(f"the update of {path} has the shapes {tuple(down.shape)} and {tuple(up.shape)}")
    return LowRank(down, up * (lora.alpha / lora.rank))


def _behind(backbone: Backbone, path: str, graft: Adapters, tensors: dict[str, Tensor]) -> Behind:
    """The bottleneck of one block, taken out of ``tensors``."""
    import torch

    from unfreeze.grafts.adapters import NAME, bottleneck_for
    from unfreeze.grafts.rowwise import Behind

    with torch.device("meta"):
        made = bottleneck_for(backbone.module.get_submodule(path), graft)
    own = {name: tensors.pop(f"{path}.{NAME}.{name}") for name in made.state_dict()}
    _check_kinds(own, made.state_dict())
    made.load_state_dict(own, assign=True)
    return Behind(made.requires_grad_(False))


def _check_kinds(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError for whole numbers in place of weights, or the other way: loading would round, or fail later."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise ValueError(f"{name} holds {tensor.dtype}, not {wanted[name].dtype}")


def _graft_from(config: Mapping[str, Any], backbone: Backbone) -> Graft:
    """The graft of a configuration that may come from anywhere; ValueError for what ours never hold."""
    if config["peft_type"] == _BOTTLENECK:
        return Adapters(
            reduction=_whole(config, "reduction", RANGES["reduction"]),
            blocks=_paths(config, "blocks", backbone.blocks),
            norm=_has_norm(config),
        )
    if config["peft_type"] != "LORA":
        raise ValueError(f"an adapter of the type {config['peft_type']!r}")
    changed = [name for name in _REFUSED if config.get(name)]
    if changed:
        raise ValueError(f"the adapter's configuration sets {changed[0]!r}")
    alpha, dropout = float(config["lora_alpha"]), float(config["lora_dropout"])
    if not 0 < alpha <= RANGES["alpha"][1] or not 0 <= dropout < 1:
        raise ValueError(f"alpha {alpha} and dropout {dropout} are out of range")
    return Lora(
        rank=_whole(config, "r", RANGES["rank"]),
        alpha=alpha,
        dropout=dropout,
        targets=_paths(config, "target_modules", targetable(backbone)),
    )


def _whole(config: Mapping[str, Any], name: str, bounds: tuple[float, float]) -> int:
    """A whole number that could have been asked for too: a file must not make loading take all memory."""
    value = config[name]
    if type(value) is not int or not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"{name} is {value!r}")
    return value


def _has_norm(config: Mapping[str, Any]) -> bool:
    """Whether bottlenecks have a norm; files that do not say so are older than those without."""
    value = config.get("norm", True)
    if not isinstance(value, bool):
        raise ValueError(f"norm is {value!r}")
    return value


def _paths(config: Mapping[str, Any], name: str, known: Collection[str]) -> tuple[str, ...]:
    """Module paths, each one that this network has."""
    value = config[name]
    if not isinstance(value, list) or not value or not set(value) <= set(known):
        raise ValueError(f"{name} names other layers than this network has")
    return tuple(value)


def _adapter_names(backbone: Backbone, graft: Adapters) -> list[str]:
    from unfreeze.grafts.adapters import NAME

    marks = tuple(f"{path}.{NAME}." for path in graft.blocks)
    return [name for name in backbone.module.state_dict() if name.startswith(marks)]


def _with_adapters_in_stages(backbone: Backbone, graft: Adapters) -> Backbone:
    """Every tensor belongs to a stage: a block's adapter to the block's."""
    added = _adapter_names(backbone, graft)
    stages = list(backbone.stages)
    for index, path in enumerate(backbone.blocks, start=1):
        own = tuple(name for name in added if name.startswith(f"{path}."))
        stages[index] = replace(stages[index], tensors=(*stages[index].tensors, *own))
    return replace(backbone, stages=tuple(stages))  # type: ignore[type-var]
