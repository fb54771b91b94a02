"""What ``unfreeze predict`` predicts with: a run folder, or an exported file, which needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unfreeze.bundle.places import run_folder
from unfreeze.data.dataset import Samples
from unfreeze.data.inputs import open_inputs
from unfreeze.data.reading import read_raw
from unfreeze.errors import RequestError
from unfreeze.runtime.card import FILE
from unfreeze.runtime.exported import Exported, load
from unfreeze.runtime.predictions import Prediction

ENDING = ".onnx"


class Predictor(Protocol):
    """Opens inputs that a command line names, and predicts them in order."""

    def open_inputs(
        self,
        inputs: Sequence[str],
        *,
        lines: Sequence[str] | None = None,
        column: str | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Samples:
        """The inputs as samples; ``tell`` is given a sentence on files in folders that are left out."""

    def iterate(
        self, samples: Samples, *, top_k: int = 1, batch_size: int = 32, expected_rows: int | None = None
    ) -> Iterator[Prediction]:
        """Predictions in order; ``expected_rows``: of all samples that these are a part of."""

    @property
    def cut(self) -> int:
        """How many texts so far were longer than what is read of each."""

    def notes(self, rows: int) -> tuple[str, ...]:
        """What is to be known of the answers given so far, to so many rows, as sentences."""


@dataclass(frozen=True, eq=False)
class ExportedPredictor:
    """An exported model behind the same calls as a run's."""

    model: Exported

    def open_inputs(
        self,
        inputs: Sequence[str],
        *,
        lines: Sequence[str] | None = None,
        column: str | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Samples:
        """See ``Predictor``."""
        return open_inputs(inputs, modality=self.model.card.modality, lines=lines, column=column, tell=tell)

    def iterate(
        self, samples: Samples, *, top_k: int = 1, batch_size: int = 32, expected_rows: int | None = None
    ) -> Iterator[Prediction]:
        """See ``Predictor``; there is nothing to compile, however many rows are expected."""
        rows = ((samples.name(row), read_raw(samples, row)) for row in range(len(samples)))
        return self.model.iterate(rows, top_k=top_k, batch_size=batch_size)

    @property
    def cut(self) -> int:
        """See ``Predictor``."""
        return self.model.cut

    def notes(self, rows: int) -> tuple[str, ...]:
        """See ``Predictor``."""
        return self.model.notes(rows)


def open_predictor(place: str | Path, *, threads: int | None = None) -> Predictor:
    """The predictor of a run folder or an exported file, or a URL of one; RequestError when it is neither.

    ``threads``: how many an exported file computes with; a run has as many as PyTorch and this process.
    """
    path = run_folder(place)
    if is_exported(path):
        return ExportedPredictor(load(path, threads=threads))
    if (path / FILE).is_file() or ((path.parent / FILE).is_file() and path.is_file()):
        raise RequestError(
            f"{path} is no ONNX export: predict reads a run folder or a model.onnx. The other formats are for the "
            "programs that they belong to."
        )
    from unfreeze.model import load as load_run

    return load_run(path)


def is_exported(path: Path) -> bool:
    """Whether it is an exported model that predict reads, or the folder of one."""
    return path.suffix.lower() == ENDING or (path / f"model{ENDING}").is_file()
