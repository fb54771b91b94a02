"""Dropout and attention of training steps on a processor, faster than PyTorch's, and a convolution that is safe.

PyTorch draws a processor's dropout one number after the other, and an attention that drops leaves its fused kernel for
one that computes in float32. A step of MiniLM on 16 texts of 256 tokens in bf16 took 1.4 s so, and 0.7 s in this way
(Intel Xeon, 2 cores, bench/dropping.py). What is dropped keeps its distribution: each element by itself, with the same
probability to 2^-16, the rest scaled up.

The weights' gradient of a convolution of single pixels with a stride writes past its memory in oneDNN, for few channels
that lie channels_last: RepVGG, GerNet and FastViT have one, and ended the process sooner or later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# In bf16 PyTorch's fused kernel takes longer than plain matrix products, forward and backward: 12 heads of 32 on 16
# texts of 128 tokens 34 and 11 ms, of 257 58 and 41 ms, of 512 137 and 248 ms. In float32 it is the faster one.
FEW_TOKENS = 288
# Of a drawn number; a probability is met to half of one in so many.
LEVELS = 2**16
# Of up to 15 channels, in float32 and bf16, memory was damaged, and of 16 to 100 it was not (PyTorch 2.14, AVX-512).
MANY_CHANNELS = 16
PER_WORD = 4


class ProcessorKernels(TorchFunctionMode):
    """Within it, dropout, attention that drops, short attention in bf16 and convolutions like the above are done here.

    What is drawn follows from the state of PyTorch's generator, as it does without, and is not the same.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See ``TorchFunctionMode``."""
        found = None
        if func is functional.dropout:
            found = _dropped(*args, **(kwargs or {}))
        elif func is functional.scaled_dot_product_attention:
            found = _attended(*args, **(kwargs or {}))
        elif func is torch.conv2d:
            found = _convolved(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if found is None else found


def _dropped(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor | None:
    """``functional.dropout``, or None where there is nothing to draw or the tensor is to be changed in place."""
    if not training or inplace or not _draws(p) or input.device.type != "cpu":
        return None
    return drop(input, p)


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """``functional.scaled_dot_product_attention``, or None where its own kernel is the better one."""
    # A bias that is learnt, as of relative positions, needs a gradient that is not computed here.
    learnt = attn_mask is not None and attn_mask.requires_grad
    if is_causal or enable_gqa or learnt or query.device.type != "cpu":
        return None
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    few = kind == torch.bfloat16 and key.shape[-2] <= FEW_TOKENS
    if not _draws(dropout_p) and (dropout_p or not few):
        return None
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        query, key, value = (query * scale).to(kind), key.to(kind), value.to(kind)
        attended: Tensor = _Attention.apply(query, key, value, attn_mask, dropout_p)
    return attended


def _convolved(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    """``functional.conv2d`` of the pixels that its stride leaves, or None where it is not of a few channels of them."""
    down, across = (stride, stride) if isinstance(stride, int) else (stride[0], stride[-1])
    single = weight.shape[2:] == (1, 1) and groups == 1 and not _pads(padding)
    if not single or max(down, across) == 1 or weight.shape[1] >= MANY_CHANNELS or input.device.type != "cpu":
        return None
    return torch.conv2d(input[..., ::down, ::across].contiguous(), weight, bias)


def _pads(padding: str | int | Sequence[int]) -> bool:
    if isinstance(padding, str):
        return padding != "valid"
    return bool(padding) if isinstance(padding, int) else any(padding)


def _draws(p: float) -> bool:
    """Whether chance decides; what drops nothing or everything is PyTorch's."""
    return 0 < _level(p) < LEVELS


def _level(p: float) -> int:
    return round(p * LEVELS)


def drop(x: Tensor, p: float) -> Tensor:
    """``x`` with each element zero with probability ``p``, the others divided by 1 - ``p``."""
    dropped: Tensor = _Drop.apply(x, p)
    return dropped


def _kept(shape: torch.Size, p: float) -> Tensor:
    """1 where an element stays, else 0, uint8; seeded by the next number of PyTorch's generator."""
    seed = int(torch.randint(2**62, ()))
    words = np.random.SFC64(seed).random_raw(-(-shape.numel() // PER_WORD))
    drawn = torch.from_numpy(words.view(np.int16)[: shape.numel()]).view(shape)
    # As a number and not as a truth: turned into bf16 it takes a fifth of the time.
    return (drawn >= _level(p) - LEVELS // 2).view(torch.uint8)


def _of(kept: Tensor, x: Tensor) -> Tensor:
    """``x`` with zeros where it was not kept."""
    return kept.to(x.dtype).mul_(x)


def _scale(p: float) -> float:
    return LEVELS / (LEVELS - _level(p))


class _Drop(torch.autograd.Function):
    """Keeps one byte an element for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        """See ``torch.autograd.Function``."""
        kept = _kept(x.shape, p)
        ctx.save_for_backward(kept)
        ctx.scale = _scale(p)
        return _of(kept, x).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """See ``torch.autograd.Function``."""
        (kept,) = ctx.saved_tensors
        return _of(kept, gradients[0]).mul_(ctx.scale), None


class _Attention(torch.autograd.Function):
    """Of scaled queries (..., rows, width); keeps the shares and one byte for each of them, and no product of both."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, p: float) -> Tensor:
        """See ``torch.autograd.Function``."""
        scores = query @ key.transpose(-2, -1)
        blind = None
        if mask is not None and mask.dtype == torch.bool:
            scores.masked_fill_(~mask, float("-inf"))
            blind = ~mask.any(dim=-1, keepdim=True)
        elif mask is not None:
            bias = mask.to(scores.dtype)
            scores += bias
            blind = (bias == float("-inf")).all(dim=-1, keepdim=True)
        shares = scores.softmax(dim=-1)
        # A padded token beyond a sliding window sees nothing: like PyTorch's, it then attends to nothing.
        if blind is not None and blind.any():
            shares.masked_fill_(blind, 0.0)
        kept = _kept(shares.shape, p) if _draws(p) else None
        ctx.save_for_backward(query, key, value, shares, kept)
        ctx.scale = 1.0 if kept is None else _scale(p)
        # The answer is smaller than the shares: it is what is scaled.
        return ((shares if kept is None else _of(kept, shares)) @ value).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """See ``torch.autograd.Function``."""
        query, key, value, shares, kept = ctx.saved_tensors
        gradient = gradients[0] * ctx.scale
        of_shares, dropped = gradient @ value.transpose(-2, -1), shares
        if kept is not None:
            of_shares, dropped = _of(kept, of_shares), _of(kept, shares)
        of_value = dropped.transpose(-2, -1) @ gradient
        of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
        return of_scores @ key, of_scores.transpose(-2, -1) @ query, of_value, None, None
