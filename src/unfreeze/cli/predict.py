"""``unfreeze predict``."""

from __future__ import annotations

import os
import sys
from fnmatch import fnmatch
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from unfreeze.cli.options import Engine, Workers


def predict(
    run: Annotated[str, typer.Argument(help="A run folder, an exported model.onnx, or the URL of one.")],
    inputs: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs, tables, URLs of them, or - for lines on standard input."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            help="Write rows to this .csv, .tsv, .jsonl or .parquet file, or URL; on Ray, to this folder."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="How many classes a row names.")] = 1,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    column: Annotated[
        str | None, typer.Option(help="Column of a table that holds the text or image.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in a batch.")] = 32,
    explain: Annotated[
        Path | None,
        typer.Option(
            help="Write to this new folder what speaks for each answer, and the training rows most like it."
        ),
    ] = None,
    engine: Engine = "local",
    workers: Workers = None,
    piece_rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="On Ray: rows that are written, and after a kill done again, together. (default: 2048)",
        ),
    ] = None,
) -> None:
    """Predict the class of files, texts or table rows with a trained run.

    Examples: [bold]unfreeze predict runs/photos new/*.jpg[/bold];
    [bold]echo "Win a prize" | unfreeze predict runs/mails -[/bold];
    [bold]unfreeze predict runs/mails mails/*.parquet --engine ray --output answers[/bold]
    """
    if engine != "local":
        if json_output or explain is not None:
            from unfreeze.errors import RequestError

            raise RequestError("--engine ray writes a folder: leave --json and --explain out.")
        from unfreeze.bulk.run import PIECE_ROWS, BulkRequest, predict_bulk
        from unfreeze.cli.console import TerminalProgress
        from unfreeze.runtime.remote import scrubbed

        request = BulkRequest(
            run=run,
            inputs=tuple(inputs),
            output=output,
            engine=engine,
            column=column,
            top_k=top_k,
            batch_size=batch_size,
            workers=workers,
            piece_rows=piece_rows or PIECE_ROWS,
        )
        written = predict_bulk(request, progress=TerminalProgress())
        typer.echo(
            f"{written.good:,} rows written to {scrubbed(output or '')}, {written.bad:,} bad ones beside",
            err=True,
        )
        return
    from unfreeze.bundle.claim import whole_or_nothing
    from unfreeze.bundle.places import run_folder
    from unfreeze.cli.console import TerminalProgress, print_json
    from unfreeze.cli.options import refuse_without_ray
    from unfreeze.errors import RequestError
    from unfreeze.predicting import open_predictor
    from unfreeze.runtime.predictions import check_output, write_predictions, write_rows
    from unfreeze.runtime.remote import scrubbed

    refuse_without_ray(workers=workers, piece_rows=piece_rows)
    if output is not None:
        check_output(output)
        refuse_own_input(output, inputs)
    folder = run_folder(run)
    model = open_predictor(folder)
    lines = read_lines() if "-" in inputs else None
    progress = TerminalProgress()
    samples = model.open_inputs(inputs, lines=lines, column=column, tell=progress.say)
    rows = model.iterate(samples, top_k=top_k, batch_size=batch_size)
    if explain is not None:
        from unfreeze.bundle.examples import read_examples
        from unfreeze.bundle.loading import read_bundle
        from unfreeze.explained import explained, open_folder
        from unfreeze.model import Model

        if not isinstance(model, Model):
            raise RequestError(
                f"--explain needs gradients, which an exported file has not: name the run instead of {run}."
            )
        open_folder(explain)
        examples = read_examples(folder, read_bundle(folder))
        rows = explained(model.classifier, samples, rows, explain, examples=examples)
    if output is not None:
        with whole_or_nothing(scrubbed(output), flag="--output"):
            count = write_predictions(rows, output, top_k=top_k)
        typer.echo(f"{count:,} rows written to {scrubbed(output)}", err=True)
        if json_output:
            print_json({"output": scrubbed(output), "rows": count})
    elif json_output:
        print_json({"predictions": [row.to_row(top_k) for row in rows]})
    else:
        write_rows((row.to_row(top_k) for row in rows), sys.stdout)
    for sentence in model.notes(len(samples)):
        progress.say(sentence)


def refuse_own_input(output: str, inputs: list[str]) -> None:
    """Raise RequestError where the rows would be written over a file that they are read from."""
    from unfreeze.errors import RequestError

    if not os.path.exists(output):  # noqa: PTH110 - a URL, or a path that cannot be, is no file
        return
    written = Path(output).resolve()
    for name in inputs:
        named = Path(os.path.abspath(name))  # noqa: PTH100 - a pattern does not resolve
        inside = named.resolve() in (written, *written.parents)
        if inside or fnmatch(str(written), str(named)):
            raise RequestError(f"--output {output} is among what is read: write the rows to another place.")


def read_lines() -> list[str]:
    """The lines of standard input; raises RequestError when they are not UTF-8 text."""
    from unfreeze.errors import RequestError

    if isinstance(sys.stdin, TextIOWrapper):
        # In a container without a language Python would take any bytes for text.
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    try:
        return [line.rstrip("\n") for line in sys.stdin]
    except UnicodeDecodeError:
        raise RequestError(
            "Lines on standard input must be UTF-8 text: convert them, or give a table."
        ) from None
