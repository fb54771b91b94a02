"""Executors by name: which can run here, and one built for a backbone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.contracts import Backbone, Executor
from unfreeze.errors import RequestError, did_you_mean, missing_extra
from unfreeze.executors.processor import has_bf16

if TYPE_CHECKING:
    import torch

NAMES = ("openvino-fp32", "openvino-bf16", "torch-fp32", "torch-bf16")


def available_executors(device: str = "cpu") -> tuple[str, ...]:
    """Names of the executors that can run on ``device`` here, the usually fastest of each precision first."""
    unavailable = unavailable_executors(device)
    return tuple(name for name in NAMES if name not in unavailable)


def unavailable_executors(device: str = "cpu") -> dict[str, str]:
    """Why each of the other executors cannot run on ``device`` here."""
    reasons: dict[str, str] = {}
    kind = device.partition(":")[0]
    for name in NAMES:
        engine, _, precision = name.partition("-")
        if engine == "openvino" and kind != "cpu":
            reasons[name] = "runs on processors only"
        elif engine == "openvino" and importlib.util.find_spec("openvino") is None:
            reasons[name] = "OpenVINO is not installed (extra 'openvino')"
        elif precision == "bf16" and kind == "cpu" and not has_bf16():
            reasons[name] = "not available on this processor"
        elif precision == "bf16" and kind == "mps":
            reasons[name] = "not offered on mps"
    return reasons


def build_executor(
    name: str,
    backbone: Backbone,
    *,
    boundaries: tuple[int, ...],
    keep: tuple[int, ...] = (),
    cache_dir: Path | None = None,
    threads: int | None = None,
    device: str | torch.device = "cpu",
) -> Executor:
    """The executor ``name`` for summaries at ``boundaries`` and states at ``keep`` (ascending, each in 1..stages).

    ``cache_dir`` keeps converted models between processes (OpenVINO). ``threads``: how many
    cores it may use (default: all that this process may use; torch: what torch is set to).
    Raises RequestError for a name that is unknown or cannot run on ``device``.
    """
    if name not in NAMES:
        raise RequestError(
            f"The executor {name!r} is unknown: choose {', '.join(NAMES)}.{did_you_mean(name, NAMES)}"
        )
    _check_boundaries(backbone, boundaries, keep)
    engine, _, precision = name.partition("-")
    reason = unavailable_executors(str(device)).get(name)
    if reason is not None:
        if "extra" in reason:
            raise missing_extra("openvino", f"The executor {name}")
        raise RequestError(f"The executor {name} cannot run on {device}: {reason}.")
    if engine == "openvino":
        from unfreeze.executors.openvino_ import build_openvino

        return build_openvino(
            backbone,
            precision=precision,
            boundaries=boundaries,
            keep=keep,
            cache_dir=cache_dir,
            threads=threads,
        )
    from unfreeze.executors.torch_ import TorchExecutor

    return TorchExecutor(
        backbone,
        precision=precision,
        boundaries=boundaries,
        keep=keep,
        threads=threads,
        device=device,
    )


def _check_boundaries(backbone: Backbone, boundaries: tuple[int, ...], keep: tuple[int, ...]) -> None:
    depth = len(backbone.stages)
    if not boundaries and not keep:
        raise ValueError("an executor needs a boundary to give something at")
    for asked in (boundaries, keep):
        if list(asked) != sorted(set(asked)):
            raise ValueError(f"boundaries must ascend without repeats: {asked}")
        if any(not 1 <= boundary <= depth for boundary in asked):
            raise ValueError(f"boundaries {asked} do not lie in 1..{depth}")
