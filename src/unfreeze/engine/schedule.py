"""The rate of a step as a pure function: nothing to step, nothing to save."""

from __future__ import annotations

import math

from unfreeze.plan import Phase


def rate_factor(phase: Phase, step: int, steps: int) -> float:
    """What the peak rate is multiplied with at ``step`` of ``steps`` (from 0): linear warm-up, then the schedule."""
    warmup = min(round(phase.warmup * steps), steps - 1) if steps > 1 else 0
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if phase.schedule == "constant":
        return 1.0
    share = (step - warmup) / max(1, steps - warmup)
    return 1 - share if phase.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))
