"""``unfreeze plan``: the everyday options of ``train``; its finer ones come by ``--config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unfreeze.cli.train import COLUMNS, DATA_HELP, MACHINE, MEASURE, MODEL, THAW, share_or_data


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
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with any setting of train; flags win over it."),
    ] = None,
    head: Annotated[str | None, typer.Option(help="linear or mlp.", rich_help_panel=MODEL)] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the square that images are resized to.", rich_help_panel=MODEL),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest text in tokens.", rich_help_panel=MODEL)
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="own, or classic: the guide's schedules.", rich_help_panel=THAW)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of every plan. (default: by strategy and rows)", rich_help_panel=THAW),
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="none, light, strong or dihedral.", rich_help_panel=THAW)
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column with the text.", rich_help_panel=COLUMNS)
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column with the image path or bytes.", rich_help_panel=COLUMNS)
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column with the label.", rich_help_panel=COLUMNS)
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Rows of one group stay in one part.", rich_help_panel=COLUMNS)
    ] = None,
    val: Annotated[
        str | None, typer.Option(help="Validation data, or a share.", rich_help_panel=MEASURE)
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test data, or a share.", rich_help_panel=MEASURE)] = None,
    train_size: Annotated[
        int | None, typer.Option(help="Learn from this many rows.", rich_help_panel=MEASURE)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows in a batch. (default: 32)", rich_help_panel=MACHINE)
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="auto, on or off, as for train.", rich_help_panel=MACHINE)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=MACHINE)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32 or bf16.", rich_help_panel=MACHINE)
    ] = None,
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
