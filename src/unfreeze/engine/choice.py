"""Which executor runs the frozen pass, and the proof that its numbers are good enough."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unfreeze.contracts import Backbone, Executor, Passed, State
from unfreeze.data.dataset import UNLABELLED, Dataset
from unfreeze.data.reading import content_hashes
from unfreeze.engine.batches import BadRow, read_batches
from unfreeze.engine.devices import hardware_name
from unfreeze.engine.frozen_pass import compute_features
from unfreeze.engine.precision import PrecisionVerdict, compare_precision
from unfreeze.engine.settled import remember
from unfreeze.engine.store import FeatureStore, store_key
from unfreeze.engine.threads import reading_threads
from unfreeze.errors import RequestError
from unfreeze.executors import ExecutorError, available_executors, build_executor, measure_error
from unfreeze.executors import unavailable_executors as why_unavailable
from unfreeze.regular import read_record
from unfreeze.runtime.files import cache_root, parse_json

# Two float32 engines differ by about 1e-6 of a feature; a wrong conversion was off by 5e-3 and more.
FP32_TOLERANCE = 1e-3
ERROR_ROWS = 32
# Fewer where the processor, which runs the reference, may be hundreds of times slower than the accelerator, and for
# each of the networks that a training makes of one that was measured.
ERROR_ROWS_BESIDE_ACCELERATOR, ERROR_ROWS_OF_TRAINED = 8, 8
PRECISION_ROWS = 256
# Counts up when a verdict is reached in another way: those that are remembered are then no longer.
PROOF = 2
# With fewer rows one flipped prediction is a larger share than what is to be told apart.
FEWEST_PRECISION_ROWS = 128


@dataclass(frozen=True, eq=False)
class ExecutorChoice:
    """The executor that was chosen and why; ``error`` is against float32 PyTorch, None where it is that itself.

    ``exact``: one in fp32 for what is measured; the same where that was chosen.
    """

    name: str
    reason: str
    executor: Executor
    exact: Executor
    error: ExecutorError | None = None
    verdict: PrecisionVerdict | None = None


class LazyExecutor:
    """An executor that is built when its first batch comes: a pass that finds everything stored needs none."""

    def __init__(
        self, name: str, boundaries: tuple[int, ...], device: str, build: Callable[[], Executor]
    ) -> None:
        self.name = name
        self.precision = name.rpartition("-")[2]
        self.boundaries = boundaries
        self.device = device
        self._build = build
        self._built: Executor | None = None

    def __call__(self, batch: State) -> Passed:
        """See ``Executor``."""
        if self._built is None:
            self._built = self._build()
        return self._built(batch)


def resolve_device(device: str) -> str:
    """The device that ``auto`` stands for: the first accelerator that answers, else the processor.

    Raises RequestError when the device that was named is not there.
    """
    import torch

    present = ["cuda"] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        present.append("mps")
    present.append("cpu")
    if device == "auto":
        return present[0]
    if device.partition(":")[0] not in present:
        raise RequestError(f"--device {device} is not there: this machine has {', '.join(present)}.")
    return device


def choose_executor(
    backbone: Backbone,
    dataset: Dataset,
    *,
    boundaries: tuple[int, ...],
    device: str = "auto",
    precision: str = "auto",
    rows: Sequence[int] | NDArray[np.intp] | None = None,
    cache: Path | None = None,
    store: Callable[[Executor], FeatureStore | None] = lambda executor: None,
) -> ExecutorChoice:
    """The executor for a frozen pass over ``dataset``, chosen by rule and checked on real rows.

    On an accelerator PyTorch; on the processor OpenVINO where it is installed and its features on up to 32 of
    ``rows`` (default: training and validation) are within 1e-3 of PyTorch's. ``precision``: ``auto`` takes bf16
    only where the processor has it, it saves more time than trying it takes, and ``compare_precision`` finds no
    difference; ``bf16`` asks for it as it is, and ``fp16`` is for the training on a GPU: frozen passes stay in fp32
    beside it. ``cache`` (default: the cache folder) keeps converted models,
    measured errors and what became of bf16; ``store`` gives the store for an executor's features of the trial.
    Raises RequestError for a precision or device that is not there.
    """
    device = resolve_device(device)
    names = available_executors(device)
    pool = dataset.rows("train", "val") if rows is None else np.asarray(rows, dtype=np.intp)
    kept_in = cache_root() if cache is None else cache
    chooser = _Chooser(backbone, dataset, boundaries, device, kept_in, pool, store)
    if precision == "bf16":
        if not any(name.endswith("bf16") for name in names):
            reason = why_unavailable(device)["torch-bf16"]
            raise RequestError(
                f"--precision bf16 cannot be had on {device}: {reason}. Leave it out, or say fp32."
            )
        return chooser.low_precision_asked(next(name for name in names if name.endswith("bf16")), names)
    if precision == "fp16" and device.partition(":")[0] != "cuda":
        raise RequestError(
            f"--precision fp16 cannot be had on {device}: it is for CUDA GPUs. Leave it out, or say fp32."
        )
    choice = chooser.full_precision(names)
    if precision == "auto" and f"{choice.name.partition('-')[0]}-bf16" in names:
        return chooser.low_precision_tried(choice)
    return choice


@dataclass(frozen=True, eq=False)
class _Chooser:
    backbone: Backbone
    dataset: Dataset
    boundaries: tuple[int, ...]
    device: str
    cache: Path
    pool: NDArray[np.intp]
    store: Callable[[Executor], FeatureStore | None]
    built: dict[str, Executor] = field(default_factory=dict)

    def full_precision(self, names: Sequence[str]) -> ExecutorChoice:
        """OpenVINO when its measured error allows it, else PyTorch in fp32."""
        if self.device != "cpu":
            error = self.error("torch-fp32")
            measured = "" if error is None else f"; its features are {_distance(error)}"
            reason = f"{self.device} runs it{measured}"
            return self.chosen("torch-fp32", reason, error)
        if "openvino-fp32" not in names:
            return self.chosen("torch-fp32", "OpenVINO is not installed; PyTorch in fp32")
        return self.chosen(*_judge(lambda: self.error("openvino-fp32"), self.backbone))

    def low_precision_asked(self, name: str, names: Sequence[str]) -> ExecutorChoice:
        """The bf16 executor that was asked for, with its measured error, beside what measures in fp32."""
        error = self.error(name)
        measured = (
            "" if error is None else f"; its features are {error.relative_median:.1%} from fp32 (median)"
        )
        asked = self.chosen(name, f"bf16 was asked for{measured}", error)
        # Elsewhere fp32 is PyTorch's in any case.
        return replace(asked, exact=self.full_precision(names).exact) if self.device == "cpu" else asked

    def low_precision_tried(self, choice: ExecutorChoice) -> ExecutorChoice:
        """The bf16 sibling of ``choice`` when it saves time and makes no difference, else ``choice``."""
        name = f"{choice.name.partition('-')[0]}-bf16"
        rows = spread(self.pool[self.dataset.label[self.pool] != UNLABELLED], PRECISION_ROWS)
        if len(rows) < FEWEST_PRECISION_ROWS or len(self.pool) <= len(rows):
            return choice
        digests, _ = content_hashes(self.dataset.samples.select(rows), threads=reading_threads(None))
        labels = self.dataset.label[rows].astype(np.int64)
        proof = f"{PROOF} {len(self.pool)}".encode()
        key = self._key(name, proof, digests.tobytes(), labels.tobytes())
        path = self.cache / "precision" / f"{key}.json"
        outcome = _read_outcome(path)
        if outcome is None:
            outcome = self._try_low_precision(name, choice.executor, rows)
            if outcome is None:
                return choice
            remember(path, asdict(outcome))
        if outcome.taken:
            reason = f"bf16 {outcome.why}"
            return self.chosen(name, reason, self.error(name), outcome.verdict)
        return self.chosen(choice.name, f"{choice.reason}; bf16 {outcome.why}", choice.error, outcome.verdict)

    def _try_low_precision(
        self, name: str, high: Executor, rows: NDArray[np.intp]
    ) -> _PrecisionOutcome | None:
        """Whether the low precision is taken; None when too few of ``rows`` can be read to tell.

        Features of the trial are stored, so that the pass that follows finds them.
        """
        if len(np.unique(self.dataset.label[rows])) < 2:
            return _PrecisionOutcome(False, "was not tried, since the rows to try it on are all of one class")
        low = self.build(name)
        batches, positions = self.batches(spread(rows, ERROR_ROWS))
        if not len(positions):
            return None
        for executor in (low, high):
            executor(batches[0])
        low_pace, high_pace = (_seconds(executor, batches) / len(positions) for executor in (low, high))
        # The trial computes its rows twice; all others are computed once, in the precision that is taken.
        saved = len(self.pool) * (high_pace - low_pace) - len(rows) * high_pace
        if saved <= 0:
            why = f"was not tried, since on {len(self.pool):,} rows it would save less than trying it takes"
            return _PrecisionOutcome(False, why)
        passes = [
            compute_features(
                self.dataset,
                self.backbone,
                executor=executor,
                rows=rows,
                boundaries=self.boundaries,
                store=self.store(executor),
            )
            for executor in (low, high)
        ]
        kept = passes[0].rows
        if len(kept) < FEWEST_PRECISION_ROWS or len(np.unique(self.dataset.label[kept])) < 2:
            return None
        low_pass, high_pass = passes
        # What may be shipped reads the last boundary, or all of them: both must agree.
        verdicts = [
            compare_precision(low_pass.joined(read), high_pass.joined(read), self.dataset.label[kept])
            for read in dict.fromkeys((self.boundaries[-1:], self.boundaries))
        ]
        verdict = min(verdicts, key=lambda one: (one.accepted, -one.flips))
        if verdict.accepted:
            return _PrecisionOutcome(True, f"makes no difference here ({verdict.sentence})", verdict)
        return _PrecisionOutcome(False, f"was tried and refused ({verdict.sentence})", verdict)

    def error(self, name: str) -> ExecutorError | None:
        """The error against PyTorch in fp32 on the processor, remembered; None without a readable row."""
        rows = spread(self.pool, ERROR_ROWS if self.device == "cpu" else ERROR_ROWS_BESIDE_ACCELERATOR)
        digests, _ = content_hashes(self.dataset.samples.select(rows), threads=1)
        path = self.cache / "errors" / f"{self._key(name, digests.tobytes())}.json"
        try:
            return ExecutorError(**parse_json(read_record(path)))
        except (OSError, ValueError, TypeError):
            pass
        batches, _ = self.batches(rows)
        if not batches:
            return None
        reference = build_executor("torch-fp32", self.backbone, boundaries=self.boundaries)
        error = measure_error(self.build(name), reference, batches)
        remember(path, asdict(error))
        return error

    def batches(self, rows: NDArray[np.intp]) -> tuple[list[State], NDArray[np.intp]]:
        """The readable ones of ``rows`` as raw batches, and their positions within ``rows``."""
        bad: list[BadRow] = []
        batches = list(
            read_batches(
                self.dataset,
                self.backbone,
                rows,
                batch_size=ERROR_ROWS,
                threads=reading_threads(self.device),
                bad=bad,
            )
        )
        positions = [batch.positions for batch in batches] or [np.zeros(0, dtype=np.intp)]
        return [batch.state for batch in batches], np.concatenate(positions)

    def chosen(
        self,
        name: str,
        reason: str,
        error: ExecutorError | None = None,
        verdict: PrecisionVerdict | None = None,
    ) -> ExecutorChoice:
        """The choice of this executor, with its engine's in fp32 beside."""
        exact = f"{name.partition('-')[0]}-fp32"
        return ExecutorChoice(name, reason, self.executor(name), self.executor(exact), error, verdict)

    def executor(self, name: str) -> Executor:
        """The executor, built already or at its first batch."""
        if name in self.built:
            return self.built[name]
        return LazyExecutor(name, self.boundaries, self.device, lambda: self.build(name))

    def build(self, name: str) -> Executor:
        """The executor, built once."""
        if name not in self.built:
            self.built[name] = build_executor(
                name,
                self.backbone,
                boundaries=self.boundaries,
                cache_dir=self.cache / "executors",
                device=self.device,
            )
        return self.built[name]

    def _key(self, name: str, *data: bytes) -> str:
        """Hash of data and of everything else that decides what an executor computes and how fast."""
        versions = [
            importlib.metadata.version(package)
            for package in ("torch", "openvino")
            if importlib.util.find_spec(package)
        ]
        import torch

        machine = hardware_name(torch.device(self.device)) or ""
        what = [name, self.device, machine, store_key(self.backbone, self.boundaries), *versions]
        return hashlib.sha256(b"\0".join(["\0".join(what).encode(), *data])).hexdigest()[:32]


