"""``unfreeze evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

from unfreeze.cli.options import DATA_HELP, GroupColumn, ImageColumn, JsonOutput, LabelColumn, TextColumn


def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder, or its URL.")],
    data: Annotated[str, typer.Argument(help=DATA_HELP + " All of its labelled rows are scored.")],
    json_output: JsonOutput = False,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    part: Annotated[
        str | None, typer.Option(help="Only this part of data that come in parts: train, val or test.")
    ] = None,
) -> None:
    """Score a trained run on labelled DATA."""
    from unfreeze.cli.console import TerminalProgress, make_console, print_json
    from unfreeze.evaluation import evaluate_run
    from unfreeze.progress import Silent

    evaluation = evaluate_run(
        run,
        data,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        part=part,
        progress=Silent() if json_output else TerminalProgress(),
    )
    if json_output:
        print_json(evaluation.to_dict())
    else:
        from unfreeze.report.listings import print_scores

        print_scores(evaluation.to_dict(), make_console())
