"""``unfreeze plan``: the everyday options of ``train``; its finer ones come by ``--config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unfreeze.cli.options import (
    DATA_HELP,
    THAW,
    Augment,
    BatchSize,
    Device,
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
    TrainSize,
    Val,
    share_or_data,
)


def plan(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    backbone: Annotated[str | None, typer.Option(help="As for train.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Weigh this strategy alone. (default: auto, which weighs all)")
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(help="What --strategy auto would have, such as 90s or 1h. (default: 10m)"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the split. (default: 0)")] = None,
    json_output: JsonOutput = False,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with any setting of train; flags win over it."),
    ] = None,
    head: Head = None,
    image_size: ImageSize = None,
    max_length: MaxLength = None,
    recipe: Recipe = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of every plan. (default: by strategy and rows)", rich_help_panel=THAW),
    ] = None,
    augment: Augment = None,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    stratify_column: StratifyColumn = None,
    val: Val = None,
    test: Test = None,
    train_size: TrainSize = None,
    batch_size: BatchSize = None,
    store: Store = None,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Say what is known of DATA, what each strategy would take here, and what the rules would choose. Trains nothing.

    Example: [bold]unfreeze plan photos/[/bold]
    """
    from unfreeze.cli.console import TerminalProgress, make_console, print_json
    from unfreeze.config import TrainRequest, read_config
    from unfreeze.planned import look_ahead
    from unfreeze.progress import Silent

    request = TrainRequest(
        data=data,
        backbone=backbone,
        strategy=strategy,
        time_limit=time_limit,
        seed=seed,
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
        train_size=train_size,
        batch_size=batch_size,
        store=store,
        device=device,
        precision=precision,
    )
    if config is not None:
        request = request.filled_from(read_config(config), source=f"--config {config}")
    outlook = look_ahead(request, progress=Silent() if json_output else TerminalProgress()).to_dict()
    if json_output:
        print_json(outlook)
    else:
        from unfreeze.report.outlook import print_outlook

        print_outlook(outlook, make_console())
