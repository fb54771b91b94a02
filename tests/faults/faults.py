"""Commands that are killed, stopped or robbed of their disk at every place where they write, then gone on with.

    python tests/faults/faults.py WORK [--scenario NAME]... [--kills N] [--signals N] [--disks N] [--timed N]
                                       [--no-parts]

A process that has everything imported forks a child for each fault, so that a fault costs seconds. The child counts
what changes the disk (opening to write, renaming, removing, making folders) below its own folder, and at one of these
events it is killed, gets a signal that asks it to stop, or every further one fails. A training is also asked to stop at
the beginning of each of its parts, whatever that writes. Afterwards

- whatever loads as a finished run or export must be the whole one, to the bit;
- the same command, with ``--resume`` where it has one, must end in the files of a run that nothing happened to;
- and no trace of the fault may be left.

Prints one JSON object: for each scenario the number of places and of faults by their kind, and what went wrong.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Before torch is loaded: a process with threads cannot be forked.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# A fault is a kill before the event or after half of the file was written, a wish to stop, or a disk that fails from
# there on.
KILLED, TORN, FULL, FORBIDDEN = "killed", "torn", "full disk", "no permission"
TERMINATED, INTERRUPTED = "SIGTERM", "SIGINT"
SIGNALS = {
    KILLED: signal.SIGKILL,
    TORN: signal.SIGKILL,
    TERMINATED: signal.SIGTERM,
    INTERRUPTED: signal.SIGINT,
}
STOPPED = {TERMINATED: 143, INTERRUPTED: 130}
TO_CONTINUE = 75
# The parts of a training, where each begins, and how many times that has begun when the signal comes.
PARTS = {
    "indexing": ("unfreeze.run", "read_data", 1),
    "frozen pass": ("unfreeze.training.probed", "frozen_pass", 1),
    "probe": ("unfreeze.training.probed", "probe_features", 1),
    "training": ("unfreeze.engine.stepping:Stepper", "_gradients", 2),
    "evaluation": ("unfreeze.run", "test_classifier", 1),
    "report": ("unfreeze.reporting", "write_pages", 1),
}
# A lock that nobody holds any more keeps nobody out.
TRACES = (".unfinished", "checkpoints")
PATIENCE = 120.0
# Seconds after which a command that has begun hears signals.
HANDLED = 0.05
PER_CLASS = 8
# What commands import where they need it, which took a child most of its time.
LATE = (
    *("sklearn.cluster", "sklearn.decomposition", "sklearn.linear_model", "sklearn.metrics"),
    *("sklearn.model_selection", "sklearn.neighbors", "rich.progress", "rich.table", "scipy.optimize"),
)


@dataclass
class Fault:
    """Counts the events of a process below ``root`` and strikes at the one numbered ``at`` (from 1).

    ``after``: strikes when so many seconds have gone instead; ``part``: where that part of a training begins.
    ``struck``: when it did, by the clock that all processes share.
    """

    root: str
    kind: str = KILLED
    at: int = 0
    after: float | None = None
    part: str | None = None
    seen: int = 0
    busy: bool = False
    struck: float | None = None

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.busy or not self.changes(event, arguments):
            return
        self.seen += 1
        lasting = self.kind in (FULL, FORBIDDEN)
        if not self.at or self.seen < self.at or (self.seen > self.at and not lasting):
            return
        self.busy = True
        try:
            self.strike(event, arguments)
        finally:
            self.busy = False

    def changes(self, event: str, arguments: tuple[object, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            return isinstance(flags, int) and bool(flags & WRITING) and self.inside(path)
        # Removing a tree names its files by the folder's handle.
        return event in CHANGES and (
            self.inside(arguments[0]) or (arguments[-1] != -1 and event in ("os.remove", "os.rmdir"))
        )

    def inside(self, path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.root)

    def lie_in_wait(self) -> None:
        """Put the fault before the function that the part begins with."""
        assert self.part is not None
        place, name, times = PARTS[self.part]
        module, _, owner = place.partition(":")
        room = importlib.import_module(module)
        room = getattr(room, owner) if owner else room
        real, calls = getattr(room, name), 0

        def begin(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == times:
                self.strike("", ())
            return real(*arguments, **named)

        setattr(room, name, begin)

    def strike(self, event: str, arguments: tuple[object, ...]) -> None:
        self.struck = self.struck or time.monotonic()
        if self.kind in (FULL, FORBIDDEN):
            # What is there can still be removed from a full disk, and from nothing that is forbidden.
            if self.kind == FULL and event in ("os.remove", "os.rmdir"):
                return
            number = errno.ENOSPC if self.kind == FULL else errno.EACCES
            raise OSError(number, os.strerror(number), str(arguments[0]))
        # A file without a name is opened by its folder's, and nothing is left of it.
        if self.kind == TORN and event == "open" and not os.path.isdir(arguments[0]):  # type: ignore[arg-type] # noqa: PTH112
            with open(arguments[0], "wb") as file:  # type: ignore[arg-type] # noqa: PTH123
                file.write(b'{"half of a fi')
        os.kill(os.getpid(), SIGNALS[self.kind])

    def __str__(self) -> str:
        if self.part is not None:
            return f"{self.kind} in the {self.part}"
        return f"{self.kind} at {self.at}" if self.after is None else f"{self.kind} after {self.after:.2f} s"


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (negative: the signal), what it printed, its events.

    ``seconds``: how long it took, from the fault on where there was one that it lived to tell.
    """

    status: int
    said: str
    events: int
    seconds: float


