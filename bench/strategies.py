"""Every strategy, and the classic recipe of each, on the solar cells: accuracy, trainable parameters, time, memory.

python bench/strategies.py --rows 500 --seeds 5
python bench/strategies.py --backbone timm:vit_small_patch14_dinov2@FILE --image-size 224 --jobs 8 full lora:rank=16

An entry is a strategy, with settings behind a colon where they differ from the defaults; without entries all
strategies are run, with and without ``recipe=classic``. A quarter of the cells is held out for each seed (stratified
by label and kind, as published); the interval is Student's, over the seeds that are counted beside it. Seconds of the
last epoch and memory come from a run in a process of its own that has the machine for itself: of two epochs, or of all
where the recipe fixes them. With ``--results FILE`` what the file holds is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kept import Kept
from unfreeze.comparing.entry import Entry, parse_entry
from unfreeze.comparing.intervals import over_seeds
from unfreeze.config import FLOOR, STRATEGIES
from unfreeze.demo import demo_request, solar_cells, write_table
from unfreeze.executors.processor import available_cores

TIMED_EPOCHS = 2
KEY = ("backbone", "image_size", "rows", "entry", "seed", "timed")


@dataclass(frozen=True)
class Setting:
    """What all runs of a bench share."""

    table: Path
    folder: Path
    backbone: str
    image_size: int | None
    rows: int | None
    jobs: int
    device: str | None

    def key(self, entry: Entry, seed: int, *, timed: bool) -> dict[str, Any]:
        """What tells one run from another; the backbone without the folder of its weights."""
        name, at, file = self.backbone.partition("@")
        return {
            "backbone": name + at + Path(file).name,
            "image_size": self.image_size,
            "rows": self.rows,
            "entry": entry.name,
            "seed": seed,
            "timed": timed,
        }


def measure(entry: Entry, seed: int, setting: Setting, *, timed: bool = False) -> dict[str, Any]:
    """One run; ``timed``: two epochs, whose seconds and memory are what counts."""
    import torch

    from unfreeze.run import train

    torch.set_num_threads(max(1, available_cores() // (1 if timed else setting.jobs)))
    folder = Path(tempfile.mkdtemp(dir=setting.folder)) / "run"
    request = replace(
        demo_request(setting.table, folder, seed=seed),
        backbone=setting.backbone,
        strategy=entry.strategy,
        device=setting.device,
        **({"image_size": setting.image_size} | entry.settings),
    )
    if setting.rows is not None:
        train_table, test_table = reduced(setting, seed)
        request = replace(request, data=str(train_table), test=str(test_table))
    if timed and entry.strategy != FLOOR and "recipe" not in entry.settings:
        request = replace(request, epochs=TIMED_EPOCHS)
    run = train(request)
    result = setting.key(entry, seed, timed=timed) | {
        "accuracy": run.test.accuracy,
        "balanced": run.test.balanced_accuracy,
        "validation": run.validation.accuracy,
        "seconds": run.seconds,
    }
    return result | (training(folder) if (folder / "ledger.json").exists() else {})


def training(folder: Path) -> dict[str, Any]:
    """Parameters trained, epochs, seconds of the last epoch of the last phase, and peak memory of a run."""
    phases = json.loads((folder / "ledger.json").read_text())
    with (folder / "history.csv").open() as file:
        epochs = list(csv.DictReader(file))
    return {
        "parameters": max(sum(group["parameters"] for group in phase["groups"]) for phase in phases),
        "epochs": len(epochs),
        "epoch_seconds": float(epochs[-1]["seconds"]),
        "peak_bytes": max(int(epoch["peak_bytes"]) for epoch in epochs),
    }


def reduced(setting: Setting, seed: int) -> tuple[Path, Path]:
    """Two tables: ``rows`` cells to train and validate on, and the held-out quarter of the seed."""
    from sklearn.model_selection import train_test_split

    with setting.table.open() as file:
        cells = list(csv.DictReader(file))
    kinds = [f"{cell['label']} {cell['cell_type']}" for cell in cells]
    rest, test = train_test_split(range(len(cells)), test_size=0.25, random_state=seed, stratify=kinds)
    used, _ = train_test_split(
        rest, train_size=setting.rows, random_state=seed, stratify=[kinds[row] for row in rest]
    )
    folder = Path(tempfile.mkdtemp(dir=setting.folder))
    for name, rows in (("train", used), ("test", test)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(cells[0]))
            writer.writeheader()
            writer.writerows(cells[row] for row in rows)
    return folder / "train.csv", folder / "test.csv"


def run_all(wanted: list[tuple[Entry, int]], setting: Setting) -> Iterator[dict[str, Any]]:
    """The results of these entries and seeds as they come; failures are printed and left out."""
    # Read when a process starts: without it every run takes all cores for its matrix products.
    os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // setting.jobs))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(setting.jobs, mp_context=spawn) as pool:
        futures = {pool.submit(measure, entry, seed, setting): (entry, seed) for entry, seed in wanted}
        for future in as_completed(futures):
            entry, seed = futures[future]
            try:
                yield future.result()
            except Exception as problem:
                print(f"{entry.name}, seed {seed}: {problem}", flush=True)


def time_alone(entries: list[Entry], setting: Setting) -> Iterator[dict[str, Any]]:
    """Each entry once, one after the other, in a process of its own: a process knows its largest memory alone."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for entry in entries:
            yield pool.submit(measure, entry, 0, setting, timed=True).result()


