"""The feature part of `unfreeze train` from an empty store and from a full one, on the solar cells, in one run.

python bench/store.py
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from unfreeze.config import FLOOR
from unfreeze.demo import demo_request, solar_cells, write_table
from unfreeze.run import train

PART = "frozen pass"


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["UNFREEZE_CACHE"] = str(folder / "cache")
        table = folder / "solar_cells.csv"
        write_table(solar_cells(), table)
        seconds = []
        for number in range(2):
            run = train(replace(demo_request(table, folder / f"run{number}", seed=0), strategy=FLOOR))
            parts = {entry.part: entry.seconds for entry in run.report.timing}
            seconds.append(parts[PART])
            print(
                f"run {number + 1}: " + ", ".join(f"{part} {value:.2f} s" for part, value in parts.items()),
                flush=True,
            )
    ratio = seconds[0] / seconds[1]
    print(f"{PART}: {seconds[0]:.2f} s from nothing, {seconds[1]:.2f} s from the store: {ratio:.1f} times")


if __name__ == "__main__":
    main()
