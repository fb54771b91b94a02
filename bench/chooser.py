"""What `--strategy auto` costs beside knowing the best strategy: its regret, on tasks of several sizes.

    python bench/chooser.py --tasks digits-200,mails-32 --seeds 3 --results bench/results/chooser.jsonl

Every strategy and ``auto`` are trained on the same rows for each seed, and tested on rows that are the same for all
seeds of a task. The regret of a rule is the accuracy of the strategy with the best mean over the seeds less the rule's
mean. Beside ``auto`` stand the two rules that need no trial: the classic guide's table by number of rows, and always
full fine-tuning. Times are wall seconds of whole runs, reports included. What the file of results holds is not run
again, and a seed counts for a task once all of its strategies have been run with it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import unfreeze
from kept import Kept
from unfreeze.choose.candidates import FEW_TEXTS
from unfreeze.config import AUTO, FLOOR, ON_PAIRS
from unfreeze.demo import solar_cells
from unfreeze.strategies.classic import by_rows

STRATEGIES = (FLOOR, "partial", "gradual", "discriminative", "full", "lora")
MAIL_CLASSES = 2
PATCH = 14  # pixels of DINOv2
# In the order of the table.
SIZES = {
    "mails": (32, 100, 500, 4000),
    "digits": (200, 1000),
    "solar": (100, 250, 500),
    "solar.dinov2": (100,),
}
NAMES = {"mails": "mails", "digits": "digits", "solar": "solar cells", "solar.dinov2": "solar cells, DINOv2"}
TEST_ROWS = 600
KEY = ("task", "strategy", "seed", "image_size", "max_length", "time_limit")


@dataclass(frozen=True)
class Material:
    """All inputs and labels of a source, and the settings that its runs share."""

    inputs: Sequence[Any]
    labels: Sequence[str]
    settings: dict[str, Any]


def solar(arguments: argparse.Namespace) -> Material:
    cells = solar_cells()
    settings = {"backbone": "efficientnet-lite0", "image_size": arguments.image_size}
    return Material([cell.image for cell in cells], [cell.label for cell in cells], settings)


def solar_by_dinov2(arguments: argparse.Namespace) -> Material:
    """The same cells by a transformer, in pictures of whole patches."""
    cells, side = solar(arguments), arguments.image_size
    settings = {
        "backbone": f"timm:vit_small_patch14_dinov2@{arguments.weights}",
        "image_size": None if side is None else side // PATCH * PATCH,
    }
    return replace(cells, settings=settings)


def digits(arguments: argparse.Namespace) -> Material:
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = (found.images / 16 * 255).astype(np.uint8)
    settings = {"backbone": "efficientnet-lite0", "image_size": arguments.image_size}
    return Material(
        list(np.repeat(grey[..., None], 3, axis=3)), [str(label) for label in found.target], settings
    )


def mails(arguments: argparse.Namespace) -> Material:
    import pyarrow.parquet as pq

    table = pq.read_table(arguments.texts, columns=["text", "label"]).to_pydict()
    settings = {"backbone": "all-minilm-l6-v2", "max_length": arguments.max_length}
    return Material(table["text"], [str(label) for label in table["label"]], settings)


SOURCES: dict[str, Callable[[argparse.Namespace], Material]] = {
    "solar": solar,
    "solar.dinov2": solar_by_dinov2,
    "digits": digits,
    "mails": mails,
}
# Sources that need a file which the project has not: the argument that names it.
NEEDS = {"solar.dinov2": "weights", "mails": "texts"}


def draw(labels: Sequence[str], rows: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to train on, drawn by seed and stratified, and rows to test on, the same for every seed."""
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(labels))
    rest, test = train_test_split(everything, test_size=TEST_ROWS, random_state=0, stratify=labels)
    used, _ = train_test_split(
        rest, train_size=rows, random_state=seed, stratify=[labels[row] for row in rest]
    )
    return used, test


