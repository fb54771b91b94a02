"""The command ``unfreeze``: one file a command; here they are put together, and errors become sentences."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import typer

from unfreeze.cli import adapt, backbones, check, compare, demo, evaluate, export, plan, predict, serve, train
from unfreeze.errors import RequestError, StoppedError, UnfreezeError, readable

INTERRUPTED, TERMINATED = 130, 143

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


@contextmanager
def _terminate_as_interrupt(terminated: list[int]) -> Iterator[None]:
    """SIGTERM ends the work as SIGINT does: tidily, with what was computed kept; it is noted in the list."""
    # A thread beside the main one may not handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(sentence: str) -> None:
    # Standard error may lead to a full disk; the exit status still tells.
    with suppress(OSError):
        typer.echo(sentence, err=True)


def _leave(terminated: list[int]) -> NoReturn:
    _tell("Interrupted.")
    sys.exit(TERMINATED if terminated else INTERRUPTED)


def _forget_output() -> None:
    """Let go of what waits to be printed: it would fail a second time when the interpreter ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _leave_for_files(problem: OSError) -> NoReturn:
    """End in a sentence where a disk failed, or a text stands in the place of a file; other errors are raised again."""
    from unfreeze.bundle.claim import DISK_ERRORS, MEND

    if problem.errno == errno.ENAMETOOLONG:
        _tell(
            f"Error: '{readable(str(problem.filename)[:60])}…' is too long to name a file or folder. Check the order "
            "of what the command was given."
        )
        sys.exit(RequestError.exit_status)
    if problem.errno not in DISK_ERRORS:
        raise problem
    what = "written" if problem.filename is None else "read or written"
    _forget_output()
    _tell(
        f"Error: {readable(str(problem.filename or 'Standard output'))} could not be {what} "
        f"({os.strerror(problem.errno)}). {MEND.capitalize()}, and run it again."
    )
    sys.exit(UnfreezeError.exit_status)


def main() -> None:
    """Run the command line.

    Exit status 0 done, 1 the work failed, 2 the request was wrong, 75 stopped and to be continued with
    --resume; 130 or 143 interrupted or terminated, with nothing to continue.
    """
    # What Pillow has to say of a damaged picture: it is read, or left out by name, and lines between say neither.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    terminated: list[int] = []
    try:
        with _terminate_as_interrupt(terminated):
            try:
                app()
            except SystemExit:
                # What does not fit any more is an error of the command, not one of the interpreter's end.
                sys.stdout.flush()
                raise
    except KeyboardInterrupt:
        # Before or after the command itself.
        _leave(terminated)
    except UnfreezeError as problem:
        if terminated and not isinstance(problem, StoppedError):
            # The interruption met a library that made an error of its own of it.
            _leave(terminated)
        _tell(f"Error: {readable(str(problem))}")
        sys.exit(problem.exit_status)
    except SystemExit as stopped:
        # So typer ends when it sees KeyboardInterrupt.
        if stopped.code != INTERRUPTED:
            raise
        _leave(terminated)
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does; there is nobody left to tell.
        _forget_output()
        sys.stderr.close()
        sys.exit(0)
    except OSError as problem:
        _leave_for_files(problem)
