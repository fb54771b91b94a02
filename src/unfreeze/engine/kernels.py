"""Dropout and attention of training steps on a processor, faster than PyTorch's.

PyTorch draws a processor's dropout one number after the other, and an attention that drops leaves its fused kernel for
one that computes in float32. A step of MiniLM on 16 texts of 256 tokens in bf16 took 1.4 s so, and 0.7 s in this way
(Intel Xeon, 2 cores, bench/dropping.py). What is dropped keeps its distribution: each element by itself, with the same
probability to 2^-16, the rest scaled up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# In bf16 PyTorch's fused kernel takes longer than plain matrix products, forward and backward: 12 heads of 32 on 16
# texts of 128 tokens 34 and 11 ms, of 257 58 and 41 ms, of 512 137 and 248 ms. In float32 it is the faster one.
FEW_TOKENS = 288
# Of a drawn number; a probability is met to half of one in so many.
LEVELS = 2**16
PER_WORD = 4


class ProcessorKernels(TorchFunctionMode):
    """Within it, ``functional.dropout``, attention that drops, and short attention in bf16 are computed here.

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
    if is_causal or enable_gqa or query.device.type != "cpu":
        return None
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    few = kind == torch.bfloat16 and key.shape[-2] <= FEW_TOKENS
    if not _draws(dropout_p) and (dropout_p or not few):
        return None
    with torch.autocast("cpu", enabled=False):
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask.to(kind)
        shares = scores.softmax(dim=-1)
        return (drop(shares, dropout_p) if _draws(dropout_p) else shares) @ value


def _draws(p: float) -> bool:
    """Whether chance decides; what drops nothing or everything is PyTorch's."""
    return 0 < _level(p) < LEVELS


def _level(p: float) -> int:
    return round(p * LEVELS)


def drop(x: Tensor, p: float) -> Tensor:
    """``x`` with each element zero with probability ``p``, the others divided by 1 - ``p``."""
    dropped: Tensor = _Drop.apply(x, p)
    return dropped


def _keep(shape: torch.Size, p: float) -> Tensor:
    """Which elements stay, bool; seeded by the next number of PyTorch's generator."""
    seed = int(torch.randint(2**62, ()))
    words = np.random.SFC64(seed).random_raw(-(-shape.numel() // PER_WORD))
    drawn = torch.from_numpy(words.view(np.int16)[: shape.numel()]).view(shape)
    return drawn >= _level(p) - LEVELS // 2


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, p: float) -> Tensor:
        """See ``torch.autograd.Function``."""
        factor = _keep(x.shape, p).to(x.dtype).mul_(LEVELS / (LEVELS - _level(p)))
        ctx.save_for_backward(factor)
        return x * factor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """See ``torch.autograd.Function``."""
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None