def interval(values: list[float]) -> str:
    """Mean and Student's 95 % interval over seeds."""
    found = over_seeds(values)
    if found.low is None:
        return f"{found.value:.4f}"
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def print_table(entries: list[Entry], results: list[dict[str, Any]]) -> None:
    print(
        "\n| strategy | seeds | accuracy | balanced accuracy | parameters trained | epochs | s an epoch | peak memory |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for entry in entries:
        rows = [row for row in results if row["entry"] == entry.name]
        free = [row for row in rows if not row["timed"]]
        alone = next((row for row in rows if row["timed"]), {})
        if not free:
            continue
        first = next((row for row in free if "parameters" in row), {})
        cells = [
            entry.name,
            str(len(free)),
            interval([row["accuracy"] for row in free]),
            interval([row["balanced"] for row in free]),
            f"{first['parameters']:,}" if first else "",
            f"{statistics.mean(row['epochs'] for row in free):.0f}" if first else "",
            f"{alone['epoch_seconds']:.2f}" if "epoch_seconds" in alone else "",
            f"{alone['peak_bytes'] / 1e9:.2f} GB" if "peak_bytes" in alone else "",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("entries", nargs="*")
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--rows", type=int, help="training and validation rows (default: all that are not test)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument(
        "--timed", action="store_true", help="also measure seconds an epoch, one run at a time"
    )
    parser.add_argument("--results", type=Path, help="file that every result is kept in; see kept.py")
    arguments = parser.parse_args()
    names = arguments.entries or [
        name for strategy in STRATEGIES for name in (strategy, f"{strategy}:recipe=classic")
    ]
    entries = [parse_entry(name) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "solar_cells.csv"
        write_table(solar_cells(), table)
        setting = Setting(
            table,
            Path(folder),
            arguments.backbone,
            arguments.image_size,
            arguments.rows,
            arguments.jobs,
            arguments.device,
        )
        kept = Kept(arguments.results, KEY)

        def missing(entry: Entry, seed: int, *, timed: bool) -> bool:
            return not kept.has(**setting.key(entry, seed, timed=timed))

        if arguments.timed:
            for result in time_alone([one for one in entries if missing(one, 0, timed=True)], setting):
                kept.add(result)
        seeds = range(arguments.seeds)
        pairs = [(entry, seed) for seed in seeds for entry in entries if missing(entry, seed, timed=False)]
        for result in run_all(pairs, setting):
            kept.add(result)
        same = setting.key(entries[0], 0, timed=False)
        shared = ("backbone", "image_size", "rows")
        print_table(entries, [row for row in kept.rows if all(row[name] == same[name] for name in shared)])
        print(f"\n{kept.told()}")


if __name__ == "__main__":
    main()
