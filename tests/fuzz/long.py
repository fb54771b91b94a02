"""The long run: ``python tests/fuzz/long.py [--seconds N] [TARGET ...]``, what ``make fuzz`` calls.

With atheris it is guided by the coverage of this package; without, the same changes are made at random. Each target
runs in a process of its own. An input that raises something new is written to ``tests/fuzz/crashes``,
and the run goes on;
with defects it ends with status 1. What atheris found to reach new code is kept in ``tests/fuzz/reached``, to go on
from; neither folder is under version control.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
import traceback
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
NAMES = ("csv", "tsv", "jsonl", "parquet", "config", "image", "bundle", "http")
# An input of a few kilobytes that takes longer, or more memory, is a defect; libFuzzer stops at it.
MOST_SECONDS, MOST_MEGABYTES = 60, 4096


class Watched:
    """The target as a function that never raises: what it raised is kept once for each place in the program."""

    def __init__(self, name: str) -> None:
        from targets import Targets

        self.targets = Targets()
        self.name, self.run = name, self.targets.named[name]
        self.executions, self.found = 0, set()

    def __call__(self, data: bytes) -> None:
        self.executions += 1
        try:
            self.run(data)
        except Exception as problem:
            key = self._key(problem)
            if key not in self.found:
                self.found.add(key)
                self._keep(data, problem)

    def _key(self, problem: Exception) -> str:
        inside = [
            frame for frame in traceback.extract_tb(problem.__traceback__) if "unfreeze" in frame.filename
        ]
        place = f"{inside[-1].filename}:{inside[-1].lineno}" if inside else ""
        return f"{type(problem).__name__} {place}"

    def _keep(self, data: bytes, problem: Exception) -> None:
        folder = HERE / "crashes" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / hashlib.sha256(data).hexdigest()[:12]
        path.write_bytes(data)
        (folder / f"{path.name}.txt").write_text(
            "".join(traceback.format_exception(problem)), errors="replace"
        )
        print(f"{self.name}: {type(problem).__name__}: {str(problem)[:200]!r} ({path})", flush=True)

    def tell(self, began: float) -> None:
        """One line for this run."""
        seconds = time.monotonic() - began
        print(
            f"{self.name}: {self.executions:,} inputs in {seconds:.0f} s, {len(self.found)} defects",
            flush=True,
        )


def corpus(name: str, watched: Watched) -> list[bytes]:
    """The kept inputs, then sound ones."""
    from seeds import seeds_of

    runs = watched.targets.runs if name == "bundle" else {}
    kept = [path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*"))]
    return kept + seeds_of(name, runs)


def at_random(watched: Watched, inputs: list[bytes], seconds: float, seed: int) -> None:
    """Changes made at random, on the given inputs alone."""
    from mutations import mutated

    began = time.monotonic()
    chance, end = Random(seed), began + seconds
    for data in inputs:
        watched(data)
    while time.monotonic() < end:
        watched(mutated(chance.choice(inputs), chance, kind=watched.name, others=inputs))
    watched.tell(began)


def guided(watched: Watched, inputs: list[bytes], seconds: float, seed: int) -> None:
    """libFuzzer, guided by coverage; it ends the process."""
    import atheris
    from mutations import ADDRESSED, mutated

    reached = HERE / "reached" / watched.name
    reached.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (reached / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = Random(seed)
        # libFuzzer's own changes know what comparisons they met.
        if watched.name not in ADDRESSED and chance.randint(0, 3) == 0:
            return atheris.Mutate(data, most)
        # libFuzzer prefers what is small and quickly refused: every other input begins with a sound one again.
        base = chance.choice(inputs) if chance.randint(0, 1) else bytes(data)
        return mutated(base, chance, kind=watched.name, others=inputs)[:most]

    options = [
        f"-max_total_time={int(seconds)}", f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_MEGABYTES}",
        "-max_len=65536",
        f"-seed={seed}", "-print_final_stats=1", f"-artifact_prefix={HERE / 'crashes'}/{watched.name}-",
    ]  # fmt: skip
    atheris.Setup(
        [sys.argv[0], *options, str(reached)], watched, custom_mutator=mutate, enable_python_coverage=True
    )
    atheris.Fuzz()


def one(name: str, seconds: float, seed: int) -> int:
    """A target in this process."""
    (HERE / "crashes").mkdir(exist_ok=True)
    try:
        import atheris
    except ImportError:
        atheris = None
        print(
            "atheris is not installed (pip install 'unfreeze[fuzz]'): changes are made at random.", flush=True
        )
    if atheris is not None:
        with atheris.instrument_imports(include=["unfreeze"]):
            _import_everything()
    watched = Watched(name)
    inputs = corpus(name, watched)
    (guided if atheris is not None else at_random)(watched, inputs, seconds, seed)
    return bool(watched.found)


def _import_everything() -> None:
    """Modules are instrumented when they are first imported; most of this program's are, when they are needed."""
    import importlib
    import pkgutil

    import unfreeze

    for module in pkgutil.walk_packages(unfreeze.__path__, "unfreeze."):
        if not module.name.startswith(("unfreeze.cli", "unfreeze.__main__")):
            importlib.import_module(module.name)


def kept(name: str) -> set[Path]:
    """What a target's defects left: inputs with what they raised, and those at which libFuzzer stopped."""
    stops = ("crash", "timeout", "oom", "leak")
    found = [path for stop in stops for path in (HERE / "crashes").glob(f"{name}-{stop}-*")]
    return {*found, *(HERE / "crashes" / name).glob("*")}


def main() -> int:
    """Run the targets, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[*NAMES, []], help="all of them by default")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.targets or NAMES
    if given.here:
        return one(names[0], given.seconds, given.seed)
    failed = []
    for name in names:
        before = kept(name)
        command = [
            sys.executable,
            __file__,
            name,
            "--seconds",
            str(given.seconds),
            "--seed",
            str(given.seed),
            "--here",
        ]
        status = subprocess.run(command, check=False).returncode
        if status or kept(name) - before:
            failed.append(name)
    print(f"Defects in: {', '.join(failed)}; see {HERE / 'crashes'}." if failed else "No defects.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
