"""What a training gains over the probe in trials on half of the rows, and on all of them.

    python bench/halves.py --tasks solar-100,digits-200 --seeds 5 --image-size 128 --results bench/results/halves.jsonl

For each seed ``full`` is tried at full length on both halves of the rows of a task, as ``--strategy auto`` does, beside
the probe fitted on the same half. What full fine-tuning gains on all rows is read from the results of chooser.py, of
the same rows under the same seed (``--beside``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from chooser import KEY, drawn, key_of, settings_of, task_arguments, tasks_of
from kept import ROOT, Kept
from unfreeze.choose.settings import Decisions
from unfreeze.choose.trials import FOLDS
from unfreeze.config import FLOOR, TrainRequest
from unfreeze.progress import Clock, Silent
from unfreeze.training.choosing import candidate_plans
from unfreeze.training.facing import gather_facts
from unfreeze.training.prepare import read_data
from unfreeze.training.probed import probe_data
from unfreeze.training.trial_record import Begun, TrialRecord
from unfreeze.training.trying import Trier

TRIED = "full"


def measure(task: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The gain of trials on both halves; None where nothing is hoped of ``full``, so that it is not tried."""
    request = TrainRequest(**drawn(task, seed, arguments))
    probed = probe_data(read_data(request), Decisions(request), Clock(), Silent())
    error = 1 - probed.probe.probe.accuracy
    plans = candidate_plans(probed.material, gather_facts(probed.material, probed.probe), error=error)
    candidate = next((one for one in plans if one.name == TRIED), None)
    if candidate is None:
        return None
    begun = Begun(settings={}, time_limit_seconds=0.0, left=0.0, candidates=(), dropped=())
    with tempfile.TemporaryDirectory() as folder:
        record = TrialRecord(Path(folder) / "trials.json", begun)
        tried = {candidate.name: plans[candidate]}
        trier = Trier(probed.material, probed.probe, tried, record, lambda: False)
        trials = [trier(candidate, half, 1.0) for half in range(FOLDS)]
    if failed := [trial.failed for trial in trials if trial.failed]:
        raise RuntimeError(f"{task}, seed {seed}: {failed[0]}")
    rows = sum(len(trial.y) for trial in trials)
    return key_of(task, TRIED, seed, arguments) | {
        "gain": sum(trial.gain * len(trial.y) for trial in trials) / rows,
        "behind": candidate.behind * error,
    }


def report(results: list[dict[str, Any]], beside: Kept) -> None:
    """What trials are behind with, by task."""
    known = {tuple(row[name] for name in KEY): row["accuracy"] for row in beside.rows}
    gains: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for row in results:
        key = tuple(row[name] for name in KEY)
        floor = tuple(FLOOR if name == "strategy" else row[name] for name in KEY)
        if key in known and floor in known:
            gains[row["task"]].append((known[key] - known[floor], row["gain"], row["behind"]))
    print("| task | seeds | gained of all rows | of half of them | behind | hoped |")
    print("|---|---|---|---|---|---|")
    for task, found in gains.items():
        whole, half, hoped = (100 * statistics.mean(values) for values in zip(*found, strict=True))
        print(f"| {task} | {len(found)} | {whole:+.1f} | {half:+.1f} | {whole - half:+.1f} | {hoped:+.1f} |")
    behind = [100 * (whole - half) for found in gains.values() for whole, half, _ in found]
    if len(behind) > 1:
        error = statistics.stdev(behind) / len(behind) ** 0.5
        hoped = 100 * statistics.mean(hoped for found in gains.values() for *_, hoped in found)
        print(f"\nBehind by {statistics.mean(behind):.1f} ± {error:.1f} points, {hoped:.1f} hoped.")


def main() -> None:
    parser = task_arguments(__doc__)
    parser.add_argument("--beside", type=Path, default=ROOT / "bench" / "results" / "chooser.jsonl")
    arguments = parser.parse_args()
    tasks = tasks_of(parser, arguments)
    kept = Kept(arguments.results, KEY)
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("UNFREEZE_CACHE", cache)
        for seed in range(arguments.seeds):
            for task in tasks:
                if kept.has(**key_of(task, TRIED, seed, arguments)):
                    continue
                if (found := measure(task, seed, arguments)) is None:
                    print(f"{task}, seed {seed}: nothing is hoped of {TRIED}")
                else:
                    kept.add(found)
    settings = settings_of(TRIED, arguments).items()
    report([row for row in kept.rows if settings <= row.items()], Kept(arguments.beside, KEY))
    print(f"\n{kept.told()}")


if __name__ == "__main__":
    main()
