"""The command ``unfreeze``: one file a command; here they are put together, and errors become sentences."""

from __future__ import annotations

import sys

import typer

from unfreeze.cli import adapt, backbones, check, compare, demo, evaluate, export, plan, predict, serve, train
from unfreeze.errors import UnfreezeError, readable

INTERRUPTED = 130

app = typer.Typer(
    name="unfreeze",
    help="From a pretrained model and a small labelled data set to a classifier you can trust and ship.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("check")(check.check)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("compare")(compare.compare)
app.command("adapt")(adapt.adapt)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("predict")(predict.predict)
app.command("serve")(serve.serve)
app.command("backbones")(backbones.backbones)
app.command("demo")(demo.demo)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("unfreeze"))
        raise typer.Exit


def main() -> None:
    """Run the command line; exit status 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted."""
    try:
        app()
    except UnfreezeError as problem:
        typer.echo(f"Error: {readable(str(problem))}", err=True)
        sys.exit(problem.exit_status)
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does; there is nobody left to tell.
        sys.stderr.close()
        sys.exit(0)
