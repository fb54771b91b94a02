"""Accuracy of the probe on the solar cells over several split seeds: the demo's protocol, repeated.

python bench/solar_probe.py
python bench/solar_probe.py --backbone timm:vit_small_patch14_dinov2@FILE --image-size 224 --seeds 1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from unfreeze.demo import demo_request, solar_cells, write_table
from unfreeze.run import train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strategy", default="feature-extraction")
    arguments = parser.parse_args()
    accuracies, balanced = [], []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "solar_cells.csv"
        write_table(solar_cells(), table)
        for seed in range(arguments.seeds):
            request = replace(
                demo_request(table, Path(folder) / f"run{seed}", seed=seed),
                backbone=arguments.backbone,
                image_size=arguments.image_size,
                strategy=arguments.strategy,
            )
            started = time.perf_counter()
            run = train(request)
            accuracies.append(run.test.accuracy)
            balanced.append(run.test.balanced_accuracy)
            print(
                f"seed {seed}: accuracy {run.test.accuracy:.4f} "
                f"({run.test.accuracy_low:.3f}–{run.test.accuracy_high:.3f}), "
                f"balanced {run.test.balanced_accuracy:.4f}, out of fold {run.validation.accuracy:.4f}, "
                f"{time.perf_counter() - started:.1f} s",
                flush=True,
            )
    print(
        f"{arguments.backbone}, {arguments.strategy}, {arguments.seeds} seeds: "
        f"mean accuracy {statistics.mean(accuracies):.4f}, mean balanced accuracy {statistics.mean(balanced):.4f}"
    )


if __name__ == "__main__":
    main()
