"""``unfreeze export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unfreeze.cli.options import JsonOutput


def export(
    run: Annotated[str, typer.Argument(help="The folder of a trained run, or its URL.")],
    format: Annotated[
        str, typer.Option(help="onnx, openvino, pt2, torchscript; a folder: transformers, timm, peft.")
    ] = "onnx",
    output: Annotated[
        Path | None, typer.Option(help="The folder to make. (default: exported/FORMAT in the run)")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled rows to check it with, where the run's own data is not at hand."),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="Upload the folder to this repository of the Hugging Face hub."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Create that repository as a private one.")
    ] = False,
    quantize: Annotated[
        bool,
        typer.Option(
            "--quantize", help="Also model.int8.onnx, kept where it is faster here and as accurate. (onnx)"
        ),
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """Write RUN as a file, or a folder of another library, that gives the same answers, or write nothing.

    Real rows go through the trained model and through the file, from their raw bytes. Examples:
    [bold]unfreeze export runs/photos --format onnx[/bold],
    [bold]unfreeze export runs/photos --format timm --push-to-hub me/photos[/bold]
    """
    from unfreeze.cli.console import TerminalProgress, print_json
    from unfreeze.exporting.run import export as run_export
    from unfreeze.progress import Silent

    done = run_export(
        run,
        format=format,
        output=output,
        data=data,
        push_to_hub=push_to_hub,
        private=private,
        quantize=quantize,
        progress=Silent() if json_output else TerminalProgress(),
    )
    if json_output:
        print_json(done.to_dict())
        return
    parity = done.parity
    before, after = (f"{share:.1%}" for share in parity.accuracy)
    right = f"{after} right, as before" if before == after else f"{after} right, before {before}"
    typer.echo(
        f"{parity.rows:,} real rows from their raw bytes: {parity.agreement:.1%} answered alike, largest difference "
        f"of a probability {parity.gap:.1e}; {right} (no score: it may have learnt from them)."
    )
    if done.pixels is not None:
        typer.echo(done.pixels.sentence)
    if done.forms is not None:
        typer.echo(done.forms.sentence(done.format))
    if done.int8 is not None:
        typer.echo(done.int8.sentence)
    typer.echo(str(done.file))
    if done.address is not None:
        typer.echo(done.address)
