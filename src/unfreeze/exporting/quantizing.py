"""``model.int8.onnx``: the ONNX graph in 8-bit numbers, left behind only where it is faster and as accurate."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import Dataset
from unfreeze.data.reading import read_raw
from unfreeze.errors import first_line
from unfreeze.exporting.gate_rows import GateRows
from unfreeze.exporting.parity import Parity, check
from unfreeze.runtime.decode import BadInput, Quarantined
from unfreeze.runtime.exported import Exported, load

FILE = "model.int8.onnx"
# MLPerf Inference asks of a quantised network 99 % of the accuracy of float32; this is half of that loss, and one
# answer of the 200 that the gate looks at.
MOST_LOSS = 0.005
# Ranges of activations settle within about a hundred rows; more only takes longer.
CALIBRATION_ROWS, CALIBRATION_BATCH = 128, 8
BATCHES, REPETITIONS = (1, 32), 9


@dataclass(frozen=True)
class Int8:
    """What was measured on this machine, float32 first: ``seconds`` a batch by its size, accuracy, bytes.

    ``flips`` of the gate's ``rows`` are answered otherwise than by the trained model. ``method`` is static or dynamic.
    ``reason`` says why the file is not left behind, or is empty; where it could not be written, nothing else is said.
    """

    reason: str
    method: str = ""
    calibration_rows: int = 0
    seconds: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    accuracy: tuple[float, float] = (0.0, 0.0)
    rows: int = 0
    flips: int = 0
    bytes: tuple[int, int] = (0, 0)

    @property
    def shipped(self) -> bool:
        """Whether the file was left behind."""
        return not self.reason

    @property
    def sentence(self) -> str:
        """What was measured, and what came of it."""
        if not self.seconds:
            return f"No {FILE}: {self.reason}."
        times = ", ".join(
            f"{before / after:.2f} times as fast with batches of {size}"
            for size, (before, after) in self.seconds.items()
        )
        outcome = f"{FILE} lies beside model.onnx" if self.shipped else f"not kept: {self.reason}"
        return (
            f"int8 ({self.method}): {times} on this machine, accuracy {self.accuracy[1]:.1%} after "
            f"{self.accuracy[0]:.1%}, {self.flips:,} of {self.rows:,} answers flip; {outcome}."
        )

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        seconds = {str(size): list(pair) for size, pair in self.seconds.items()}
        return asdict(self) | {"seconds": seconds, "shipped": self.shipped, "most_loss": MOST_LOSS}


def quantize(
    file: Path, rows: GateRows, dataset: Dataset, calibration: NDArray[np.intp]
) -> tuple[Int8, Parity | None]:
    """Write ``model.int8.onnx`` beside ``file``, measure it on ``rows``, and delete it unless it is worth having.

    ``calibration``: training rows of ``dataset``.
    """
    plain, target = load(file), file.with_name(FILE)
    try:
        method = write_int8(file, target, plain, _prepared(plain, dataset, calibration))
        small = load(target)
        seconds = measure_seconds((plain, small), rows.prepared[: max(BATCHES)])
    except Exception as problem:  # onnxruntime's tools raise what their passes do
        target.unlink(missing_ok=True)
        first = first_line(problem, most=160)
        return Int8(reason=f"onnxruntime cannot quantise this network ({first})"), None
    parity = check(small, rows)
    measured = Int8(
        method=method,
        calibration_rows=len(calibration) if method == "static" else 0,
        seconds=seconds,
        accuracy=parity.accuracy,
        rows=parity.rows,
        flips=round((1 - parity.agreement) * parity.rows),
        bytes=(file.stat().st_size, target.stat().st_size),
        reason=why_not(seconds, parity.accuracy),
    )
    if not measured.shipped:
        target.unlink()
    return measured, parity


def why_not(seconds: Mapping[int, tuple[float, float]], accuracy: tuple[float, float]) -> str:
    """Why int8 is not worth having (times and accuracies, float32 first), or an empty string."""
    slower = [str(size) for size, (before, after) in seconds.items() if after >= before]
    if slower:
        return f"it is not faster here with batches of {' and '.join(slower)}"
    loss = accuracy[0] - accuracy[1]
    # Shares of a few hundred rows are not exact in binary.
    if loss > MOST_LOSS + 1e-9:
        return f"it loses {100 * loss:.1f} points of accuracy, and {100 * MOST_LOSS:.1f} are allowed"
    return ""


def write_int8(file: Path, target: Path, plain: Exported, prepared: Sequence[NDArray[Any]]) -> str:
    """Quantise ``file`` into ``target``; returns how, static or dynamic. The card goes with it."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Without VNNI, products of 8 by 8 bits saturate in 16: weights of 7 bits are right on every processor.
    common = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(file), str(ready), skip_symbolic_shape=True)
        # Its fusions move weights and leave the shapes noted for them: onnxruntime before 1.32 stumbles over those.
        model = onnx.load(ready)
        del model.graph.value_info[:]
        onnx.save(model, ready)
        if plain.card.modality == "text":
            # Activations of transformers have outliers in a few channels that differ from text to text: fixed ranges
            # cut them off or leave the others too few steps, so each text sets its own.
            quantize_dynamic(str(ready), str(target), **common)
            return "dynamic"
        quantize_static(
            str(ready), str(target), _Reader(prepared), activation_type=QuantType.QUInt8, **common
        )  # fmt: skip
        return "static"


def measure_seconds(
    models: tuple[Exported, Exported], prepared: Sequence[NDArray[Any]]
) -> dict[int, tuple[float, float]]:
    """Median seconds of a batch of each size for both models, which run in turns."""
    found = {}
    for size in BATCHES:
        batch = [prepared[place % len(prepared)] for place in range(size)]
        seconds: tuple[list[float], list[float]] = ([], [])
        for repetition in range(REPETITIONS + 1):
            for model, kept in zip(models, seconds, strict=True):
                start = time.perf_counter()
                model.run(batch)
                if repetition:  # the first fills caches
                    kept.append(time.perf_counter() - start)
        found[size] = (statistics.median(seconds[0]), statistics.median(seconds[1]))
    return found


def calibration_rows(dataset: Dataset, gate: NDArray[np.intp]) -> NDArray[np.intp]:
    """Training rows to take ranges from, evenly spread; ones that the gate does not see, where there are enough."""
    train = dataset.rows("train")
    apart = np.setdiff1d(train, gate)
    chosen = apart if len(apart) >= min(CALIBRATION_ROWS, len(train)) else train
    return chosen[np.linspace(0, len(chosen) - 1, min(CALIBRATION_ROWS, len(chosen))).astype(np.intp)]


class _Reader:
    """Batches of images in the form that onnxruntime asks them in."""

    def __init__(self, prepared: Sequence[NDArray[Any]]) -> None:
        starts = range(0, len(prepared), CALIBRATION_BATCH)
        self._batches = iter([np.stack(prepared[start : start + CALIBRATION_BATCH]) for start in starts])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch, or None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _prepared(model: Exported, dataset: Dataset, rows: NDArray[np.intp]) -> list[NDArray[Any]]:
    """What the graph reads of the rows that can be read."""
    found = []
    for row in rows:
        raw = read_raw(dataset.samples, int(row))
        if isinstance(raw, Quarantined):
            continue
        with suppress(BadInput):
            found.append(model.prepare(raw))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime warns of every weight that it rounds; what matters is measured."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
