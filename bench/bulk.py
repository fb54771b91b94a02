"""Bulk prediction on Ray: every row once, killed in the middle and run again, and rows a second beside plain predict.

    python bench/bulk.py
    python bench/bulk.py --rows 100000 --workers 2 --plain-rows 10000

Short made-up texts, one in a hundred an empty cell, in four Parquet files; a probe on MiniLM answers. The command is
killed with SIGKILL when a third of the pieces is there, and run again. Seconds are of whole commands, with starting
Ray and loading a model for each worker.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unfreeze.bulk.run import PIECE_ROWS
from unfreeze.config import TrainRequest
from unfreeze.executors.processor import available_cores, processor_name
from unfreeze.run import train

WORDS = {
    "ham": ("meeting", "report", "Monday", "draft", "agenda", "minutes"),
    "news": ("election", "storm", "minister", "border", "harvest", "strike"),
    "spam": ("prize", "winner", "cash", "claim", "offer", "urgent"),
}
SHARDS, BAD_EVERY = 4, 100


def texts(count: int, random: np.random.Generator) -> list[str | None]:
    names = list(WORDS)
    return [
        None if row % BAD_EVERY == 7 else f"{' '.join(random.choice(WORDS[names[row % 3]], 4))} {row}"
        for row in range(count)
    ]


def train_probe(folder: Path) -> Path:
    random = np.random.default_rng(0)
    table = folder / "mails.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([" ".join(random.choice(WORDS[name], 4)), name] for name in WORDS for _ in range(60))
    request = TrainRequest(
        data=str(table),
        backbone="all-minilm-l6-v2",
        max_length=16,
        strategy="feature-extraction",
        output_dir=folder / "run",
    )
    return train(request).folder


def predict(run: Path, inputs: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "unfreeze", "predict", str(run), str(inputs), *more]


def kill_in_the_middle(command: list[str], output: Path, pieces: int) -> float:
    """Seconds until a third of the pieces is there and the command is killed."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(output.glob("predictions/part-*"))) < pieces // 3:
        time.sleep(0.1)
    process.kill()
    process.wait()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--plain-rows", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{processor_name()}, {available_cores()} cores, {arguments.workers} workers", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure(folder, train_probe(folder), arguments)


def measure(folder: Path, run: Path, arguments: argparse.Namespace) -> None:
    random = np.random.default_rng(1)
    (folder / "in").mkdir()
    each = arguments.rows // SHARDS
    for shard in range(SHARDS):
        pq.write_table(pa.table({"text": texts(each, random)}), folder / "in" / f"s{shard}.parquet")
    pq.write_table(pa.table({"text": texts(arguments.plain_rows, random)}), folder / "plain.parquet")

    began = time.perf_counter()
    plain = predict(run, folder / "plain.parquet", "--output", str(folder / "answers.parquet"))
    subprocess.run(plain, check=True, stderr=subprocess.DEVNULL)
    alone = time.perf_counter() - began
    print(
        f"plain predict: {arguments.plain_rows:,} rows, {alone:.0f} s, {arguments.plain_rows / alone:.0f} a second"
    )

    output = folder / "out"
    command = predict(
        run, folder / "in", "--engine", "ray", "--output", str(output), "--workers", str(arguments.workers)
    )
    pieces = SHARDS * -(-each // PIECE_ROWS)
    first = kill_in_the_middle(command, output, pieces)
    kept = len(list(output.glob("predictions/part-*")))
    print(f"killed after {first:.0f} s with {kept} of {pieces} pieces written", flush=True)
    began = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    second = time.perf_counter() - began
    good = pq.read_table(output / "predictions", columns=["input"]).column(0).to_pylist()
    bad = pq.read_table(output / "bad", columns=["input"]).column(0).to_pylist()
    wanted = {f"s{shard}.parquet:{row + 1}" for shard in range(SHARDS) for row in range(each)}
    twice = len(good) + len(bad) - len({*good, *bad})
    print(f"run again: {second:.0f} s; {len(good):,} predicted, {len(bad):,} bad, {twice} twice, ", end="")
    print(f"{len(wanted - {*good, *bad})} missing of {len(wanted):,}")
    rows = len(wanted)
    print(
        f"on Ray: {rows:,} rows, {first + second:.0f} s in both runs, {rows / (first + second):.0f} a second"
    )


if __name__ == "__main__":
    main()
