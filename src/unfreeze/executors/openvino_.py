"""Stages run by OpenVINO on a processor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from unfreeze.contracts import Backbone, Passed, State
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.executors.conversion import convert_cached, core
from unfreeze.executors.processor import available_cores

# Requests that run side by side, a core each where there are few; more streams than this only cost memory.
MOST_STREAMS = 8
# Requests in flight for each stream: enough that none waits, few enough that their outputs stay small.
REQUESTS_PER_STREAM = 4

Array = NDArray[Any]


class OpenVinoExecutor:
    """A compiled model fed piece by piece: the rows of a batch run side by side, one stream a core."""

    def __init__(
        self,
        compiled: ov.CompiledModel,
        *,
        precision: str,
        modality: str,
        boundaries: tuple[int, ...],
        masked: tuple[bool, ...],
    ) -> None:
        """``masked``: for each kept state, whether it is still of tokens, which the batch's mask belongs to."""
        self.name = f"openvino-{precision}"
        self.precision = precision
        self.boundaries = boundaries
        self.device = "cpu"
        self._modality = modality
        self._masked = masked
        count = REQUESTS_PER_STREAM * int(compiled.get_property("NUM_STREAMS"))
        self._requests = [compiled.create_infer_request() for _ in range(count)]

    def __call__(self, batch: State) -> Passed:
        """The summaries and the kept states, on the CPU in float32."""
        pieces = self._pieces(batch)
        results: list[list[Array]] = []
        for start in range(0, len(pieces), len(self._requests)):
            running = list(zip(self._requests, pieces[start:], strict=False))
            for request, piece in running:
                request.start_async(piece, share_inputs=True)
            for request, _ in running:
                request.wait()
                # The request's own memory is written again by its next piece.
                results.append([tensor.data.copy() for tensor in request.output_tensors])
        columns = list(zip(*results, strict=True))
        count = len(self.boundaries)
        states = zip(columns[count:], self._masked, strict=True)
        return Passed(
            tuple(_joined(parts) for parts in columns[:count]),
            tuple(
                State(_joined(parts)) if batch.mask is None or not masked else _padded(parts, batch.mask)
                for parts, masked in states
            ),
        )

    def _pieces(self, batch: State) -> list[list[Array]]:
        h = batch.h.numpy()
        if self._modality == "image":
            if h.dtype != np.uint8:
                raise TypeError(f"{self.name} reads uint8 images, not {h.dtype}")
            return [[h[row : row + 1]] for row in range(len(h))]
        mask = np.ones(h.shape, dtype=np.bool_) if batch.mask is None else batch.mask.numpy()
        # Alone, a text needs no padding, and is better without: where padding lies beyond a sliding window, what is
        # computed of it is not a number, and the layers above multiply it by nought.
        lengths = np.maximum(mask.sum(axis=1), 1)
        return [
            [h[row : row + 1, :length], mask[row : row + 1, :length]] for row, length in enumerate(lengths)
        ]


def _joined(parts: Sequence[Array]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _padded(parts: Sequence[Array], mask: torch.Tensor) -> State:
    """Rows (1, tokens, width) of different lengths in one state, with zeros behind each."""
    h = np.zeros((*mask.shape, parts[0].shape[-1]), dtype=parts[0].dtype)
    for row, part in zip(h, parts, strict=True):
        row[: part.shape[1]] = part[0]
    return State(torch.from_numpy(h), mask, full=bool(mask.all()))


def build_openvino(
    backbone: Backbone,
    *,
    precision: str,
    boundaries: tuple[int, ...],
    keep: tuple[int, ...],
    cache_dir: Path | None,
    threads: int | None,
) -> OpenVinoExecutor:
    """The compiled stages; raises RequestError when this processor lacks ``precision``."""
    if precision == "bf16" and "BF16" not in _capabilities():
        raise RequestError("The executor openvino-bf16 cannot run here: this processor has no bfloat16.")
    model = convert_cached(backbone, boundaries, keep, cache_dir=cache_dir)
    cores = threads or available_cores()
    hint = "f32" if precision == "fp32" else "bf16"
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "NUM_STREAMS": min(cores, MOST_STREAMS),
        "INFERENCE_NUM_THREADS": cores,
        # Every process pins its threads to the first cores: those that share a machine would all take the same ones.
        "ENABLE_CPU_PINNING": cores >= (os.cpu_count() or 1),
    }
    compiled = core().compile_model(model, "CPU", settings)
    # Asking for one precision and getting another without a word has been seen (f16 gave bf16).
    taken = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    if taken != hint:
        raise UnfreezeError(f"OpenVINO runs in {taken} although {hint} was asked for.")
    return OpenVinoExecutor(
        compiled,
        precision=precision,
        modality=backbone.modality,
        boundaries=boundaries,
        masked=tuple(boundary < len(backbone.stages) for boundary in keep),
    )


def _capabilities() -> Sequence[str]:
    found: Sequence[str] = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found
