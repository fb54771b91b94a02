"""The whole of `unfreeze train --strategy gradual` beside fastai's ``fine_tune(5)``: used by bench/prefix.py."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import save_file

from unfreeze.backbones import load_backbone
from unfreeze.config import TrainRequest
from unfreeze.heads.probe import wilson_interval
from unfreeze.run import train

SCRIPT = Path(__file__).parent / "fastai_finetune.py"
PYTHON = Path(__file__).parents[2] / ".venv-peers" / "fastai" / "bin" / "python"
PEER_EPOCHS = 5

Tables = tuple[Path, Path]
Result = dict[str, float | str]


def compare_with_fastai(
    tables: Sequence[Tables], folder: Path, *, backbone: str, val: float, epochs: int | None, augment: bool
) -> None:
    """Print seconds and accuracy of both for each pair of a training and a test table; the pair's place is the seed.

    ``val`` and ``epochs`` are ours; ``augment`` lets fastai augment too.
    """
    if not PYTHON.is_file():
        raise SystemExit(f"{PYTHON} does not exist: run `bash bench/peers/make_env.sh fastai` first.")
    weights = folder / "backbone.safetensors"
    save_file(load_backbone(backbone, modality="image").module.state_dict(), weights)
    results: dict[str, list[Result]] = {"unfreeze": [], "fastai": []}
    print(f"{'':32} {'seconds':>8} {'accuracy':>9} {'95 % interval':>16}")
    for seed, pair in enumerate(tables):
        for table in pair:
            read_once(table)
        sides: list[tuple[str, Callable[[], Result]]] = [
            ("unfreeze", lambda pair=pair, seed=seed: train_ours(pair, folder, backbone, val, epochs, seed)),
            ("fastai", lambda pair=pair, seed=seed: train_fastai(pair, weights, seed, augment)),
        ]
        # In turns, so that a machine that slows down does not favour one of them.
        for side, training in sides if seed % 2 == 0 else sides[::-1]:
            result = training()
            low, high = wilson_interval(result["accuracy"], int(result["n"]))
            results[side].append(result)
            print(
                f"{f'{side}, seed {seed}':32} {result['seconds']:8.1f} {result['accuracy']:9.4f} "
                f"{f'{low:.3f} to {high:.3f}':>16}",
                flush=True,
            )
    print_summary(results)


def print_summary(results: dict[str, list[Result]]) -> None:
    titles = {"unfreeze": "unfreeze, gradual", "fastai": f"fastai, fine_tune({PEER_EPOCHS})"}
    seconds = {}
    for side, title in titles.items():
        seconds[side] = statistics.median(one["seconds"] for one in results[side])
        mean = statistics.mean(one["accuracy"] for one in results[side])
        # Every seed is tested on the same rows: more seeds are not more rows.
        low, high = wilson_interval(mean, int(results[side][0]["n"]))
        print(f"{title:32} {seconds[side]:8.1f} {mean:9.4f} {f'{low:.3f} to {high:.3f}':>16}  median, mean")
    print(f"{seconds['fastai'] / seconds['unfreeze']:.2f} times faster than fastai")
    print(f"The peer's versions: {results['fastai'][0]['versions']}")


def read_once(table: Path) -> None:
    """Read the files of a table: whoever comes first would otherwise be the one to wait for the disk."""
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            Path(row["image"]).read_bytes()


def train_ours(
    tables: Tables, folder: Path, backbone: str, val: float, epochs: int | None, seed: int
) -> Result:
    """The command from reading the data to its report, with nothing stored before."""
    os.environ["UNFREEZE_CACHE"] = str(folder / f"cache{seed}")
    request = TrainRequest(
        data=str(tables[0]),
        test=str(tables[1]),
        val=val,
        output_dir=folder / f"run{seed}",
        backbone=backbone,
        strategy="gradual",
        epochs=epochs,
        stratify_column="cell_type",
        seed=seed,
    )
    started = time.perf_counter()
    run = train(request)
    seconds = time.perf_counter() - started
    parts = ", ".join(f"{entry.part} {entry.seconds:.1f} s" for entry in run.report.timing)
    print(f"  ours, seed {seed}: {parts}")
    return {"seconds": seconds, "accuracy": run.test.accuracy, "n": run.test.n}


def train_fastai(tables: Tables, weights: Path, seed: int, augment: bool) -> Result:
    command = [str(PYTHON), str(SCRIPT), *map(str, tables), str(weights)]
    command += ["--epochs", str(PEER_EPOCHS), "--seed", str(seed)]
    command += ["--augment"] if augment else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
