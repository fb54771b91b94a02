"""How far one executor's numbers are from another's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unfreeze.contracts import Executor, State
from unfreeze.errors import UnfreezeError


@dataclass(frozen=True)
class ExecutorError:
    """The difference from a reference over ``rows`` rows and all boundaries.

    ``max_abs``: the largest difference of one number. ``relative_median`` and ``relative_max``: of
    ``||a - b|| / ||b||`` over every row at every boundary.
    """

    max_abs: float
    relative_median: float
    relative_max: float
    rows: int


def measure_error(executor: Executor, reference: Executor, batches: Iterable[State]) -> ExecutorError:
    """The difference between two executors built for the same boundaries, on the same raw batches.

    Numbers that are not finite count as infinitely wrong. Raises UnfreezeError when there is no row to
    compare or the shapes differ.
    """
    import torch

    relative: list[torch.Tensor] = []
    max_abs, rows = 0.0, 0
    for batch in batches:
        got, wanted = executor(batch).summaries, reference(batch).summaries
        rows += len(batch.h)
        for a, b in zip(got, wanted, strict=True):
            if a.shape != b.shape:
                raise UnfreezeError(
                    f"{executor.name} gave {tuple(a.shape)} where {reference.name} gave {tuple(b.shape)}."
                )
            difference = torch.nan_to_num(a.double() - b.double(), nan=float("inf"))
            norm = torch.linalg.vector_norm(b.double(), dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            relative.append(torch.linalg.vector_norm(difference, dim=1) / norm)
            max_abs = max(max_abs, float(difference.abs().max()) if difference.numel() else 0.0)
    if not rows:
        raise UnfreezeError(f"The error of {executor.name} cannot be measured without a readable row.")
    joined = torch.cat(relative)
    return ExecutorError(max_abs, float(joined.median()), float(joined.max()), rows)
