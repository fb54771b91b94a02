"""What weights are worth on validation rows, and which mix of two sets of weights is worth most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unfreeze.contracts import Backbone, State
from unfreeze.engine.ranks import carried
from unfreeze.engine.state import Weights
from unfreeze.engine.suffix import Suffix
from unfreeze.engine.task import Judged, Task
from unfreeze.engine.trainable import LORA_A, judge_mode
from unfreeze.evaluate.calibration import fit_temperature
from unfreeze.executors.halving import in_halves
from unfreeze.heads.weights import row_log_loss

if TYPE_CHECKING:
    from unfreeze.engine.prefix import Prefix

# Shares of the trained weights that are tried between start and end (WiSE-FT).
MIXES = (0.25, 0.5, 0.75)
# What picking the best of many noisy epochs must not explain, at this level, to be taken for more than luck.
LEVEL = 0.05
# Without gradients an accelerator has room for more rows at a time, and waits less for each batch.
LARGER = {"cpu": 1, "cuda": 4, "mps": 1}


def score(backbone: Backbone, head: nn.Module, task: Task, prefix: Prefix, *, batch_size: int) -> Judged:
    """What the present weights are worth on the task's validation rows.

    Computed in the prefix's precision, each row once by one of the task's ranks, in smaller batches where memory ends.
    Rows weigh as their classes do in training. Both modules are left in evaluation mode. Logits that are not finite
    give an infinite log-loss.
    """
    assert task.val is not None
    y, ranks = task.val.y, task.ranks
    share = ranks.share(len(y))
    loaded = ranks.loaded(np.arange(len(y)))
    places = task.val.inputs.by_length(loaded)
    judge_mode(backbone.module)
    head.eval()
    suffix = Suffix(backbone, prefix.boundary, task.device, prefix.precision, steps=0)

    def answers(state: State) -> Tensor:
        found: Tensor = head(suffix(state)).float()
        return found

    logits = []
    with torch.no_grad(), carried():
        for state in prefix.val_batches(loaded[places], batch_size * LARGER[task.device.type]):
            # Where stages are cut over ranks, all of them meet in every pass: none may repeat it by itself.
            whole = ranks.sharding is not None
            logits.append(answers(state) if whole else in_halves(answers, state, _joined))
    in_order = torch.cat(logits)[torch.from_numpy(np.argsort(places)).to(task.device)]
    values = ranks.joined(in_order[: share.stop - share.start], len(y)).cpu().numpy()
    return ranks.lead(lambda: _judged(values, y, task.class_weight))


def _joined(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second])


def _judged(
    values: NDArray[np.float32], y: NDArray[np.int64], class_weight: NDArray[np.float32] | None
) -> Judged:
    accuracy = float((values.argmax(axis=1) == y).mean())
    if not np.isfinite(values).all():
        return Judged(np.full(len(y), np.inf), accuracy)
    # An overconfident network is no worse a classifier: it is judged as it will be shipped, calibrated.
    calibrated = values.astype(np.float64) / fit_temperature(values, y)
    losses = row_log_loss(calibrated, y)
    if class_weight is None:
        return Judged(losses, accuracy)
    weight = class_weight[y].astype(np.float64)
    return Judged(losses * weight / weight.mean(), accuracy)


def is_worse(last: NDArray[np.float64], best: NDArray[np.float64], *, looks: int) -> bool:
    """Whether losses of the same rows are higher beyond what choosing the luckiest of ``looks`` epochs explains.

    A one-sided paired t-test at 5 %, Bonferroni over the looks. One row, or losses that are not finite, tell nothing
    for the last: it is then the worse one.
    """
    from scipy.special import stdtrit

    worse, rows = last - best, len(last)
    if rows < 2 or not np.isfinite(worse).all():
        return True
    error = float(worse.std(ddof=1)) / rows**0.5
    return bool(worse.mean() > float(stdtrit(rows - 1, 1 - LEVEL / looks)) * error)


def load_best_mix(
    weights: Weights,
    start: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    *,
    backbone: Backbone,
    head: nn.Module,
    task: Task,
    prefix: Prefix,
    batch_size: int,
) -> float:
    """The share of the trained weights in the mix with the lowest log-loss (1.0 on a tie), which is put in place."""
    mixes: list[float] = [1.0, *MIXES]
    losses = []
    for mix in mixes:
        weights.load(interpolate(start, trained, mix))
        losses.append(score(backbone, head, task, prefix, batch_size=batch_size).log_loss)
    best = mixes[int(np.argmin(losses))]
    weights.load(interpolate(start, trained, best))
    return best


def interpolate(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], mix: float) -> dict[str, Tensor]:
    """Weights between start (0) and trained (1); what counts, such as the batches a norm has seen, is the trained.

    A low-rank update is a product that starts at zero: the share of one factor is the share of the update.
    """
    if mix == 1.0:
        return dict(trained)
    return {
        name: torch.lerp(start[name], tensor, mix)
        if tensor.is_floating_point() and LORA_A not in name
        else tensor
        for name, tensor in trained.items()
    }
