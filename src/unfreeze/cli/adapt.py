"""``unfreeze adapt``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from unfreeze.cli.options import MACHINE, Device, JsonOutput


def adapt(
    run: Annotated[Path, typer.Argument(help="The folder of a trained run.")],
    target: Annotated[
        list[str],
        typer.Option(
            help="Unlabelled data of the new domain: a folder, files, or a table. Several are steps of a change, in "
            "their order."
        ),
    ],
    output_dir: Annotated[
        Path | None, typer.Option(help="The folder to make. (default: runs/NAME-adapted)")
    ] = None,
    method: Annotated[
        str, typer.Option(help="auto, norm, align, self-training, gradual, labels, pseudo-label or strong.")
    ] = "auto",
    threshold: Annotated[
        float | None, typer.Option(help="Confidence of a label, for pseudo-label. (default: 0.9)")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="The data the run was trained on, where it has moved. (default: where it was)"),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Column of a table that holds the input, of --target and of --target-labels."),
    ] = None,
    order_column: Annotated[
        str | None, typer.Option(help="Column of a table that orders the target's rows, for gradual.")
    ] = None,
    target_labels: Annotated[
        str | None,
        typer.Option(help="A few labelled rows of the target: from 10 on they decide."),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Column that holds the labels, of --target-labels and for --report-target-accuracy. (default: found)"
        ),
    ] = None,
    report_target_accuracy: Annotated[
        bool,
        typer.Option(
            "--report-target-accuracy",
            help="Score both models on the target's own labels when all is decided, for the report alone.",
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Makes all that is random repeatable.", rich_help_panel=MACHINE)
    ] = 0,
    device: Device = None,
    json_output: JsonOutput = False,
) -> None:
    """Meet a new domain without labels: adapt RUN to it when that helps, keep it otherwise, and say why.

    Example: [bold]unfreeze adapt runs/cells --target new_camera/[/bold]
    """
    from unfreeze.adapting.request import AdaptRequest
    from unfreeze.adapting.run import adapt as run_adapt
    from unfreeze.cli.console import TerminalProgress, make_console, print_json
    from unfreeze.progress import Silent

    request = AdaptRequest(
        run=run,
        target=tuple(target),
        output_dir=output_dir,
        method=method,
        threshold=threshold,
        source=source,
        column=column,
        order_column=order_column,
        target_labels=target_labels,
        label_column=label_column,
        report_target_accuracy=report_target_accuracy,
        seed=seed,
        device=device or "auto",
    )
    command = shlex.join(["unfreeze", *sys.argv[1:]])
    adaptation = run_adapt(request, command=command, progress=Silent() if json_output else TerminalProgress())
    if json_output:
        print_json(adaptation.to_dict())
    else:
        adaptation.print(make_console())
