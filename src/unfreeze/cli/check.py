"""``unfreeze check``."""

from __future__ import annotations

from typing import Annotated

import typer

from unfreeze.cli.options import (
    DATA_HELP,
    GroupColumn,
    ImageColumn,
    JsonOutput,
    LabelColumn,
    StratifyColumn,
    Test,
    TextColumn,
    Val,
    share_or_data,
)


def check(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    json_output: JsonOutput = False,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    backbone: Annotated[
        str | None, typer.Option(help="Count text lengths with this backbone's tokenizer.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest text in tokens, for the share that would be cut.")
    ] = None,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    stratify_column: StratifyColumn = None,
    val: Val = None,
    test: Test = None,
) -> None:
    """Audit DATA: what was found, what is wrong, what was ignored. Trains nothing."""
    from unfreeze.auditing import audit_data, refuse_unreadable
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
        stratify_column=stratify_column,
        val=share_or_data(val),
        test=share_or_data(test),
    )
    audited = audit_data(request, progress=Silent() if json_output else TerminalProgress())
    if json_output:
        print_json(audited.to_dict())
    else:
        from unfreeze.report.listings import print_audit

        print_audit(audited.to_dict(), make_console())
    refuse_unreadable(audited)
