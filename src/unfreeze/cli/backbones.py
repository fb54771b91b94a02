"""``unfreeze backbones``."""

from __future__ import annotations

from typing import Annotated

import typer


def backbones(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name, or a glob such as 'resnet*'.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List backbones: size, source, licence, and whether the weights are on this disk."""
    from dataclasses import asdict

    from unfreeze.backbones import list_backbones
    from unfreeze.cli.console import make_console, print_json

    entries = [asdict(entry) for entry in list_backbones(pattern)]
    if json_output:
        print_json({"backbones": entries})
    else:
        from unfreeze.report.listings import print_backbones

        print_backbones(entries, make_console())
