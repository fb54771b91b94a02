"""Predicted against measured: seconds and memory of a whole thawing, for every strategy that fits the backbone.

python bench/cost.py --rows 200 --epochs 3
python bench/cost.py --texts MAILS.parquet --rows 150 --epochs 2 full lora

Each prediction is made in a process of its own and followed at once by the thawing it is about, in another, as
``unfreeze plan`` is followed by ``unfreeze train``. A factor is predicted over measured. Other work on the machine
between the two shows in it: repeat, and look at the spread. On a machine that is never quiet ``--processor-time``
counts the seconds of one processor core instead of the clock's, for both, in processes that use one core alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.config import THAWING, TrainRequest
from unfreeze.errors import RequestError


@dataclass(frozen=True)
class Setting:
    """What all cells of a bench share."""

    data: Path
    backbone: str
    epochs: int
    store: str
    image_size: int | None
    processor_time: bool


def choose_clock(setting: Setting) -> None:
    """Before anything else is imported: with one core and one thread, its busy seconds are what an idle core takes."""
    if setting.processor_time:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.environ["OMP_NUM_THREADS"] = "1"
        time.perf_counter = time.process_time  # type: ignore[assignment]


def prepare(strategy: str, setting: Setting) -> tuple[Any, Any]:
    """The material of a request, and the strategy's plan."""
    from unfreeze.choose.settings import Decisions
    from unfreeze.progress import Clock, Silent
    from unfreeze.training.prepare import read_data
    from unfreeze.training.probed import probe_data

    request = TrainRequest(
        data=str(setting.data),
        backbone=setting.backbone,
        strategy=strategy,
        epochs=setting.epochs,
        store=setting.store,
        image_size=setting.image_size,
    )
    probed = probe_data(read_data(request), Decisions(request), Clock(), Silent())
    return probed.material, probed.plan


def predict(strategy: str, setting: Setting) -> dict[str, Any]:
    """What the cost model says, and how long it took to say it."""
    choose_clock(setting)
    from unfreeze.training.costing import CostModel

    try:
        material, plan = prepare(strategy, setting)
    except RequestError as problem:
        return {"refused": str(problem)}
    model = CostModel(material)
    cost = model.predict(plan)
    return cost.to_dict() | {"measuring": model.spent}


def measure(strategy: str, setting: Setting) -> dict[str, Any]:
    """The thawing itself."""
    choose_clock(setting)
    from unfreeze.training.thawing import thaw

    material, plan = prepare(strategy, setting)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _, fit = thaw(Path(folder), material, plan, resume=False)
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "fit_seconds": fit.seconds,
        "epoch_seconds": {
            name: statistics.mean(record.seconds for record in fit.history if record.phase == name)
            for name in {record.phase for record in fit.history}
        },
        "epochs": Counter(record.phase for record in fit.history),
        "memory_bytes": max(record.peak_bytes for record in fit.history),
    }


def write_cells(rows: int, path: Path) -> None:
    """A table of solar cells, evenly drawn."""
    import numpy as np

    from unfreeze.demo import solar_cells, write_table

    cells = solar_cells()
    chosen = np.random.default_rng(0).permutation(len(cells))[:rows]
    write_table([cells[index] for index in chosen], path)


def write_texts(source: Path, rows: int, path: Path) -> None:
    """A table of the first columns ``text`` and ``label`` of a Parquet file."""
    import numpy as np
    import pyarrow.parquet as parquet

    table = parquet.read_table(source, columns=["text", "label"])
    chosen = np.random.default_rng(0).permutation(len(table))[:rows]
    parquet.write_table(table.take(chosen), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("strategies", nargs="*", default=list(THAWING))
    parser.add_argument("--texts", type=Path, help="a Parquet file with text and label, instead of the cells")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--backbone")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--store", default="auto")
    parser.add_argument("--processor-time", action="store_true", help="seconds of one core, not of the clock")
    parser.add_argument("--results", type=Path, help="file that every cell is added to, a JSON object a line")
    arguments = parser.parse_args()
    backbone = arguments.backbone or ("all-minilm-l6-v2" if arguments.texts else "efficientnet-lite0")
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UNFREEZE_CACHE"] = str(Path(folder) / "cache")
        data = Path(folder) / ("texts.parquet" if arguments.texts else "cells.csv")
        if arguments.texts:
            write_texts(arguments.texts, arguments.rows, data)
        else:
            write_cells(arguments.rows, data)
        setting = Setting(
            data,
            backbone,
            arguments.epochs,
            arguments.store,
            arguments.image_size,
            arguments.processor_time,
        )
        print(f"{backbone}, {arguments.rows} rows, {arguments.epochs} epochs, store {arguments.store}")
        print("| strategy | predicted s | measured s | factor | memory factor | measuring s |")
        print("|---|---|---|---|---|---|", flush=True)
        with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
            for strategy in arguments.strategies:
                run_cell(strategy, setting, arguments.repetitions, pool, arguments.results)


def run_cell(
    strategy: str, setting: Setting, repetitions: int, pool: ProcessPoolExecutor, results: Path | None
) -> None:
    """Predict and measure in turns; print a row."""
    cells = []
    for repetition in range(repetitions):
        # Which comes first alternates: what is slower at a time falls on both in turn.
        if repetition % 2:
            actual = pool.submit(measure, strategy, setting).result()
            told = pool.submit(predict, strategy, setting).result()
        else:
            told = pool.submit(predict, strategy, setting).result()
            if "refused" in told:
                print(f"| {strategy} | {told['refused']} | | | | |", flush=True)
                return
            actual = pool.submit(measure, strategy, setting).result()
        cells.append((told, actual))
        if results is not None:
            with results.open("a") as file:
                file.write(json.dumps({"strategy": strategy, "predicted": told, "measured": actual}) + "\n")

    def shown(values: list[float], digits: int) -> str:
        return ", ".join(f"{value:.{digits}f}" for value in values)

    print(
        f"| {strategy} | {shown([told['seconds'] for told, _ in cells], 1)} "
        f"| {shown([actual['seconds'] for _, actual in cells], 1)} "
        f"| {shown([told['seconds'] / actual['seconds'] for told, actual in cells], 2)} "
        f"| {shown([told['memory_bytes'] / actual['memory_bytes'] for told, actual in cells], 2)} "
        f"| {shown([told['measuring'] for told, _ in cells], 1)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
