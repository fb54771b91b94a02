"""What a second worker is worth: training in one and two processes, bulk prediction with one and two workers on Ray.

    python bench/scaling.py
    python bench/scaling.py --rows 300 --predict-rows 600 2400

Every process has one core, so that two of them have twice the processor of one. A model of few numbers is fitted to
some of the measurements, and tried on the others: an epoch of R rows in S steps on N processes takes ``R a / N + S g``,
where g is the adding up of gradients and is 0 for one; a bulk prediction of R rows takes ``s + R c / N``.
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

from unfreeze.demo import Cell, solar_cells, write_table
from unfreeze.executors.processor import processor_name

PARTS = ("training", "predicting")
COUNTS = (10**6, 10**9)
FLEETS = (1, 8, 64, 1024)


def unfreeze(*arguments: object, cores: int) -> float:
    """Seconds of a command that may use so many cores."""
    began = time.perf_counter()
    environment = os.environ | {"UNFREEZE_CORES": str(cores), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "unfreeze", *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stderr}")
    return time.perf_counter() - began


def train(
    table: Path, folder: Path, strategy: str, batch: int, processes: int, size: int
) -> dict[str, float]:
    """Seconds of an epoch after the first and of the whole command, and how much was trained on how many rows."""
    asked = ["train", table, "--output-dir", folder, "--strategy", strategy, "--batch-size", batch]
    asked += ["--image-size", size]
    asked += ["--epochs", 4, "--augment", "none", "--precision", "fp32", "--backbone", "efficientnet-lite0"]
    whole = unfreeze(*asked, *(["--devices", processes] if processes > 1 else []), cores=processes)
    with (folder / "history.csv").open() as file:
        epoch = statistics.median(float(row["seconds"]) for row in list(csv.DictReader(file))[1:])
    ledger = json.loads((folder / "ledger.json").read_text())
    parameters = sum(group["parameters"] for group in ledger[-1]["groups"])
    rows = json.loads((folder / "bundle.json").read_text())["data"]["rows"]["train"]
    return {
        "processes": processes,
        "batch": batch,
        "rows": rows,
        "steps": -(-rows // batch),
        "parameters": parameters,
        "epoch_s": epoch,
        "whole_s": whole,
    }


def training(table: Path, folder: Path, size: int) -> None:
    for strategy in ("partial", "full"):
        found = {}
        for processes, batch in ((1, 32), (2, 32), (1, 64), (2, 64)):
            place = folder / f"{strategy}-{processes}-{batch}"
            found[processes, batch] = result = train(table, place, strategy, batch, processes, size)
            print(json.dumps({"strategy": strategy} | result), flush=True)
        two, larger = found[2, 32], found[2, 64]
        a = found[1, 32]["epoch_s"] / two["rows"]
        g = (two["epoch_s"] - two["rows"] * a / 2) / two["steps"]
        expected = larger["rows"] * a / 2 + larger["steps"] * g
        gains = [found[1, batch]["epoch_s"] / found[2, batch]["epoch_s"] for batch in (32, 64)]
        print(
            f"{strategy}: a = {a * 1e3:.1f} ms a row, g = {g * 1e3:.0f} ms a step of {two['parameters']:,} "
            f"parameters; two processes are {gains[0]:.2f} times as fast as one in batches of 32, "
            f"{gains[1]:.2f} of 64; an epoch in batches of 64 on two: {expected:.2f} s expected, "
            f"{larger['epoch_s']:.2f} measured",
            flush=True,
        )


def predicting(cells: list[Cell], table: Path, folder: Path, sizes: tuple[int, int], size: int) -> None:
    run, seconds = folder / "probe", {}
    asked = ["--strategy", "feature-extraction", "--image-size", size, "--backbone", "efficientnet-lite0"]
    unfreeze("train", table, "--output-dir", run, *asked, cores=2)
    for rows in sizes:
        inputs = folder / f"in-{rows}"
        inputs.mkdir()
        for number in range(rows):
            (inputs / f"{number:06}.png").symlink_to(cells[number % len(cells)].image)
        for workers in (1, 2):
            output = folder / f"out-{rows}-{workers}"
            asked = ["predict", run, inputs, "--engine", "ray", "--workers", workers, "--piece-rows", 100]
            seconds[rows, workers] = took = unfreeze(*asked, "--output", output, cores=workers)
            print(f"{rows:,} pictures, {workers} workers: {took:.1f} s", flush=True)
    few, many = sizes
    c = (seconds[many, 1] - seconds[few, 1]) / (many - few)
    s = seconds[few, 1] - few * c
    print(f"c = {c * 1e3:.2f} ms a picture and core, s = {s:.1f} s to begin and end")
    for rows in sizes:
        print(f"{rows:,} pictures on two: {s + rows * c / 2:.1f} s expected, {seconds[rows, 2]:.1f} measured")
    for rows in COUNTS:
        hours = ", ".join(f"{(s + rows * c / n) / 3600:,.2f} h on {n}" for n in FLEETS)
        print(f"{rows:,} pictures: {hours}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=300, help="cells to train, validate and test on")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--predict-rows", type=int, nargs=2, default=(500, 2500), metavar=("FEW", "MANY"))
    arguments = parser.parse_args()
    print(f"{processor_name()}, one core a process", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = solar_cells()
        chosen = np.random.default_rng(0).permutation(len(cells))[: arguments.rows]
        table = folder / "cells.csv"
        write_table([cells[row] for row in chosen], table)
        if "training" in arguments.parts:
            training(table, folder, arguments.image_size)
        if "predicting" in arguments.parts:
            predicting(cells, table, folder, tuple(arguments.predict_rows), arguments.image_size)


if __name__ == "__main__":
    main()
