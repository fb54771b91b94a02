"""``unfreeze serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(help="Run folders, or their URLs; NAME=FOLDER serves one under another name."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of the machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token that every request must name.")
    ] = None,
    allow_changes: Annotated[
        Path | None,
        typer.Option(
            help="Let requests load runs from below this folder, and unload tasks; needs --token-file."
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=4096, help="Inputs computed together.")] = 32,
    max_wait: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds that an input waits for others.")
    ] = 2.0,
    max_queue: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Inputs that wait at most; more are refused with 429.")
    ] = 512,
    max_body: Annotated[float, typer.Option(min=0.001, max=1024, help="MiB of a request.")] = 32.0,
    adapter_budget: Annotated[
        str,
        typer.Option(
            help="Memory for the weights of adapters and heads; the least recently used are read again when asked."
        ),
    ] = "1GB",
) -> None:
    """Serve RUNS over HTTP with a page to try them: runs on the same network share one copy of it.

    Example: [bold]unfreeze serve runs/cells mails=runs/mails-2 --port 8000[/bold], then open http://127.0.0.1:8000.
    The interface is described at /docs.
    """
    from unfreeze.cli.console import TerminalProgress
    from unfreeze.config import bytes_of
    from unfreeze.serving.limits import Limits
    from unfreeze.serving.run import serve as run_server

    run_server(
        runs,
        host=host,
        port=port,
        limits=Limits(
            batch=max_batch,
            wait=max_wait / 1000,
            queue=max_queue,
            body=round(max_body * 2**20),
            adapters=bytes_of(adapter_budget, "--adapter-budget"),
        ),
        token_file=token_file,
        changes=allow_changes,
        progress=TerminalProgress(),
    )
