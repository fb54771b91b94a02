"""The whole `unfreeze train` command beside the script that a skilled user would write, on the same split.

    python bench/train_command.py
    python bench/train_command.py --cells 600

Both read the same table of solar cells (a quarter held out, stratified by label and cell type) and start with
empty caches in processes of their own. The command is run a second time to show what its store saves.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from unfreeze.demo import Cell, solar_cells
from unfreeze.executors.processor import available_cores, processor_name

PEER = Path(__file__).parent / "peers" / "timm_sklearn.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, help="use so many cells only")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    arguments = parser.parse_args()
    print(f"{processor_name()}, {available_cores()} cores")
    theirs, ours, again = [], [], []
    for repetition in range(arguments.repetitions):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            table = folder / "cells.csv"
            write_split(solar_cells(), table, arguments.cells, arguments.seed)
            theirs.append(run([sys.executable, str(PEER), str(table)], folder))
            ours.append(train(table, folder, "first"))
            again.append(train(table, folder, "second"))
        print(f"repetition {repetition + 1} of {arguments.repetitions} done", file=sys.stderr)
    base = statistics.median(one["seconds"] for one in theirs)
    print(f"{'':34} {'seconds':>8} {'ratio':>6} {'test accuracy':>14}")
    for label, results in (
        ("timm eager + scikit-learn grid", theirs),
        ("unfreeze train, nothing stored", ours),
        ("unfreeze train, features stored", again),
    ):
        seconds = statistics.median(one["seconds"] for one in results)
        accuracy = statistics.median(one["accuracy"] for one in results)
        print(f"{label:34} {seconds:8.1f} {base / seconds:6.2f} {accuracy:14.4f}")


def write_split(cells: list[Cell], path: Path, count: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = [cells[row] for row in rng.permutation(len(cells))[:count]]
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in chosen:
        groups.setdefault((cell.label, cell.kind), []).append(cell)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "split"])
        for members in groups.values():
            for position, cell in enumerate(members):
                writer.writerow([cell.image, cell.label, "test" if position < len(members) // 4 else "train"])


def train(table: Path, folder: Path, name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "unfreeze", "train", str(table), "--strategy", "feature-extraction"]
    command += ["--backbone", "efficientnet-lite0", "--output-dir", str(folder / name), "--json"]
    command += ["--image-column", "image", "--label-column", "label"]
    result = run(command, folder)
    return {"seconds": result["wall_seconds"], "accuracy": result["test"]["accuracy"]}


def run(command: list[str], folder: Path) -> dict[str, float]:
    environment = os.environ | {"UNFREEZE_CACHE": str(folder / "cache")}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stderr}")
    result = json.loads(done.stdout)
    # The wall clock counts for both: importing libraries is part of what a user waits for.
    return result | {"wall_seconds": seconds, "seconds": seconds}


if __name__ == "__main__":
    main()
