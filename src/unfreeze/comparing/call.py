"""``unfreeze.compare``: the command's settings as keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unfreeze.comparing.comparison import Comparison
from unfreeze.comparing.request import SEEDS, make_request
from unfreeze.comparing.run import compare as run_compare
from unfreeze.config import TrainRequest
from unfreeze.progress import Progress


def compare(
    data: Any,
    *,
    strategies: Sequence[str] | str | None = None,
    seeds: int | Sequence[int] = SEEDS,
    train_size: int | Sequence[int] | None = None,
    backbones: Sequence[str] | str | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    backbone: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    val: Any = None,
    test: Any = None,
    engine: str = "local",
    workers: int | None = None,
    settings: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Strategies, or backbones, on the same splits: results with intervals, a verdict in words, and a page.

    ``strategies``: names, each with settings of its own behind a colon (``lora:rank=16+lr=1e-3``); by default those
    that fit the backbone. ``seeds``: how many, or which. ``train_size``: how many rows to learn from; several draw a
    learning curve. ``backbones`` are ranked by a cross-validated probe, and with ``strategies`` also trained.
    ``engine``: ``local``, ``ray`` or ``ray://HOST:PORT``; ``workers``: how many trainings at a time on Ray.
    ``settings``: whatever else ``unfreeze.train`` takes, the same for all. The other arguments are those of
    ``unfreeze.train``. Raises RequestError when the request or its data cannot be used, UnfreezeError when nothing
    finished, and StoppedError when it is asked to stop: what had finished is kept, and ``resume`` goes on from there.
    """
    base = TrainRequest(
        data=data,
        backbone=backbone,
        image_size=image_size,
        max_length=max_length,
        epochs=epochs,
        batch_size=batch_size,
        val=val,
        test=test,
    )
    request = make_request(
        base.filled_from(settings or {}, source="settings"),
        strategies=strategies,
        seeds=seeds,
        train_size=train_size,
        backbones=backbones,
        output_dir=output_dir,
        resume=resume,
    )
    return run_compare(request, progress=progress, engine=engine, workers=workers)
