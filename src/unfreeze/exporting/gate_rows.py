"""The rows of the gate with the trained model's answers, read and decoded once for everything that is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import Samples
from unfreeze.data.reading import read_raw
from unfreeze.errors import UnfreezeError
from unfreeze.runtime.decode import BadInput, Quarantined
from unfreeze.runtime.reading import Raw

Prepare = Callable[[Raw], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class GateRows:
    """``reference``: the trained model's probabilities (rows, classes), its columns in the order of ``labels``.

    ``label``: (rows,), indices into ``labels``. ``prepared``: what the exported graph reads of each row; the raw
    inputs stay in ``samples``, since the bytes of some hundred photographs may not fit into memory.
    """

    samples: Samples
    labels: tuple[str, ...]
    label: NDArray[np.int32]
    reference: NDArray[np.float64]
    prepared: Sequence[NDArray[Any]]

    def __len__(self) -> int:
        return len(self.samples)

    def raws(self) -> Iterator[Raw]:
        """The raw inputs in order. Raises UnfreezeError for one that can be read no more."""
        return (_raw(self.samples, row) for row in range(len(self)))


def gather(
    samples: Samples,
    *,
    labels: tuple[str, ...],
    label: NDArray[np.int32],
    reference: NDArray[np.float64],
    prepare: Prepare,
) -> GateRows:
    """Read each of these rows, which the trained model could read, and prepare it for the exported graph.

    Raises UnfreezeError for a row that cannot be read now.
    """
    prepared = []
    for row in range(len(samples)):
        raw = _raw(samples, row)
        try:
            prepared.append(prepare(raw))
        except BadInput as problem:
            raise _unreadable(samples.name(row), str(problem)) from None
    return GateRows(samples, labels, label, reference, prepared)


def _raw(samples: Samples, row: int) -> Raw:
    raw = read_raw(samples, row)
    if isinstance(raw, Quarantined):
        raise _unreadable(raw.name, raw.reason)
    return raw


def _unreadable(name: str, reason: str) -> UnfreezeError:
    return UnfreezeError(
        f"{name} was read by the trained model and cannot be read for the export ({reason}), so nothing was exported."
    )