def executor_of_trained(
    network: Backbone, boundaries: tuple[int, ...], *, like: Executor, batch: Callable[[], State]
) -> ExecutorChoice:
    """An fp32 executor for a network whose weights are new, by the engine of the one at hand.

    A converted network is measured on ``batch``, a raw batch of real rows: other weights can show what a conversion
    does wrong. PyTorch takes its place as in ``choose_executor``.
    """

    def build(name: str) -> Executor:
        return build_executor(name, network, boundaries=boundaries, device=like.device)

    plain = build("torch-fp32")
    if like.name.startswith("torch"):
        return ExecutorChoice(plain.name, f"{like.device} runs it in PyTorch", plain, plain)
    converted: list[Executor] = []

    def measure() -> ExecutorError:
        converted.append(build("openvino-fp32"))
        return measure_error(converted[0], plain, [batch()])

    name, reason, error = _judge(measure, network)
    executor = plain if name == plain.name else converted[0]
    return ExecutorChoice(name, reason, executor, executor, error)


def _judge(
    measure: Callable[[], ExecutorError | None], backbone: Backbone
) -> tuple[str, str, ExecutorError | None]:
    """OpenVINO where its error, as ``measure`` finds it, allows that, else PyTorch; the reason, and the error."""
    try:
        error = measure()
    except RuntimeError as problem:
        # The frontend and the plugin raise nothing more precise for a network that they cannot convert.
        reason = f"OpenVINO cannot run {backbone.name} ({str(problem).strip().splitlines()[0][:120]})"
        return "torch-fp32", f"{reason}; PyTorch in fp32", None
    if error is None:
        return "torch-fp32", "no row could be read to measure another one", None
    if error.relative_max > FP32_TOLERANCE:
        return "torch-fp32", f"OpenVINO's features are {_distance(error)}: too far", error
    reason = f"the fastest in fp32 on this processor; its features are {_distance(error)}"
    return "openvino-fp32", reason, error


@dataclass(frozen=True)
class _PrecisionOutcome:
    """Whether the low precision was taken, and how the sentence goes on that begins with its name."""

    taken: bool
    why: str
    verdict: PrecisionVerdict | None = None


def _read_outcome(path: Path) -> _PrecisionOutcome | None:
    """What was decided before; deciding again could end otherwise, and nothing that is stored would serve."""
    try:
        values = parse_json(read_record(path))
        verdict = values["verdict"]
        return _PrecisionOutcome(
            bool(values["taken"]),
            str(values["why"]),
            None if verdict is None else PrecisionVerdict(**verdict),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def spread(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most ``most`` of ``rows``, evenly spread over them: tables are often sorted by class."""
    if len(rows) <= most:
        return rows
    chosen: NDArray[np.intp] = rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]
    return chosen


def _distance(error: ExecutorError) -> str:
    return f"{error.relative_max:.1e} at most from PyTorch in fp32 on {error.rows} rows"


def _seconds(executor: Executor, batches: Sequence[State]) -> float:
    began = time.perf_counter()
    for batch in batches:
        executor(batch)
    return time.perf_counter() - began