@dataclass
class Scenario:
    """A command to break, how it is gone on with, and what it must come to.

    ``command`` gives the arguments for a folder of its own; ``again`` those that take it up, None where it is finished;
    ``result`` the bytes of what it leaves, by name. ``parts``: whether it is a training that has all of them.
    """

    name: str
    command: Callable[[Path], list[str]]
    again: Callable[[Path], list[str] | None]
    result: Callable[[Path], dict[str, bytes]]
    parts: bool = False


@dataclass
class Tally:
    """What was done to a scenario and what went wrong.

    ``kinds``: how many faults of each kind. ``slowest_stop``: seconds from a signal to the end.
    """

    places: int
    kinds: Counter[str] = field(default_factory=Counter)
    slowest_stop: float = 0.0
    wrong: list[str] = field(default_factory=list)


def run(arguments: list[str], folder: Path, fault: Fault | None = None) -> Ended:
    """The command in a child of its own."""
    said, counted = folder / "said.txt", folder.parent / f"{folder.name}.events"
    folder.mkdir(parents=True, exist_ok=True)
    said.touch()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = _command(arguments, folder, said, counted, fault)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    struck = None
    while True:
        done, how = os.waitpid(child, os.WNOHANG)
        gone = time.monotonic() - start
        if done:
            break
        if fault is not None and fault.after is not None and struck is None and gone > fault.after:
            struck = gone
            os.kill(child, SIGNALS[fault.kind])
        if gone > PATIENCE:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    # Empty when a kill at a random moment met the very writing of it.
    told = (counted.read_text() if counted.exists() else "").split()
    if struck is None and len(told) == 2:
        struck = float(told[1]) - start
    return Ended(
        os.waitstatus_to_exitcode(how),
        said.read_text(errors="replace"),
        int(told[0]) if told else 0,
        gone if struck is None else gone - struck,
    )


