"""``unfreeze compare``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from unfreeze.cli.train import COLUMNS, DATA_HELP, MACHINE, MEASURE, MODEL, THAW, share_or_data


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
    output_dir: Annotated[
        Path | None, typer.Option(help="The folder to make. (default: runs/NAME-compare)")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue in --output-dir; what has finished is not trained again."),
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with any setting of train, the same for all; flags win over it."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The one that all strategies start from.", rich_help_panel=MODEL)
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the square that images are resized to.", rich_help_panel=MODEL),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest text in tokens.", rich_help_panel=MODEL)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of every strategy that thaws.", rich_help_panel=THAW)
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
    stratify_column: Annotated[
        str | None, typer.Option(help="Balance this column over the parts too.", rich_help_panel=COLUMNS)
    ] = None,
    val: Annotated[
        str | None, typer.Option(help="Validation data, or a share of the rows.", rich_help_panel=MEASURE)
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Test data, or a share of the rows.", rich_help_panel=MEASURE)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a batch.", rich_help_panel=MACHINE)] = None,
    store: Annotated[
        str | None, typer.Option(help="auto, on or off: keep features on disk.", rich_help_panel=MACHINE)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=MACHINE)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32 or bf16 for the frozen pass.", rich_help_panel=MACHINE)
    ] = None,
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

    base = TrainRequest(
        data=data,
        backbone=backbone,
        image_size=image_size,
        max_length=max_length,
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
        request, command=command, progress=Silent() if json_output else TerminalProgress()
    )
    if json_output:
        print_json(comparison.to_dict())
    else:
        comparison.print(make_console())
