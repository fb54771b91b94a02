"""The scale of a loss whose gradients are computed in float16 (Micikevicius et al. 2018, Mixed Precision Training).

Gradients of a loss near 1 are often smaller than float16 can hold. They are computed from the loss times a scale, and
divided by it before anything looks at them. A scale that is too large makes some of them infinite: that step is left
out and the scale halved; after many good steps it is doubled. PyTorch's own GradScaler waits for the device in every
step where the optimizer is not fused, and keeps its state apart from a checkpoint's tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from unfreeze.engine.devices import Precision

# PyTorch's defaults.
FIRST, GROWTH, BACKOFF, GOOD_STEPS = 2.0**16, 2.0, 0.5, 2000


def first_scale(precision: Precision, device: torch.device) -> dict[str, Tensor]:
    """``scale`` and ``good``, the steps since it last changed, as tensors on ``device``; empty where none is needed."""
    if precision != "fp16":
        return {}
    return {"scale": torch.tensor(FIRST, device=device), "good": torch.zeros((), device=device)}


def scaled(loss: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """What the backward pass starts from."""
    return loss * state["scale"] if state else loss


def unscale(gradients: Iterable[Tensor], state: Mapping[str, Tensor]) -> None:
    """Divide the gradients by the scale, in place."""
    if state and (found := list(gradients)):
        torch._foreach_mul_(found, 1 / state["scale"])


def adjust(state: Mapping[str, Tensor], finite: Tensor) -> None:
    """The next step's scale, in place: smaller after gradients that are not finite, larger after many that are."""
    if not state:
        return
    scale, good = state["scale"], state["good"]
    counted = torch.where(finite, good + 1, torch.zeros_like(good))
    grown = counted >= GOOD_STEPS
    factor = torch.where(finite, torch.where(grown, GROWTH, 1.0), BACKOFF)
    scale.mul_(factor)
    good.copy_(torch.where(grown, torch.zeros_like(good), counted))
