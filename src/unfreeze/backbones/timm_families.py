"""The families of timm networks, as a short table: where each is cut and how its activations are summed up.

A row was found by reading timm's ``forward_features`` of that file; what is not in the table, or fails the
check at loading, runs as one stage. Functions take the module as an argument, so a copied backbone runs its
own copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["tokens", "nchw", "nhwc"]
# What every block needs beside its input (rotary or relative positions): made once a run, from stage 0's
# weights.
Positions = Any
Run = Callable[[Any, Any, Positions], Any]


@dataclass(frozen=True)
class Step:
    """One stage: its name, the module paths whose tensors it owns, and how it runs."""

    name: str
    owns: tuple[str, ...]
    run: Run


def _no_positions(module: Any) -> Positions:
    return None


@dataclass(frozen=True)
class Family:
    """How networks of one kind are cut."""

    name: str
    layout: Layout
    cut: Callable[[Any], tuple[Step, ...]]
    positions: Callable[[Any], Positions] = _no_positions


def family_of(module: Any) -> Family:
    """The family of a timm network, by the timm file in which its class is written; else ``OPAQUE``."""
    return FAMILIES.get(type(module).__module__.rpartition(".")[2], OPAQUE)


def summarise(h: Tensor, *, layout: Layout, module: Any) -> Tensor:
    """One float32 vector a sample (batch, width): the class token if any, then the mean over space.

    tokens: (batch, tokens, width), nchw: (batch, width, rows, columns), nhwc: (batch, rows, columns, width).
    """
    import torch

    h = h.float()
    if layout == "nchw":
        return h.mean(dim=(2, 3))
    if layout == "nhwc":
        return h.mean(dim=(1, 2))
    mean = h[:, module.num_prefix_tokens :].mean(dim=1)
    has_class_token = getattr(module, "cls_token", None) is not None
    return torch.cat([h[:, 0], mean], dim=1) if has_class_token else mean


def _call(module: Any, h: Any, positions: Positions, *, path: tuple[str, ...]) -> Any:
    for name in path:
        h = module.get_submodule(name)(h)
    return h


def _pool_vector(module: Any, h: Any, positions: Positions, *, norm: str | None = None) -> Any:
    if norm is not None:
        h = getattr(module, norm)(h)
    return module.forward_head(h, pre_logits=True)


def _embed_vit(module: Any, h: Any, positions: Positions) -> Any:
    h = module._pos_embed(module.patch_embed(h))
    return module.norm_pre(module.patch_drop(h))


def _embed_eva(module: Any, h: Any, positions: Positions) -> Any:
    h = module._pos_embed(module.patch_embed(h))
    return module.norm_pre(h[0] if isinstance(h, tuple) else h)


def _embed_beit(module: Any, h: Any, positions: Positions) -> Any:
    import torch

    h = module.patch_embed(h)
    h = torch.cat((module.cls_token.expand(h.shape[0], -1, -1), h), dim=1)
    return module.pos_drop(h if module.pos_embed is None else h + module.pos_embed)


def _block_eva(module: Any, h: Any, positions: Positions, *, index: int) -> Any:
    mixed = positions is not None and getattr(module, "rope_mixed", False)
    return module.blocks[index](h, rope=positions[index] if mixed else positions)


def _block_beit(module: Any, h: Any, positions: Positions, *, index: int) -> Any:
    return module.blocks[index](h, shared_rel_pos_bias=positions)


def _rope_eva(module: Any) -> Positions:
    if module.rope is None:
        return None
    # A network for any size keeps no table for one; ours always reads the size that it was built with.
    if hasattr(module.rope, "feat_shape") and not module.dynamic_img_size:
        return module.rope.get_embed()
    return module.rope.get_embed(shape=module.patch_embed.grid_size)


def _bias_beit(module: Any) -> Positions:
    return None if module.rel_pos_bias is None else module.rel_pos_bias()


_TOKEN_POOL = ("norm", "fc_norm", "attn_pool", "head", "head_dist")


def _cut_tokens(module: Any, *, embed: Run, block: Callable[..., Any] | None) -> tuple[Step, ...]:
    blocks = [
        Step(
            f"blocks.{index}",
            (f"blocks.{index}",),
            partial(_call, path=(f"blocks.{index}",)) if block is None else partial(block, index=index),
        )
        for index in range(len(module.blocks))
    ]
    return (Step("embed", (), embed), *blocks, Step("pool", _TOKEN_POOL, partial(_pool_vector, norm="norm")))


def _cut_resnet(module: Any) -> tuple[Step, ...]:
    layers = [
        Step(name, (name,), partial(_call, path=(name,))) for name in ("layer1", "layer2", "layer3", "layer4")
    ]
    stem = partial(_call, path=("conv1", "bn1", "act1", "maxpool"))
    return (Step("stem", (), stem), *layers, Step("pool", ("global_pool", "fc"), _pool_vector))


def _pool_efficientnet(module: Any, h: Any, positions: Positions) -> Any:
    # EfficientNet has its last convolution before the pooling, MobileNetV3 behind it (in forward_head).
    if hasattr(module, "bn2"):
        h = module.bn2(module.conv_head(h))
    return module.forward_head(h, pre_logits=True)


def _cut_efficientnet(module: Any) -> tuple[Step, ...]:
    names = [f"blocks.{index}" for index in range(len(module.blocks))]
    blocks = [Step(name, (name,), partial(_call, path=(name,))) for name in names]
    head = ("conv_head", "bn2", "norm_head", "act2", "global_pool", "classifier")
    stem = partial(_call, path=("conv_stem", "bn1"))
    return (Step("stem", (), stem), *blocks, Step("pool", head, _pool_efficientnet))


def _cut_convnext(module: Any) -> tuple[Step, ...]:
    names = [f"stages.{index}" for index in range(len(module.stages))]
    stages = [Step(name, (name,), partial(_call, path=(name,))) for name in names]
    pool = Step("pool", ("norm_pre", "head"), partial(_pool_vector, norm="norm_pre"))
    return (Step("stem", (), partial(_call, path=("stem",))), *stages, pool)


def _cut_swin(module: Any) -> tuple[Step, ...]:
    names = [f"layers.{index}" for index in range(len(module.layers))]
    layers = [Step(name, (name,), partial(_call, path=(name,))) for name in names]
    pool = Step("pool", ("norm", "head"), partial(_pool_vector, norm="norm"))
    return (Step("embed", (), partial(_call, path=("patch_embed",))), *layers, pool)


def _whole(module: Any, h: Any, positions: Positions) -> Any:
    return module(h)


def _cut_nothing(module: Any) -> tuple[Step, ...]:
    return (Step("model", (), _whole),)


OPAQUE = Family("opaque", "nchw", _cut_nothing)
_VIT = Family("vit", "tokens", partial(_cut_tokens, embed=_embed_vit, block=None))
_EVA = Family("vit", "tokens", partial(_cut_tokens, embed=_embed_eva, block=_block_eva), _rope_eva)
_BEIT = Family("vit", "tokens", partial(_cut_tokens, embed=_embed_beit, block=_block_beit), _bias_beit)
_RESNET = Family("resnet", "nchw", _cut_resnet)
_EFFICIENTNET = Family("efficientnet", "nchw", _cut_efficientnet)
_CONVNEXT = Family("convnext", "nchw", _cut_convnext)
_SWIN = Family("swin", "nhwc", _cut_swin)

# By timm's source file.
FAMILIES = {
    "vision_transformer": _VIT,
    "deit": _VIT,
    "eva": _EVA,
    "beit": _BEIT,
    "resnet": _RESNET,
    "efficientnet": _EFFICIENTNET,
    "mobilenetv3": _EFFICIENTNET,
    "convnext": _CONVNEXT,
    "swin_transformer": _SWIN,
    "swin_transformer_v2": _SWIN,
}
