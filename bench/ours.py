"""One training of ours in a process of its own, as a side of bench/beside.py.

    python bench/ours.py TRAIN TEST --strategy gradual --backbone efficientnet-lite0

Everything that is not said is at its default; nothing is stored before. Prints one JSON object, as the peers do;
``importing`` is what imports take, of which most come later in the command itself.
``curve``: seconds and validation accuracy of the probe and after each epoch, validation itself included.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import tempfile
import time
from pathlib import Path

# What a training imports on its way, by backbone: the scripts of the peers import everything before they begin.
LATE = ("openvino", "scipy.stats", "sklearn.manifold")
LIBRARIES = {"efficientnet-lite0": "timm"}
AFTERWARDS = ("test rows, from the raw inputs", "baselines", "scoring", "examples", "saving", "report")


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as name:
        os.environ["UNFREEZE_CACHE"] = str(Path(name) / "cache")
        start = time.perf_counter()
        from unfreeze.config import TrainRequest
        from unfreeze.run import train

        for library in (*LATE, LIBRARIES.get(arguments.backbone, "transformers")):
            # OpenVINO is not needed beside an accelerator.
            if importlib.util.find_spec(library):
                importlib.import_module(library)
        imported = time.perf_counter() - start
        run = train(
            TrainRequest(
                data=arguments.train,
                test=arguments.test,
                output_dir=Path(name) / "run",
                backbone=arguments.backbone,
                strategy=arguments.strategy,
                epochs=arguments.epochs,
                max_length=arguments.max_length,
                image_column="image" if arguments.train.endswith(".csv") else None,
                label_column="label",
                seed=arguments.seed,
                device=arguments.device,
            )
        )
        timing = {entry.part: entry.seconds for entry in run.report.timing}
        result = {
            "accuracy": run.test.accuracy,
            "n": run.test.n,
            "seconds": run.seconds,
            "importing": imported,
            "timing": timing,
            "curve": curve(Path(name) / "run", timing, run.validation.accuracy),
        }
    print(json.dumps(result))


def curve(folder: Path, timing: dict[str, float], reached: float) -> list[tuple[float, float]]:
    """What was known after how many seconds of the training; a probe is known before the test rows are read."""
    history = folder / "history.csv"
    known = sum(seconds for part, seconds in timing.items() if part not in (*AFTERWARDS, "thawing"))
    if not history.exists():
        return [(known, reached)]
    with history.open(newline="") as file:
        epochs = list(csv.DictReader(file))
    # What thawing took besides its epochs (filling stores, measuring, the first look) mostly comes first.
    known += timing["thawing"] - sum(float(epoch["seconds"]) for epoch in epochs)
    if not epochs[-1]["val_accuracy"]:
        # No epoch is judged where pairs are trained on: it is known when the head has been fitted.
        return [(known + sum(float(epoch["seconds"]) for epoch in epochs), reached)]
    points = []
    for epoch in epochs:
        known += float(epoch["seconds"])
        points.append((known, float(epoch["val_accuracy"])))
    return points


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