def drawn(task: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What all trainings of a task under a seed are given: data, test data, seed, and settings."""
    source, _, size = task.partition("-")
    material = SOURCES[source](arguments)
    data, test = (
        ([material.inputs[row] for row in rows], [material.labels[row] for row in rows])
        for rows in draw(material.labels, int(size), seed)
    )
    return {"data": data, "test": test, "seed": seed} | material.settings


def measure(task: str, strategy: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    given = drawn(task, seed, arguments)
    limit = settings_of(strategy, arguments)["time_limit"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = unfreeze.train(**given, output_dir=Path(folder) / "run", strategy=strategy, time_limit=limit)
        seconds = time.perf_counter() - began
        found = Path(folder) / "run" / "choice.json"
        choice = json.loads(found.read_text()) if found.exists() else {}
    verdict = choice.get("verdict") or {}
    why = {"why": verdict.get("reason") or choice["decisions"][-1]} if choice else {}
    return key_of(task, strategy, seed, arguments) | {
        "accuracy": run.test.accuracy,
        "seconds": seconds,
        "chosen": choice.get("shipped", strategy),
        **why,
    }


def strategies_of(task: str) -> tuple[str, ...]:
    """All that are compared on a task: what ``auto`` may take belongs to what it is measured by."""
    source, _, size = task.partition("-")
    few = source == "mails" and int(size) <= MAIL_CLASSES * FEW_TEXTS
    return (*STRATEGIES, *(ON_PAIRS if few else ()), AUTO)


def key_of(task: str, strategy: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What tells one run from another."""
    return {"task": task, "strategy": strategy, "seed": seed} | settings_of(strategy, arguments)


def settings_of(strategy: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that a strategy reads."""
    limit = arguments.time_limit if strategy == AUTO else None
    return {"image_size": arguments.image_size, "max_length": arguments.max_length, "time_limit": limit}


def complete(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of those seeds of a task that every strategy of the task was run with."""
    done: dict[tuple[str, int], set[str]] = defaultdict(set)
    for row in results:
        done[row["task"], row["seed"]].add(row["strategy"])
    return [row for row in results if done[row["task"], row["seed"]] >= set(strategies_of(row["task"]))]


@dataclass(frozen=True)
class Regret:
    """What choosing loses on a task, as shares: by ``auto``, by the table, by full fine-tuning; ``seconds``: of
    ``auto`` and of the ``best`` strategy, ``reached``: what these two are right on; ``took``: strategies and how often.
    """

    task: str
    seeds: int
    best: str
    reached: tuple[float, float]
    auto: float
    table: float
    full: float
    took: Counter[str]
    seconds: tuple[float, float]


def regrets(results: Sequence[dict[str, Any]]) -> list[Regret]:
    """What choosing loses on each task of which a seed is complete, in the order of ``SIZES``."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in complete(results):
        cells[result["task"], result["strategy"]].append(result)
    found = []
    for task in (f"{source}-{rows}" for source, sizes in SIZES.items() for rows in sizes):
        mean = {
            strategy: statistics.mean(row["accuracy"] for row in rows)
            for (name, strategy), rows in cells.items()
            if name == task
        }
        if not mean:
            continue
        named = {strategy: value for strategy, value in mean.items() if strategy != AUTO}
        best = max(named, key=lambda strategy: named[strategy])
        autos = cells[task, AUTO]
        took = [statistics.mean(row["seconds"] for row in cells[task, name]) for name in (AUTO, best)]
        found.append(
            Regret(
                task=task,
                seeds=len(autos),
                best=best,
                reached=(mean[AUTO], named[best]),
                auto=named[best] - mean[AUTO],
                table=named[best] - named[by_rows(int(task.rpartition("-")[2]))],
                full=named[best] - named["full"],
                took=Counter(row["chosen"] for row in autos),
                seconds=(took[0], took[1]),
            )
        )
    return found


def table_of(found: Sequence[Regret]) -> list[str]:
    """The lines of the table, as Markdown; regrets in points."""
    lines = [
        "| task | seeds | best strategy | `auto` | its regret | what it took | classic table | always full | "
        "`auto` / best, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        source, _, rows = one.task.rpartition("-")
        took = ", ".join(
            name if len(one.took) == 1 else f"{name} ({count} of {one.seeds})"
            for name, count in one.took.most_common()
        )
        lines.append(
            f"| {int(rows):,} {NAMES[source]} | {one.seeds} | {one.best} {one.reached[1]:.3f} | {one.reached[0]:.3f} | "
            f"{_points(one.auto)} | {took} | {_points(one.table)} | {_points(one.full)} | "
            f"{one.seconds[0]:.0f} / {one.seconds[1]:.0f} |"
        )
    auto, rule, full, first, second = (
        statistics.mean(values)
        for values in zip(*((one.auto, one.table, one.full, *one.seconds) for one in found), strict=True)
    )
    lines.append(
        f"| **mean** | | | | **{_points(auto)}** | | **{_points(rule)}** | **{_points(full)}** | "
        f"{first:.0f} / {second:.0f} |"
    )
    return lines


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"


def task_arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser of what says which rows are drawn, how inputs are read, and where results are kept."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tasks", help="with commas between (default: all for which there is what they need)"
    )
    parser.add_argument("--texts", type=Path, help="Parquet file of mails, with the columns text and label")
    parser.add_argument("--weights", type=Path, help="DINOv2 ViT-S/14 in timm's names")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--results", type=Path, help="file that every result is kept in; see kept.py")
    return parser


def tasks_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[str]:
    """The tasks that were asked for; none may need a file that was not given."""
    lacking = {source: flag for source, flag in NEEDS.items() if getattr(arguments, flag) is None}
    if arguments.tasks is None:
        sizes = {source: rows for source, rows in SIZES.items() if source not in lacking}
        return [f"{source}-{size}" for source, rows in sizes.items() for size in rows]
    tasks: list[str] = arguments.tasks.split(",")
    for task in tasks:
        if (flag := lacking.get(task.partition("-")[0])) is not None:
            parser.error(f"{task} needs --{flag}")
    return tasks


def main() -> None:
    parser = task_arguments(__doc__)
    parser.add_argument(
        "--strategies", help="with commas between (default: all, those for few texts where they are few)"
    )
    parser.add_argument("--time-limit", default="10m")
    arguments = parser.parse_args()
    tasks = tasks_of(parser, arguments)
    kept, asked = Kept(arguments.results, KEY), arguments.strategies
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("UNFREEZE_CACHE", cache)
        for seed in range(arguments.seeds):
            for task in tasks:
                for strategy in strategies_of(task) if asked is None else asked.split(","):
                    if not kept.has(**key_of(task, strategy, seed, arguments)):
                        kept.add(measure(task, strategy, seed, arguments))
    asked_for = [row for row in kept.rows if settings_of(row["strategy"], arguments).items() <= row.items()]
    if found := regrets(asked_for):
        print("\n".join(table_of(found)))
    print(f"\n{kept.told()}")


if __name__ == "__main__":
    main()
