"""``unfreeze.train``: the command's settings as keyword arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unfreeze.config import TrainRequest
from unfreeze.progress import Progress
from unfreeze.run import Run
from unfreeze.run import train as run_train


def train(
    data: Any,
    *,
    output_dir: str | Path | None = None,
    backbone: str | None = None,
    strategy: str | None = None,
    recipe: str | None = None,
    head: str | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    fit: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    store: str | None = None,
    val: Any = None,
    test: Any = None,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    stratify_column: str | None = None,
    precision_target: float | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    freeze: int | None = None,
    layer_decay: float | None = None,
    bn: str | None = None,
    augment: str | None = None,
    views: int | None = None,
    pull_to_start: float | None = None,
    schedule: str | None = None,
    patience: int | None = None,
    label_smoothing: float | None = None,
    mixup: float | None = None,
    token_dropout: float | None = None,
    ema: float | None = None,
    interpolate: bool | None = None,
    rank: int | None = None,
    alpha: float | None = None,
    lora_dropout: float | None = None,
    targets: str | None = None,
    lora_blocks: int | None = None,
    reduction: int | None = None,
    store_budget: str | None = None,
    resume: bool | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """The finished run; see ``unfreeze train --help`` for what each setting means.

    ``data``: a path, a hub data set id, or a pair of inputs (paths, PIL images, uint8 arrays, strings) and labels.
    Raises RequestError when the request or its data cannot be used.
    """
    request = TrainRequest(
        data=data,
        output_dir=None if output_dir is None else Path(output_dir),
        backbone=backbone,
        strategy=strategy,
        recipe=recipe,
        head=head,
        batch_size=batch_size,
        image_size=image_size,
        fit=fit,
        max_length=max_length,
        pooling=pooling,
        store=store,
        val=val,
        test=test,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        stratify_column=stratify_column,
        precision_target=precision_target,
        epochs=epochs,
        lr=lr,
        freeze=freeze,
        layer_decay=layer_decay,
        bn=bn,
        augment=augment,
        views=views,
        pull_to_start=pull_to_start,
        schedule=schedule,
        patience=patience,
        label_smoothing=label_smoothing,
        mixup=mixup,
        token_dropout=token_dropout,
        ema=ema,
        interpolate=interpolate,
        rank=rank,
        alpha=alpha,
        lora_dropout=lora_dropout,
        targets=targets,
        lora_blocks=lora_blocks,
        reduction=reduction,
        store_budget=store_budget,
        resume=resume,
        seed=seed,
        device=device,
        precision=precision,
    )
    return run_train(request, progress=progress)
