"""``unfreeze demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output_dir: Annotated[
        Path | None,
        typer.Option(help="The run folder to make; its table is written beside it. (default: runs/demo)"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    time_limit: Annotated[str, typer.Option(help="For trials and training, such as 90s or 1h.")] = "3m",
) -> None:
    """Train on 2,624 real solar cells (extra 'demo'), predict a few held-out ones, and show the report."""
    from unfreeze.cli.console import TerminalProgress, make_console
    from unfreeze.demo import run_demo

    run_demo(
        output_dir=output_dir,
        seed=seed,
        time_limit=time_limit,
        progress=TerminalProgress(),
        console=make_console(),
    )
