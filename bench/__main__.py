"""All measurements from one place: a bench is a program of its own in this folder, with options of its own.

    python -m bench                                  the usual ones, one after the other
    python -m bench beside-images startup            these
    python -m bench --list
    python -m bench --device cuda --weights DINOV2.safetensors
    make bench TEXTS=MAILS.parquet WEIGHTS=DINOV2.safetensors DEVICE=cuda NAMES="beside-texts strategies-dinov2"

What is printed is also kept in bench/out/. Timings need a machine with nothing else to do. Benches of texts need
``--texts FILE.parquet`` with the columns text and label, those of DINOv2 its ``--weights``; without, they are left out,
and others leave out their part of it. ``--device``: where those run that can run on a GPU, and all sides of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

BENCH = Path(__file__).parent
OUT = BENCH / "out"


@dataclass(frozen=True)
class Bench:
    """A program, what it is given, and what it says; ``usual``: without being named.

    In the arguments TEXTS and WEIGHTS stand for the files that were given. ``optional``: arguments that are left out
    where their file was not given. ``devices``: where it can run; ``placed``: that it has to be told where.
    """

    program: str
    arguments: tuple[str, ...]
    about: str
    optional: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    placed: bool = False
    usual: bool = True

    def missing(self, given: Mapping[str, Path | None]) -> list[str]:
        """The files that it cannot do without."""
        return [key for key, path in given.items() if path is None and key in " ".join(self.arguments)]

    def command(self, given: Mapping[str, Path | None], device: str) -> list[str]:
        """Its arguments with these files, on this device."""
        there = {key: str(path) for key, path in given.items() if path is not None}
        arguments = [*self.arguments]
        for option, key in self.optional:
            arguments += [option, key] if key in there else []
        for key, path in there.items():
            arguments = [part.replace(key, path) for part in arguments]
        return [*arguments, *(["--device", device] if self.placed else [])]


DINOV2 = "timm:vit_small_patch14_dinov2@WEIGHTS"
BOTH = ("cpu", "cuda")
BENCHES = {
    "startup": Bench("startup.py", (), "starting, checking 10,000 images, writing a report"),
    "frozen-pass": Bench(
        "frozen_pass.py",
        (),
        "every executor beside plain PyTorch",
        optional=(("--weights", "WEIGHTS"), ("--texts", "TEXTS")),
    ),
    "allocator": Bench("allocator.py", (), "a training step with freed memory kept"),
    "store": Bench("store.py", (), "features from an empty store and from a full one", usual=False),
    "dropping": Bench("dropping.py", (), "training steps with PyTorch's dropout and with ours", usual=False),
    "uneven": Bench("uneven.py", ("--texts", "TEXTS"), "classes weighed alike and not", usual=False),
    "prefix": Bench("prefix.py", ("--epochs", "12"), "stored frozen parts beside none"),
    "beside-images": Bench(
        "beside.py",
        ("images",),
        "whole trainings beside fastai, a plain loop, scikit-learn",
        devices=BOTH,
        placed=True,
    ),
    "beside-texts": Bench(
        "beside.py",
        ("texts", "--texts", "TEXTS"),
        "whole trainings beside transformers and sentence-transformers",
        devices=BOTH,
        placed=True,
    ),
    "beside-few": Bench(
        "beside.py",
        ("few", "--texts", "TEXTS"),
        "few texts of each class beside SetFit",
        devices=BOTH,
        placed=True,
    ),
    "export": Bench("export.py", (), "exported formats beside eager PyTorch"),
    "serving": Bench("serving.py", (), "requests a second, latency, crowds"),
    "scale": Bench("scale.py", (), "ten thousand to a million rows"),
    "soak": Bench("soak.py", (), "whether trainings and an hour of serving grow", usual=False),
    "cost": Bench("cost.py", (), "predicted seconds and memory beside measured", usual=False),
    "solar-probe": Bench("solar_probe.py", (), "the probe on the solar cells", usual=False),
    "strategies": Bench(
        "strategies.py",
        ("--rows", "500", "--image-size", "128"),
        "every strategy on 500 cells",
        devices=BOTH,
        placed=True,
        usual=False,
    ),
    "strategies-dinov2": Bench(
        "strategies.py",
        ("--backbone", DINOV2, "--image-size", "224", "--jobs", "4"),
        "every strategy on all cells",
        devices=("cuda",),
        placed=True,
    ),
    "chooser": Bench(
        "chooser.py",
        (),
        "regret of --strategy auto",
        optional=(("--weights", "WEIGHTS"), ("--texts", "TEXTS")),
        usual=False,
    ),
    "halves": Bench(
        "halves.py",
        (),
        "what trials on half of the rows are behind with",
        optional=(("--weights", "WEIGHTS"), ("--texts", "TEXTS")),
        usual=False,
    ),
    "adapt": Bench("adapt.py", (), "new domains without labels", usual=False),
    "scaling": Bench("scaling.py", (), "one and two processes, one and two workers on Ray", usual=False),
    "bulk": Bench("bulk.py", (), "100,000 rows on Ray, killed and run again", usual=False),
    "serving-tasks": Bench(
        "serving_tasks.py",
        ("--backbone", "all-minilm-l6-v2", "--max-length", "16"),
        "many LoRA tasks of texts beside PEFT",
        usual=False,
    ),
    "serving-tasks-images": Bench(
        "serving_tasks.py",
        ("--backbone", "efficientnet-lite0", "--image-size", "64"),
        "many LoRA tasks of images beside PEFT",
        usual=False,
    ),
}


def main() -> None:
    arguments = parse()
    if arguments.list:
        for name, bench in BENCHES.items():
            print(f"{name:20} {bench.about}{'' if bench.usual else ' (only when named)'}")
        return
    named = arguments.names or [
        name for name, bench in BENCHES.items() if bench.usual and arguments.device in bench.devices
    ]
    given = {"TEXTS": arguments.texts, "WEIGHTS": arguments.weights}
    ended = {name: run(name, given, arguments.device) for name in named}
    if failed := [name for name, status in ended.items() if status]:
        raise SystemExit(f"Failed: {', '.join(failed)}")
    if all(status is None for status in ended.values()):
        raise SystemExit("Nothing was measured: every bench was left out.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--device", default="cpu", choices=BOTH)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHES]:
        parser.error(f"no bench is called {', '.join(unknown)}: choose from {', '.join(BENCHES)}")
    for name in arguments.names:
        if arguments.device not in BENCHES[name].devices:
            parser.error(f"{name} runs on {' or '.join(BENCHES[name].devices)}, not on {arguments.device}")
    return arguments


def run(name: str, given: Mapping[str, Path | None], device: str) -> int | None:
    """Run one, and print and keep what it prints; its exit status, or None where it was left out."""
    bench = BENCHES[name]
    if missing := bench.missing(given):
        print(f"{name} is left out: it needs --{missing[0].lower()}.", flush=True)
        return None
    arguments = bench.command(given, device)
    OUT.mkdir(exist_ok=True)
    began = time.perf_counter()
    with (OUT / f"{name}.txt").open("w") as kept:

        def say(line: str) -> None:
            print(line, end="", flush=True)
            kept.write(line)

        say(f"# {name}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {bench.program} {' '.join(arguments)}\n")
        command = [sys.executable, "-W", "ignore", str(BENCH / bench.program), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            say(line)
        status = process.wait()
        say(f"# {time.perf_counter() - began:.0f} s, status {status}\n\n")
    return status


if __name__ == "__main__":
    main()
