"""Every exported format beside eager PyTorch on this machine: throughput, latency, size, and the cold start.

python bench/export.py
python bench/export.py --image-run runs/photos --text-run runs/mails

Without runs, two are trained: EfficientNet-Lite0 on solar cells, and MiniLM on made-up texts of 20 to 90 words.
Decoding and tokenising are left out. All run in turns: throughput is the median of batches of 32, latency of single
rows. int8 is measured here whether or not `unfreeze export --quantize` would keep it. A cold start is a fresh process
that imports `unfreeze.runtime`, loads `model.onnx` and predicts one row.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trained import train_images, train_texts
from unfreeze.bundle.loading import load
from unfreeze.data.reading import read_raw
from unfreeze.executors.processor import available_cores, processor_name
from unfreeze.exporting.formats import FORMATS
from unfreeze.exporting.network import Network, input_names
from unfreeze.exporting.quantizing import CALIBRATION_ROWS, write_int8
from unfreeze.exporting.run import export
from unfreeze.runtime.exported import Exported, tokenizer_beside
from unfreeze.runtime.exported import load as load_exported
from unfreeze.training.reopening import open_source

BATCH_SIZE = 32

Prepared = Sequence[np.ndarray]


@dataclass(frozen=True)
class Contender:
    """``run`` answers a batch of prepared rows; ``file`` is what it was loaded from, if it was."""

    name: str
    run: Callable[[Prepared], Any]
    file: Path | None = None


def main() -> None:
    arguments = parse()
    cores = available_cores()
    torch.set_num_threads(cores)
    packages = ("torch", "onnxruntime", "openvino", "timm", "transformers", "pillow")
    print(f"{processor_name()}, {cores} cores, {', '.join(f'{name} {version(name)}' for name in packages)}")
    print(f"Load of the machine before: {os.getloadavg()[0]:.1f}. Repetitions: {arguments.repetitions}.\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image_run = arguments.image_run or train_images(folder)
        text_run = arguments.text_run or train_texts(folder)
        starts = []
        print("| run | format | rows/s, batches of 32 | against eager | ms a row: median | p95 | MB |")
        print("|---|---|---|---|---|---|---|")
        for run in (image_run, text_run):
            found, rows, raw = contenders(run, folder / f"exported-{run.name}")
            compare(run.name, found, rows, arguments.repetitions)
            starts.append((run.name, folder / f"exported-{run.name}" / "onnx", raw))
        print("\n| cold start | seconds, median of 5 | slowest |\n|---|---|---|")
        for run_name, model, raw in starts:
            row = folder / f"row-{run_name}"
            row.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
            seconds = [cold_start(model, row, text=isinstance(raw, str)) for _ in range(5)]
            print(f"| {run_name} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-run", type=Path, help="a run of images (default: Lite0, trained first)")
    parser.add_argument("--text-run", type=Path, help="a run of texts (default: MiniLM, trained first)")
    parser.add_argument(
        "--repetitions", type=int, default=9, help="batches of 32; single rows five times as often"
    )
    return parser.parse_args()


def contenders(run: Path, folder: Path) -> tuple[list[Contender], Prepared, bytes | str]:
    """Eager PyTorch and every format; prepared rows; and one raw row."""
    loaded = load(run)
    classifier = loaded.classifier
    names = input_names(classifier.backbone)
    network = Network(classifier).eval()

    def eager(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            logits, probabilities = network(*(torch.from_numpy(arrays[name]) for name in names))
        return logits.numpy(), probabilities.numpy()

    found = []
    for name, format in FORMATS.items():
        done = export(run, format=name, output=folder / name)
        model = Exported(format.open(done.file, classifier), done.card, tokenizer_beside(done.file))
        found.append(Contender(name, model.run, done.file))
        if name == "onnx":
            found.insert(
                0, Contender("eager PyTorch", Exported(eager, done.card, tokenizer_beside(done.file)).run)
            )
            dataset, _ = open_source(loaded, None)
            assert dataset is not None
            raws = [read_raw(dataset.samples, int(row)) for row in dataset.rows("train")[:CALIBRATION_ROWS]]
            prepared = [model.prepare(raw) for raw in raws]
            small = done.file.with_name("int8.onnx")
            method = write_int8(done.file, small, model, prepared)
            found.append(Contender(f"onnx, int8 ({method})", load_exported(small).run, small))
    return found, prepared[:BATCH_SIZE], raws[0]


def compare(run: str, found: Sequence[Contender], rows: Prepared, repetitions: int) -> None:
    batches = timed(found, [rows] * repetitions)
    singles = timed(found, [rows[place % len(rows) :][:1] for place in range(5 * repetitions)])
    base = statistics.median(batches[found[0].name])
    for contender in found:
        middle, alone = statistics.median(batches[contender.name]), singles[contender.name]
        size = "" if contender.file is None else f"{megabytes(contender.file):.1f}"
        print(
            f"| {run} | {contender.name} | {len(rows) / middle:.1f} | {base / middle:.2f} × | "
            f"{1e3 * statistics.median(alone):.1f} | {1e3 * float(np.percentile(alone, 95)):.1f} | {size} |",
            flush=True,
        )


def timed(found: Sequence[Contender], batches: Sequence[Prepared]) -> dict[str, list[float]]:
    """Seconds of every batch by contender, in turns; the first batch is also run before, untimed."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in found}
    for contender in found:
        contender.run(batches[0])
    for batch in batches:
        for contender in found:
            start = time.perf_counter()
            contender.run(batch)
            seconds[contender.name].append(time.perf_counter() - start)
    return seconds


def megabytes(file: Path) -> float:
    weights = file.with_suffix(".bin")
    return (file.stat().st_size + (weights.stat().st_size if weights.exists() else 0)) / 1e6


def cold_start(model: Path, row: Path, *, text: bool) -> float:
    """Seconds of a fresh process from its start to its end, with one prediction."""
    given = "open(sys.argv[2], encoding='utf-8').read()" if text else "sys.argv[2]"
    script = f"import sys; from unfreeze import runtime; runtime.load(sys.argv[1]).predict([{given}])"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", script, str(model), str(row)], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