def _command(arguments: list[str], folder: Path, said: Path, counted: Path, fault: Fault | None) -> int:
    from unfreeze.cli.app import main

    handle = os.open(said, os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ["UNFREEZE_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    sys.argv = ["unfreeze", *arguments]
    # A shell starts what runs in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if fault is not None:
        sys.addaudithook(fault)
    if fault is not None and fault.part is not None:
        fault.lie_in_wait()
    status: object = 0
    try:
        main()
    except SystemExit as stopped:
        status = stopped.code
    if fault is not None:
        fault.busy = True
        counted.write_text(f"{fault.seen} {fault.struck or ''}")
    return status if isinstance(status, int) else 0


# -- what is broken


def scenarios(data: Path) -> dict[str, Scenario]:
    weights, photos, source = data / "tiny.safetensors", data / "photos", data / "source"
    model = ["--backbone", f"timm:test_vit@{weights}", "--device", "cpu"]

    def train(*options: str) -> Callable[[Path], list[str]]:
        return lambda folder: ["train", str(photos), "--output-dir", str(folder / "run"), *options, *model]

    def resumed(
        command: Callable[[Path], list[str]], begun: str, finished: str
    ) -> Callable[[Path], list[str] | None]:
        def again(folder: Path) -> list[str] | None:
            if (folder / "run" / finished).exists() and not (folder / "run" / ".unfinished").exists():
                return None
            return [*command(folder), "--resume"] if (folder / "run" / begun).exists() else command(folder)

        return again

    def of_run(folder: Path) -> dict[str, bytes]:
        names = ["model.safetensors", "predictions.csv", "metrics.json", "golden.safetensors"]
        # Of the best and the last weights those that were not taken.
        names += [
            str(path.relative_to(folder / "run")) for path in (folder / "run").glob("*/model.safetensors")
        ]
        assert (folder / "run" / "report.html").stat().st_size > 10_000
        return {name: (folder / "run" / name).read_bytes() for name in names}

    def of_cells(folder: Path) -> dict[str, bytes]:
        results = json.loads((folder / "run" / "results.json").read_text())
        assert (folder / "run" / "compare.html").stat().st_size > 10_000
        names = ("model.safetensors", "predictions.csv")
        cells = sorted((folder / "run" / "cells").iterdir())
        found = {f"{cell.name} {name}": (cell / name).read_bytes() for cell in cells for name in names}
        return found | {"failures": json.dumps(results["failures"]).encode()}

    def of_adaptation(folder: Path) -> dict[str, bytes]:
        told = json.loads((folder / "run" / "adaptation.json").read_text())
        names = ("model.safetensors", "predictions.csv")
        found = {name: (folder / "run" / name).read_bytes() for name in names}
        return found | {"verdict": json.dumps(told["verdict"]).encode()}

    def of_export(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder / "run")): path.read_bytes()
            for path in (folder / "run").rglob("*")
            if path.is_file() and path.suffix in (".safetensors", ".json")
        }

    # What is measured may be decided otherwise a second time, and two ways round otherwise.
    decided = ["--store", "on", "--precision", "fp32"]
    gradual = train("--strategy", "gradual", "--epochs", "3", "--batch-size", "8", *decided)
    probe = train("--strategy", "feature-extraction", *decided)
    several = [
        "--strategies", "feature-extraction,partial", "--seeds", "1", "--epochs", "1", "--batch-size", "8",
        *decided,
    ]  # fmt: skip

    def compare(folder: Path) -> list[str]:
        return ["compare", str(photos), "--output-dir", str(folder / "run"), *several, *model]

    def adapt(folder: Path) -> list[str]:
        return ["adapt", str(source), "--target", str(data / "dark"), "--output-dir", str(folder / "run")]

    def adapt_again(folder: Path) -> list[str] | None:
        finished = (folder / "run" / "adaptation.json").exists() and not (
            folder / "run" / ".unfinished"
        ).exists()
        return None if finished else adapt(folder)

    def export(folder: Path) -> list[str]:
        return ["export", str(source), "--format", "timm", "--output", str(folder / "run")]

    def export_again(folder: Path) -> list[str] | None:
        # An export is there, as a whole, or it is not.
        return None if (folder / "run").exists() else export(folder)

    found = (
        Scenario(
            "train gradual", gradual, resumed(gradual, ".unfinished", "bundle.json"), of_run, parts=True
        ),
        Scenario("train feature-extraction", probe, resumed(probe, ".unfinished", "bundle.json"), of_run),
        Scenario("compare", compare, resumed(compare, "compare.json", "compare.html"), of_cells),
        Scenario("adapt", adapt, adapt_again, of_adaptation),
        Scenario("export", export, export_again, of_export),
    )
    return {scenario.name: scenario for scenario in found}


