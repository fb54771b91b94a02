"""``unfreeze compare``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from unfreeze.cli.options import (
    DATA_HELP,
    MODEL,
    THAW,
    Augment,
    BatchSize,
    Device,
    Engine,
    GroupColumn,
    Head,
    ImageColumn,
    ImageSize,
    JsonOutput,
    LabelColumn,
    MaxLength,
    Precision,
    Recipe,
    Store,
    StratifyColumn,
    Test,
    TextColumn,
    Val,
    Workers,
    refuse_without_ray,
    share_or_data,
)


def compare(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    strategies: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between; settings behind a colon, as in lora:rank=16+lr=1e-3. "
            "(default: those that fit the backbone)"
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="How many seeds; each decides a split and an order for all that is compared.")
    ] = 3,
    train_size: Annotated[
        str | None,
        typer.Option(
            help="Rows to learn from; several, as in 50,100,200, draw a learning curve. (default: all)"
        ),
    ] = None,
    backbones: Annotated[
        str | None,
        typer.Option(help="Names to rank by a cross-validated probe; with --strategies all are trained too."),
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="For each training of auto, such as 90s or 1h. (default: 10m)")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="The folder to make. (default: runs/NAME-compare)")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue in --output-dir; what has finished is not trained again."),
    ] = False,
    json_output: JsonOutput = False,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with any setting of train, the same for all; flags win over it."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The one that all strategies start from.", rich_help_panel=MODEL)
    ] = None,
    head: Head = None,
    image_size: ImageSize = None,
    max_length: MaxLength = None,
    recipe: Recipe = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of every strategy that thaws.", rich_help_panel=THAW)
    ] = None,
    augment: Augment = None,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    stratify_column: StratifyColumn = None,
    val: Val = None,
    test: Test = None,
    batch_size: BatchSize = None,
    store: Store = None,
    device: Device = None,
    precision: Precision = None,
    engine: Engine = "local",
    workers: Workers = None,
) -> None:
    """Train strategies on the same splits of DATA, or rank backbones, and say in words what is worth it.

    Examples: [bold]unfreeze compare photos/ --strategies partial,full,lora --seeds 3[/bold];
    [bold]unfreeze compare mails.csv --strategies lora --train-size 50,100,200,400[/bold];
    [bold]unfreeze compare photos/ --backbones efficientnet-lite0,resnet18,vit_small_patch16_224[/bold]
    """
    from unfreeze.cli.console import TerminalProgress, make_console, print_json
    from unfreeze.comparing.request import make_request
    from unfreeze.comparing.run import compare as run_compare
    from unfreeze.config import TrainRequest, read_config
    from unfreeze.progress import Silent

    if engine == "local":
        refuse_without_ray(workers=workers)
    base = TrainRequest(
        data=data,
        backbone=backbone,
        time_limit=time_limit,
        head=head,
        image_size=image_size,
        max_length=max_length,
        recipe=recipe,
        epochs=epochs,
        augment=augment,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        stratify_column=stratify_column,
        val=share_or_data(val),
        test=share_or_data(test),
        batch_size=batch_size,
        store=store,
        device=device,
        precision=precision,
    )
    if config is not None:
        base = base.filled_from(read_config(config), source=f"--config {config}")
    request = make_request(
        base,
        strategies=strategies,
        seeds=seeds,
        train_size=train_size,
        backbones=backbones,
        output_dir=output_dir,
        resume=resume,
    )
    command = shlex.join(["unfreeze", *sys.argv[1:]])
    comparison = run_compare(
        request,
        command=command,
        progress=Silent() if json_output else TerminalProgress(),
        engine=engine,
        workers=workers,
    )
    if json_output:
        print_json(comparison.to_dict())
    else:
        comparison.print(make_console())
