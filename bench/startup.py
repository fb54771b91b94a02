"""What is waited for around a training: the start of the program, looking at a folder, writing the report.

    python bench/startup.py
    python bench/startup.py --images 10000

``unfreeze --help`` and ``unfreeze check FOLDER`` are timed as whole commands, the report inside of a probe's training:
of 500 images, and of all of the folder, there with a narrow network of random weights, since it is the rows that a
report takes longer for. The folder holds as many PNG files of 224 pixels as said, in ten classes; every file is
different.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze.config import TrainRequest
from unfreeze.executors.processor import available_cores, processor_name
from unfreeze.run import train

SIDE, CLASSES = 224, 10
REPORTED_ROWS, NARROW = 500, "test_resnet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{processor_name()}, {available_cores()} cores")
    times = [seconds_of("--help") for _ in range(arguments.repetitions)]
    print(f"unfreeze --help: {statistics.median(times):.2f} s, median of {len(times)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", arguments.images)
        # The first look also reads the files from the disk; the second has them in memory.
        first, second = (seconds_of("check", str(folder / "images")) for _ in range(2))
        print(f"unfreeze check, {arguments.images:,} images: {first:.1f} s, again {second:.1f} s", flush=True)
        write_images(folder / "few", REPORTED_ROWS)
        narrow = write_network(folder / f"{NARROW}.safetensors")
        for rows, data, backbone in ((REPORTED_ROWS, "few", None), (arguments.images, "images", narrow)):
            request = TrainRequest(
                data=folder / data,
                output_dir=folder / f"run of {data}",
                backbone=backbone,
                strategy="feature-extraction",
            )
            run = train(request)
            # The report cannot tell how long it took itself: it is what the parts that it tells of leave.
            told = sum(entry.seconds for entry in run.report.timing)
            print(f"Writing the report of {rows:,} rows: {run.seconds - told:.2f} s", flush=True)


def seconds_of(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "unfreeze", *command], check=True, capture_output=True)
    return time.perf_counter() - began


def write_network(path: Path) -> str:
    """A small residual network with random weights, as a backbone is named."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model(NARROW, num_classes=0).state_dict(), path)
    return f"timm:{NARROW}@{path}"


def write_images(folder: Path, count: int) -> None:
    """Blocks of random colours: as large a file as a drawing or a simple photo."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class {label}").mkdir(parents=True)
    for place in range(count):
        blocks = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))
        picture.save(folder / f"class {place % CLASSES}" / f"{place:06}.png")


if __name__ == "__main__":
    main()
