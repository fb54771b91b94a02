"""Which layers a low-rank update is put on: found in the network itself, counted, and refused where they are not.

PEFT's own table knows few architectures; timm's are not among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from unfreeze.contracts import Backbone
from unfreeze.errors import RequestError

if TYPE_CHECKING:
    from torch import nn

ATTENTION, LINEAR = "attention", "linear"
# A path component that contains one of these holds an attention, in timm and in transformers.
_ATTENTION_MARKS = ("attn", "attention")


@dataclass(frozen=True)
class Layer:
    """A layer that can take a low-rank update: its module path, its stage, and its path below its block."""

    path: str
    stage: int
    short: str


@dataclass(frozen=True)
class Targets:
    """The layers found, ``paths``, in the order of the network, and the ``stages`` that they stand in, ascending."""

    paths: tuple[str, ...]
    stages: tuple[int, ...]


def resolve_targets(backbone: Backbone, patterns: Sequence[str], blocks: int | None = None) -> Targets:
    """The layers that the patterns name, in the top ``blocks`` blocks or in all of them.

    A pattern is ``attention``, ``linear``, or a path below the block with wildcards, such as ``qkv`` or ``mlp.*``.
    Convolutional networks have stages for blocks. Raises RequestError for a pattern that matches nothing, or
    not all blocks, and for more blocks than there are.
    """
    layers = list(_layers(backbone))
    if not layers:
        raise RequestError(f"{backbone.name} has no linear layers for LoRA: use --strategy partial or full.")
    stages = sorted({layer.stage for layer in layers})
    if blocks is not None and blocks > len(stages):
        raise RequestError(
            f"--lora-blocks {blocks} is too many: {backbone.name} has {len(stages)} blocks that can take LoRA."
        )
    chosen = stages if blocks is None else stages[-blocks:]
    offered = [layer for layer in layers if layer.stage in chosen]
    found: set[str] = set()
    for pattern in patterns:
        matches = [layer for layer in offered if _matches(layer, pattern)]
        _check_matches(backbone, pattern, matches, offered)
        found.update(layer.path for layer in matches)
    taken = [layer for layer in offered if layer.path in found]
    return Targets(tuple(layer.path for layer in taken), tuple(sorted({layer.stage for layer in taken})))


def targetable(backbone: Backbone) -> frozenset[str]:
    """Module paths of all layers that can take a low-rank update."""
    return frozenset(layer.path for layer in _layers(backbone))


def tell_kinds(backbone: Backbone, paths: Sequence[str]) -> str:
    """How many of the layers at these paths there are of each kind, as ``qkv (12), proj (12)``."""
    wanted = set(paths)
    return _tell_kinds(layer for layer in _layers(backbone) if layer.path in wanted)


def _tell_kinds(layers: Iterable[Layer]) -> str:
    counts = Counter(layer.short for layer in layers)
    return ", ".join(f"{short} ({count})" for short, count in counts.items())


def _layers(backbone: Backbone) -> Iterator[Layer]:
    """Linear layers, and convolutions that are not depthwise, between the embedding and the pooling."""
    owner = {name: index for index, stage in enumerate(backbone.stages) for name in stage.tensors}
    last = len(backbone.stages) - 1
    for path, module in backbone.module.named_modules():
        if input_width(module) is None or _is_read_past(backbone.module, path):
            continue
        stage = owner.get(f"{path}.weight")
        # A network of one stage has its blocks there.
        if stage is not None and (0 < stage < last or last == 0):
            yield Layer(path, stage, _below_block(backbone, path))


def _is_read_past(module: nn.Module, path: str) -> bool:
    """Whether a network takes this layer's weight without calling it, so that a wrapping would have no effect.

    EVA and BEiT do so in timm: the bias of their fused projection is put together from two parts.
    """
    parent, _, name = path.rpartition(".")
    return name == "qkv" and getattr(module.get_submodule(parent), "q_bias", None) is not None


def input_width(module: nn.Module) -> int | None:
    """The width that a layer reads, or None for what is no linear map that PEFT can update."""
    from torch import nn

    if "StdConv2d" in type(module).__name__:
        # Of BiT and NFNet in timm: they standardise their weight, so that an update of it is not what was added to
        # their answers.
        return None
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        # PEFT takes over neither the dilation nor how edges are padded.
        plain = module.dilation == (1, 1) and module.padding_mode == "zeros"
        return module.in_channels if plain else None
    # GPT-2's linear layers, which keep their weights transposed.
    return len(module.weight) if is_transposed(module) else None  # type: ignore[arg-type]


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear layer is one of those with weights (in, out), told by their class's name in transformers."""
    return type(module).__name__ == "Conv1D"


def _below_block(backbone: Backbone, path: str) -> str:
    for block in backbone.blocks:
        if path.startswith(f"{block}."):
            return path.removeprefix(f"{block}.")
    return path.rpartition(".")[2]


def _matches(layer: Layer, pattern: str) -> bool:
    if pattern == LINEAR:
        return True
    if pattern == ATTENTION:
        return any(mark in part for part in layer.path.split(".") for mark in _ATTENTION_MARKS)
    return fnmatchcase(layer.path, pattern) or fnmatchcase(layer.path, f"*.{pattern}")


def _check_matches(
    backbone: Backbone, pattern: str, matches: Sequence[Layer], offered: Sequence[Layer]
) -> None:
    there = _tell_kinds(offered)
    if not matches:
        raise RequestError(f"--targets {pattern} matches no layer of {backbone.name}. It has: {there}.")
    blocks = {layer.stage for layer in offered}
    hit = {layer.stage for layer in matches}
    if hit != blocks:
        kind = "blocks" if backbone.blocks else "stages"
        raise RequestError(
            f"--targets {pattern} matches layers in {len(hit)} of {len(blocks)} {kind} of {backbone.name}: name layers "
            f"that all {kind} have ({there}), or the top ones alone with --lora-blocks."
        )
