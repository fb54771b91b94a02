"""What a step minimises, and what an epoch is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.chance import uniforms

if TYPE_CHECKING:
    from torch import Tensor

_MIXUP_ROUND = 1 << 33
# Of the similarities between rows, as in the paper's own measurements of it.
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Mix:
    """Mixup of a batch (Zhang et al. 2017): each row keeps its ``share`` (rows,) and takes the rest of its partner."""

    share: NDArray[np.float32]
    partner: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Mixed:
    """The classes (batch,) of the rows' partners, and the shares (batch,) that the rows keep of their own."""

    share: Tensor
    other: Tensor

    def rows(self, chosen: slice) -> Mixed:
        """Those of some rows."""
        return Mixed(self.share[chosen], self.other[chosen])


def draw_mix(alpha: float, *, seed: int, step: int, rows: int) -> Mix | None:
    """The mix of a step, each row's share from Beta(alpha, alpha); a function of seed and step."""
    if alpha <= 0:
        return None
    from scipy.stats import beta

    chance = uniforms(seed, step + _MIXUP_ROUND, np.arange(2 * rows, dtype=np.uint64), 1)[:, 0]
    share = beta.ppf(chance[:rows], alpha, alpha).astype(np.float32)
    return Mix(share=np.maximum(share, 1 - share), partner=np.argsort(chance[rows:], kind="stable"))


def cross_entropy(
    logits: Tensor, y: Tensor, *, weight: Tensor | None, smoothing: float, mixed: Mixed | None = None
) -> Tensor:
    """Summed weighted cross-entropy of a batch; the caller divides by ``batch_weight``.

    A row counts as much as its own class, smoothed or not. PyTorch weighs the smoothed share of each class by that
    class: beside a rare one, rows of a frequent class would be drawn to it.
    """
    from torch.nn import functional

    def of_rows(target: Tensor) -> Tensor:
        if weight is None or not smoothing:
            return functional.cross_entropy(
                logits.float(), target, weight=weight, label_smoothing=smoothing, reduction="none"
            )
        rows = functional.cross_entropy(logits.float(), target, label_smoothing=smoothing, reduction="none")
        return weight[target] * rows

    if mixed is None:
        return of_rows(y).sum()
    return (mixed.share * of_rows(y) + (1 - mixed.share) * of_rows(mixed.other)).sum()


def pair_loss(features: Tensor, y: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020), summed over rows: each against those of its class in the batch.

    ``features`` (rows, dim) in any scale, ``y`` (rows,). A row that is the only one of its class counts nothing, nor do
    rows that are all of one class: there is nothing to draw them apart from.
    """
    import torch
    from torch.nn import functional

    unit = functional.normalize(features.float(), dim=1)
    alone = torch.eye(len(y), dtype=torch.bool, device=y.device)
    similar = (unit @ unit.T / TEMPERATURE).masked_fill(alone, float("-inf"))
    log_share = (similar - similar.logsumexp(dim=1, keepdim=True)).masked_fill(alone, 0.0)
    same = y[:, None] == y[None]
    alike = same & ~alone & ~same.all()
    return -((log_share * alike).sum(dim=1) / alike.sum(dim=1).clamp(min=1)).sum()


def batch_weight(y: Tensor, weight: Tensor | None) -> float | Tensor:
    """What a summed loss is divided by, so that micro-batches add up to the mean over the whole batch."""
    return float(len(y)) if weight is None else weight[y].sum()
