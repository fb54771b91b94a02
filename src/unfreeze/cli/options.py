"""Options that mean the same to several commands, with the panels that help shows them in."""

from __future__ import annotations

from typing import Annotated

import typer

DATA_HELP = (
    "A folder of class folders, a folder with train/ val/ test/, a CSV/TSV/JSONL/Parquet file, a folder or quoted "
    "pattern of Parquet files, a URL of any of them (s3://, gs://, hf://, https://), or a hub id."
)
COLUMNS = "Columns of a table"
MODEL = "Model"
THAW = "Thawing"
FINE = "Thawing, finer"
MEASURE = "Splitting and measuring"
MACHINE = "Machine"

TextColumn = Annotated[str | None, typer.Option(help="Column with the text.", rich_help_panel=COLUMNS)]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column with the image path or bytes.", rich_help_panel=COLUMNS)
]
LabelColumn = Annotated[str | None, typer.Option(help="Column with the label.", rich_help_panel=COLUMNS)]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        help="Rows of one group stay in one part (patient, scene, author).", rich_help_panel=COLUMNS
    ),
]
StratifyColumn = Annotated[
    str | None, typer.Option(help="Balance this column over the parts too.", rich_help_panel=COLUMNS)
]
Val = Annotated[
    str | None,
    typer.Option(help="Validation data, or a share of the rows. (default: 0.15)", rich_help_panel=MEASURE),
]
Test = Annotated[
    str | None,
    typer.Option(help="Test data, or a share of the rows. (default: 0.15)", rich_help_panel=MEASURE),
]
TrainSize = Annotated[
    int | None,
    typer.Option(
        help="Learn from this many of the rows that are not test, drawn by class. (default: all)",
        rich_help_panel=MEASURE,
    ),
]
Head = Annotated[
    str | None,
    typer.Option(
        help="linear (solved to convergence) or mlp (the classic two-layer head).", rich_help_panel=MODEL
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Side of the square that images are resized to. (default: the backbone's)",
        rich_help_panel=MODEL,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Longest text in tokens; the rest is cut. (default: 256 or the model's own limit)",
        rich_help_panel=MODEL,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="own, or classic: the classic guide's exact schedules, as the baseline. (default: own)",
        rich_help_panel=THAW,
    ),
]
Augment = Annotated[
    str | None,
    typer.Option(
        help="none, light, strong or dihedral (flips and quarter turns). (default: light)",
        rich_help_panel=THAW,
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Rows in a batch. (default: 32)", rich_help_panel=MACHINE)
]
Store = Annotated[
    str | None,
    typer.Option(
        help="auto, on or off: keep features for the next run, and activations of frozen stages for the epochs.",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=MACHINE)]
Precision = Annotated[
    str | None,
    typer.Option(
        help="auto, fp32, bf16 or, on a GPU, fp16 for the thawing, and the first three for the frozen pass.",
        rich_help_panel=MACHINE,
    ),
]
JsonOutput = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")
]
Engine = Annotated[
    str,
    typer.Option(
        help="local, ray (started here), or ray://HOST:PORT (that cluster).", rich_help_panel=MACHINE
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="On Ray: how many work at the same time. (default: by cores)", rich_help_panel=MACHINE
    ),
]


def refuse_without_ray(**given: int | None) -> None:
    """Raise RequestError when a setting of Ray's workers was given without Ray."""
    from unfreeze.config import flag
    from unfreeze.errors import RequestError

    for name, value in given.items():
        if value is not None:
            raise RequestError(f"{flag(name)} has no effect without --engine ray: leave it out.")


def share_or_data(value: str | None) -> float | str | None:
    """A number where the text is one, else the text: ``0.2`` is a share, ``photos/val`` is data."""
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        return value
