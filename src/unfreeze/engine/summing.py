"""Sums over ranks that gradients pass, and batch statistics over the rows of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from unfreeze.engine.ranks import Ranks


class Sum(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, add_up: Callable[[Tensor], None]) -> Tensor:
        """``add_up`` replaces a tensor by its sum over all ranks."""
        ctx.add_up = add_up
        summed = tensor.clone()
        add_up(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """See ``torch.autograd.Function``."""
        gradient = gradients[0].clone()
        ctx.add_up(gradient)
        return gradient, None


class SharedStatistics(TorchFunctionMode):
    """Within it, batch normalisation in training takes mean and variance over the rows of all ranks.

    ``torch.nn.SyncBatchNorm`` does so on GPUs alone, and knows nothing of layers that other libraries derive from
    batch normalisation; all of them call ``functional.batch_norm``. ``rows``: how many of this rank's rows count.
    """

    def __init__(self, ranks: Ranks, rows: int) -> None:
        super().__init__()
        self._ranks, self._rows = ranks, rows

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See ``TorchFunctionMode``."""
        if func is functional.batch_norm:
            return self._normalise(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _normalise(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        axes = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        wide = x.float()
        counted = wide[: self._rows]
        size = counted.new_full((1,), counted.numel() / max(1, x.shape[1]))
        sums = self._ranks.summed(torch.cat([counted.sum(axes), size]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean.view(shape)
        var = self._ranks.summed(centred[: self._rows].square().sum(axes)) / count
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((var * count / (count - 1)).to(running_var.dtype), momentum)
        out = centred * (var + eps).rsqrt().view(shape)
        if weight is not None:
            out = out * weight.view(shape)
        if bias is not None:
            out = out + bias.view(shape)
        return out.to(x.dtype)
