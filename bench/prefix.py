"""What storing the frozen prefix is worth: the same plans with and without it.

    python bench/prefix.py --epochs 12 --val 0.25

EfficientNet-Lite0 on the solar cells, always the same quarter of them held out; the training rows are drawn by seed.
With P the frozen and S the trained share of a forward pass, an epoch from the store can be (P + 3S) / 3S times faster.
The input, I, is counted apart: it is augmentation and copying, since files are decoded once for a whole training, with
the store as without. Parts are told apart by the processor's clock: on a GPU only the totals mean something.
With a quarter for validation fewer than 400 of 500 rows are left to train on, and `gradual` ends before it thaws
everything, which no store could help.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prefix_figures import Figures, Total, print_figures, print_totals
from tables import write_cells
from unfreeze.choose.settings import Decisions
from unfreeze.config import TrainRequest
from unfreeze.contracts import Backbone, Executor, State
from unfreeze.data.chance import keys_of
from unfreeze.data.reading import read_images
from unfreeze.engine.devices import precisions
from unfreeze.engine.estimate import Estimate
from unfreeze.engine.fit import EpochRecord, Rows, Task, fit
from unfreeze.engine.inputs import ImageInputs, Inputs
from unfreeze.engine.prefix import Prefix
from unfreeze.engine.storing import StoringMaker
from unfreeze.executors import build_executor
from unfreeze.executors.processor import available_cores, processor_name
from unfreeze.plan import Phase, Plan
from unfreeze.progress import Clock, Silent
from unfreeze.strategies import STRATEGIES
from unfreeze.strategies.settings import StrategySettings
from unfreeze.training.prepare import read_data
from unfreeze.training.probed import probe_data
from unfreeze.training.starting import starting_head

BACKBONE = "efficientnet-lite0"
STORE_BYTES = 8 * 10**9


@dataclass(eq=False)
class TimedInputs:
    """Inputs that note the seconds spent on them by round."""

    inner: Inputs
    seconds: dict[int | None, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inner)

    def batch(self, rows: NDArray[np.intp], round_: int | None) -> State:
        started = time.perf_counter()
        state = self.inner.batch(rows, round_)
        self.seconds[round_] = self.seconds.get(round_, 0.0) + time.perf_counter() - started
        return state

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[NDArray[np.intp]]:
        return self.inner.batches(seed, epoch, batch_size)


@dataclass(frozen=True)
class Making:
    """One prefix as it was made: seconds of filling it, and of building its executor and measuring before."""

    prefix: Prefix
    filling: float
    preparing: float
    estimate: Estimate | None


@dataclass(eq=False)
class TimedMaker(StoringMaker):
    """A maker of prefixes that notes how long its parts take, by phase."""

    clock: Clock = field(default_factory=Clock)
    makings: dict[str, Making] = field(default_factory=dict)

    def make(
        self, phase: Phase, boundary: int, *, rounds: int, stored: tuple[int, ...] | None = None
    ) -> Prefix:
        self.estimates = []
        self.clock = Clock()
        with self.clock.part("making"):
            prefix = super().make(phase, boundary, rounds=rounds, stored=stored)
        filling = self.clock.seconds.get("filling", 0.0)
        estimate = self.estimates[0] if self.estimates else None
        self.makings[phase.name] = Making(prefix, filling, self.clock.seconds["making"] - filling, estimate)
        return prefix

    def _fill(self, *given: Any) -> Prefix:
        with self.clock.part("filling"):
            return super()._fill(*given)


@dataclass(frozen=True, eq=False)
class Part:
    """Decoded rows of one part: squares uint8 (rows, height, width, 3), keys (rows,), classes (rows,)."""

    squares: NDArray[np.uint8]
    keys: NDArray[np.uint64]
    y: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Case:
    """The data and the fitted head of one seed, which every plan starts from."""

    seed: int
    backbone: Backbone
    executor: Executor
    head: torch.nn.Module
    parts: dict[str, Part]
    classes: int
    class_weight: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """One training: seconds of all of it (validation, building and measuring too), how many of the tested
    rows it gets right, and which weights were taken."""

    seconds: float
    right: int
    tested: int
    taken: str
    history: Sequence[EpochRecord]
    makings: dict[str, Making]
    input_seconds: dict[int | None, float]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(available_cores())
    names = ("torch", "timm", "openvino")
    print(f"{processor_name()}, {available_cores()} cores, {', '.join(f'{n} {version(n)}' for n in names)}")
    print(
        f"{BACKBONE}, {arguments.rows} training rows (with validation), {arguments.seeds} seeds\n", flush=True
    )
    with tempfile.TemporaryDirectory() as name:
        compare_stores(arguments, Path(name))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=500, help="training rows; validation is taken from them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", default="partial,gradual")
    parser.add_argument("--epochs", type=int, help="of each plan (default: the strategy's own)")
    parser.add_argument("--val", type=float, default=0.15, help="share of the training rows for validation")
    return parser.parse_args()


def compare_stores(arguments: argparse.Namespace, folder: Path) -> None:
    os.environ["UNFREEZE_CACHE"] = str(folder / "cache")
    figures: list[Figures] = []
    totals: list[Total] = []
    for seed in range(arguments.seeds):
        case = prepare(arguments, folder, seed)
        for strategy in arguments.strategies.split(","):
            settings = StrategySettings(
                rows=len(case.parts["train"].y), classes=case.classes, epochs=arguments.epochs
            )
            plan = STRATEGIES[strategy](case.backbone, settings)
            found = {}
            # In turns, so that a machine that slows down does not favour one of them.
            for stored in (True, False) if seed % 2 == 0 else (False, True):
                one = found[stored] = run(case, plan, folder, stored=stored)
                totals.append(Total(strategy, stored, one.seconds, one.right / one.tested))
                print(
                    f"seed {seed}, {strategy}, store {'on' if stored else 'off'}: {one.seconds:.1f} s, "
                    f"accuracy {one.right / one.tested:.4f} on {one.tested} rows, weights of {one.taken}",
                    flush=True,
                )
            figures += phase_figures(case, plan, found[True], found[False])
    print_figures(figures)
    print_totals(totals)


def prepare(arguments: argparse.Namespace, folder: Path, seed: int) -> Case:
    table, test = write_cells(folder, arguments.rows, seed)
    request = TrainRequest(
        data=str(table), test=str(test), val=arguments.val, backbone=BACKBONE, seed=seed,
        stratify_column="cell_type",
    )  # fmt: skip
    dataset, decisions = read_data(request), Decisions(request)
    material = probe_data(dataset, decisions, Clock(), Silent()).material
    backbone, executor = material.backbone, material.executor
    # What every strategy starts from; the plan says no more than that.
    start = Plan(strategy="start", phases=(Phase(name="head", epochs=1),))
    head = starting_head(material, start, material.part("train"))
    parts = {}
    for part in ("train", "val", "test"):
        rows = dataset.rows(part)
        read = list(read_images(dataset.samples, rows, backbone.preprocess, threads=available_cores()))
        squares = np.stack([picture for _, picture, _ in read])
        digests = np.stack([np.frombuffer(digest, dtype=np.uint8) for _, _, digest in read])
        parts[part] = Part(squares, keys_of(digests), dataset.label[rows].astype(np.int64))
    weight = None
    if decisions.text("class_weight") == "balanced":
        counts = np.bincount(parts["train"].y, minlength=len(dataset.labels))
        weight = (counts.sum() / (len(counts) * counts)).astype(np.float32)
    return Case(seed, backbone, executor, head, parts, len(dataset.labels), weight)


def run(case: Case, plan: Plan, folder: Path, *, stored: bool) -> Outcome:
    """Fit a plan on a copy of the backbone, and count the test rows that it gets right."""
    backbone, head = copy.deepcopy(case.backbone), copy.deepcopy(case.head)
    device = torch.device(case.executor.device)
    engine = case.executor.name.partition("-")[0]
    rows = {part: timed_rows(case, plan, part, device) for part in ("train", "val")}
    task = Task(
        train=rows["train"], val=rows["val"], seed=case.seed, device=device,
        class_weight=case.class_weight, precisions=precisions(device, "auto"),
    )  # fmt: skip

    def build(keep: tuple[int, ...]) -> Executor:
        return build_executor(f"{engine}-fp32", backbone, boundaries=(), keep=keep, device=str(device))

    maker = TimedMaker(
        backbone=backbone, task=task, views=plan.views, batch_size=plan.batch_size, use="on" if stored else "off",
        budget=STORE_BYTES, build=build, phases=plan.phases, folder=folder / "prefix", augmented=plan.augment != "none",
    )  # fmt: skip
    started = time.perf_counter()
    result = fit(plan, backbone=backbone, head=head, task=task, prefix=maker, progress=Silent())
    seconds = time.perf_counter() - started
    test = case.parts["test"]
    executor = build((len(backbone.stages),))
    right = 0
    for squares, y in zip(
        torch.from_numpy(test.squares).split(32), torch.from_numpy(test.y).split(32), strict=True
    ):
        (state,) = executor(State(squares.to(device))).states
        with torch.inference_mode():
            right += int((head.cpu()(state.h).argmax(dim=1) == y).sum())
    return Outcome(
        seconds, right, len(test.y), result.taken, result.history, maker.makings, rows["train"].inputs.seconds
    )


def timed_rows(case: Case, plan: Plan, part: str, device: torch.device) -> Rows:
    data = case.parts[part]
    return Rows(TimedInputs(ImageInputs(data.squares, data.keys, plan.augment, case.seed, device)), data.y)


def phase_figures(case: Case, plan: Plan, stored: Outcome, plain: Outcome) -> list[Figures]:
    """The figures of each phase that has a stored prefix."""
    found, rounds = [], 0
    val = len(case.parts["val"].y)
    for phase in plan.phases:
        making = stored.makings[phase.name]
        ours, theirs = ([r for r in one.history if r.phase == phase.name] for one in (stored, plain))
        if making.prefix.stored and making.estimate is not None and ours and theirs:
            # The first epoch also pays for first calls; where there is one only it has to do.
            warm, warm_plain = ours[1:] or ours, theirs[1:] or theirs
            filled = making.estimate.rows * making.estimate.views
            filling = making.filling * filled / (filled + val)
            data = statistics.mean(plain.input_seconds[rounds + r.epoch] for r in warm_plain)
            waited = statistics.mean(r.wait_share * r.seconds for r in warm_plain)
            found.append(
                Figures(
                    strategy=plan.strategy,
                    phase=phase.name,
                    which=f"seed {case.seed}",
                    boundary=making.prefix.boundary,
                    estimate=making.estimate,
                    plain=statistics.mean(r.seconds for r in warm_plain),
                    stored=statistics.mean(r.seconds for r in warm),
                    input=data,
                    frozen=waited - data,
                    filling=filling,
                    preparing=making.preparing,
                    total_plain=making.preparing + sum(r.seconds for r in theirs),
                    total_stored=making.preparing + filling + sum(r.seconds for r in ours),
                    epochs_plain=len(theirs),
                    epochs_stored=len(ours),
                )
            )
        elif making.prefix.boundary:
            print(f"{plan.strategy}, {phase.name}, seed {case.seed}: no figures. {making.prefix.reason}")
        rounds += phase.epochs
    return found


if __name__ == "__main__":
    main()
