"""``unfreeze check``."""

from __future__ import annotations

from typing import Annotated

import typer

from unfreeze.cli.train import COLUMNS, DATA_HELP, MEASURE, share_or_data


def check(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    backbone: Annotated[
        str | None, typer.Option(help="Count text lengths with this backbone's tokenizer.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest text in tokens, for the share that would be cut.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column with the text.", rich_help_panel=COLUMNS)
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column with the image.", rich_help_panel=COLUMNS)
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column with the label.", rich_help_panel=COLUMNS)
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Rows of one group stay together.", rich_help_panel=COLUMNS)
    ] = None,
    val: Annotated[
        str | None, typer.Option(help="Validation data, or a share.", rich_help_panel=MEASURE)
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test data, or a share.", rich_help_panel=MEASURE)] = None,
) -> None:
    """Audit DATA: what was found, what is wrong, what was ignored. Trains nothing."""
    from unfreeze.auditing import audit_data
    from unfreeze.cli.console import TerminalProgress, make_console, print_json
    from unfreeze.config import TrainRequest
    from unfreeze.progress import Silent

    request = TrainRequest(
        data=data,
        seed=seed,
        backbone=backbone,
        max_length=max_length,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        val=share_or_data(val),
        test=share_or_data(test),
    )
    audited = audit_data(request, progress=Silent() if json_output else TerminalProgress())
    if json_output:
        print_json(audited.to_dict())
    else:
        from unfreeze.report.listings import print_audit

        print_audit(audited.to_dict(), make_console())