def make_data(folder: Path) -> None:
    """Weights of a tiny transformer, photographs of two classes, and the same in the dark."""
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "tiny.safetensors")
    chance = np.random.default_rng(5)
    for place, light in (("photos", 1.0), ("dark", 0.6)):
        for name, colour in (("green", (70, 150, 80)), ("red", (150, 80, 70))):
            (folder / place / name).mkdir(parents=True)
            for number in range(PER_CLASS):
                centre = np.array(colour) * light + chance.normal(0, 30, 3)
                pixels = np.clip(chance.normal(centre, 20, (36, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / place / name / f"{number:02}.png")


def only_torch() -> None:
    """Other executors take seconds to convert a backbone; what they write has its own tests."""
    import unfreeze.engine.choice

    unfreeze.engine.choice.available_executors = lambda device: ("torch-fp32",)  # type: ignore[assignment]


# -- how it is broken


def break_once(scenario: Scenario, whole: dict[str, bytes], folder: Path, fault: Fault, tally: Tally) -> str:
    """What went wrong in a folder of its own, an empty string for nothing."""
    ended = run(scenario.command(folder), folder, fault)
    again = scenario.again(folder)
    expected: tuple[int, ...] = (0, 1, 2)
    tally.kinds[fault.kind] += 1
    if fault.kind in (KILLED, TORN):
        # By the clock it may have been too late.
        expected = (-signal.SIGKILL,) if fault.after is None else (-signal.SIGKILL, 0)
    elif fault.kind in STOPPED:
        resumable = again is not None and "--resume" in again
        expected = (TO_CONTINUE,) if resumable else (STOPPED[fault.kind],)
        if fault.after is not None and fault.after < HANDLED:
            expected += (-SIGNALS[fault.kind],)
        if again is None and (fault.after is not None or "Stopping after this step" in ended.said):
            # By the clock it may have come when all was done, or in the last epoch after its last step.
            expected += (0,)
        tally.slowest_stop = max(tally.slowest_stop, round(ended.seconds, 2))
    try:
        assert "Traceback" not in ended.said, ended.said[-1500:]
        assert ended.status in expected, f"ended with {ended.status}, not {expected}: {ended.said[-600:]}"
        check_intact(folder / "run", whole)
        if again is not None:
            finished = run(again, folder)
            assert finished.status == 0, f"could not be gone on with: {finished.said[-600:]}"
        found = scenario.result(folder)
        differing = [name for name in whole.keys() | found.keys() if found.get(name) != whole.get(name)]
        assert not differing, f"{', '.join(sorted(differing))} differ from a run that nothing happened to"
        # What could not be removed from a store is removed by the next that writes to it.
        cleaned = folder / "run" if fault.kind == FORBIDDEN else folder
        left = [str(path.relative_to(folder)) for path in cleaned.rglob("*") if is_trace(path)]
        assert not left, f"left behind: {', '.join(left)}"
    except (AssertionError, OSError, ValueError, KeyError) as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


def check_intact(run_folder: Path, whole: dict[str, bytes]) -> None:
    """Whatever loads as a finished run must have the weights of the whole one."""
    import unfreeze
    from unfreeze.errors import UnfreezeError

    for bundle in run_folder.rglob("bundle.json"):
        try:
            unfreeze.load(bundle.parent)
        except UnfreezeError:
            continue
        weights = (bundle.parent / "model.safetensors").read_bytes()
        assert weights in whole.values(), f"{bundle.parent} loads and has other weights"


def is_trace(path: Path) -> bool:
    if path.suffix == ".partial" and not any(file.name != ".lock" for file in path.iterdir()):
        # The workspace of an export that was moved out of it: it holds nothing.
        return False
    return path.name in TRACES or path.suffix in (".tmp", ".partial")


def spread(places: int, count: int | None) -> list[int]:
    """``count`` of the places from 1 on, evenly; all of them for None."""
    if count is None or count >= places:
        return list(range(1, places + 1))
    # The first and the last place are the least surprising ones.
    return sorted({1 + round((index + 0.5) * (places - 1) / count) for index in range(count)})


def plan_faults(
    root: str, events: int, seconds: float, asked: argparse.Namespace, *, turn: int, parts: bool
) -> list[Fault]:
    """The faults for a command with so many events and seconds.

    ``turn``: which of two kinds comes first, so that where one place is asked for each kind still has its commands.
    ``parts``: whether it has the parts of a training.
    """
    chance = random.Random(root)
    kills = (KILLED, KILLED, TORN)
    found = [Fault(root, kills[number % 3], at) for number, at in enumerate(spread(events, asked.kills))]
    for kinds, count in (((TERMINATED, INTERRUPTED), asked.signals), ((FULL, FORBIDDEN), asked.disks)):
        found += [
            Fault(root, kinds[(number + turn) % 2], at) for number, at in enumerate(spread(events, count))
        ]
    if parts and asked.parts:
        found += [Fault(root, kind, part=part) for part in PARTS for kind in STOPPED]
    timed = (KILLED, TERMINATED, INTERRUPTED)
    return found + [
        Fault(root, timed[number % 3], after=chance.uniform(0.0, seconds)) for number in range(asked.timed)
    ]


def break_all(scenario: Scenario, work: Path, asked: argparse.Namespace, turn: int) -> Tally:
    """Run the command as it should be, then once for every fault; ``turn`` is its number among the commands."""
    place = work / scenario.name.replace(" ", "-")
    first = run(scenario.command(place / "whole"), place / "whole", Fault(f"{place / 'whole'}/"))
    if first.status != 0:
        raise SystemExit(f"{scenario.name} does not run: {first.said[-2000:]}")
    whole, tally = scenario.result(place / "whole"), Tally(first.events)
    root = f"{place / 'broken'}/"
    for fault in plan_faults(root, first.events, first.seconds, asked, turn=turn, parts=scenario.parts):
        shutil.rmtree(root, ignore_errors=True)
        wrong = break_once(scenario, whole, place / "broken", fault, tally)
        if wrong:
            tally.wrong.append(f"{fault}: {wrong}")
            print(f"{scenario.name}, {fault}: {wrong}", file=sys.stderr, flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--scenario", action="append", help="one of them (default: all)")
    parser.add_argument("--kills", type=int, help="places to kill at (default: all)")
    parser.add_argument("--signals", type=int, default=24, help="places to ask to stop at")
    parser.add_argument("--disks", type=int, default=24, help="places from which on the disk fails")
    parser.add_argument("--timed", type=int, default=15, help="kills and signals at random moments")
    parser.add_argument(
        "--parts",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask a training to stop in each part",
    )
    asked = parser.parse_args()
    work = asked.work.resolve()
    data = work / "data"
    make_data(data)
    only_torch()
    known = scenarios(data)
    # Once in this process: what a command imports, its children need not.
    os.environ["UNFREEZE_CACHE"] = str(work / "cache")
    import unfreeze
    import unfreeze.adapting.run
    import unfreeze.cli.app
    import unfreeze.comparing.run
    import unfreeze.exporting.run

    for name in LATE:
        importlib.import_module(name)
    unfreeze.train(
        str(data / "photos"),
        output_dir=data / "source",
        strategy="partial",
        epochs=1,
        batch_size=8,
        backbone=f"timm:test_vit@{data / 'tiny.safetensors'}",
        device="cpu",
    )
    turns = {name: turn for turn, name in enumerate(known)}
    tallies = {name: break_all(known[name], work, asked, turns[name]) for name in asked.scenario or known}
    slowest = max(tally.slowest_stop for tally in tallies.values())
    print(f"The slowest stop took {slowest:.1f} s from the signal to the end.", file=sys.stderr)
    print(json.dumps({name: vars(tally) for name, tally in tallies.items()}, indent=1))


if __name__ == "__main__":
    main()
