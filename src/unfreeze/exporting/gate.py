"""What an export passes before it is left behind, in this order; UnfreezeError says where it first fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.data.dataset import Dataset, Samples
from unfreeze.errors import UnfreezeError, first_line
from unfreeze.exporting.formats import Answers
from unfreeze.exporting.gate_rows import GateRows, gather
from unfreeze.exporting.libraries import OwnWay, check_own_way
from unfreeze.exporting.parity import LARGEST_LOGITS_GAP, Parity, check, logits_gap
from unfreeze.exporting.pixels import Pixels, Resizer, check_pixels
from unfreeze.exporting.raw_forms import RawForms, count_alike, count_forms, reencode
from unfreeze.model import Model
from unfreeze.runtime.exported import Exported
from unfreeze.runtime.preprocess import ImagePreprocess

OpenAnswers = Callable[[Path, Classifier], Answers]


@dataclass(frozen=True)
class Passed:
    """The rows that went through, and what was measured on them; None is what this kind of export has not."""

    rows: GateRows
    parity: Parity
    pixels: Pixels | None
    own: OwnWay | None
    forms: RawForms | None

    def to_dict(self) -> dict[str, object]:
        """What the card says of it."""
        more = {"preprocess": self.pixels, "own_preprocessing": self.own, "raw_forms": self.forms}
        return self.parity.to_dict() | {
            name: found.to_dict() for name, found in more.items() if found is not None
        }


def pass_gate(
    exported: Exported,
    folder: Path,
    classifier: Classifier,
    dataset: Dataset,
    open_answers: OpenAnswers | None,
) -> Passed:
    """Send the labelled rows of ``dataset`` through the export in ``folder``, beside the trained model.

    Puts ``preprocess.onnx`` beside an ONNX model that reads images, behind the same gate. ``open_answers`` opens the
    export in the library that it is for.
    """
    format, reads = exported.card.format, exported.card.reads
    graph = None
    if format == "onnx" and isinstance(reads, ImagePreprocess):
        from unfreeze.exporting.resizing import write_preprocess

        graph = write_preprocess(reads, folder)
    # Other libraries know no temperature: there it is part of the head.
    calibrated = open_answers is not None
    rows, parity, pixels = _compare(
        exported, graph, classifier, dataset.samples, dataset.label, calibrated=calibrated
    )
    _demand(format, parity, pixels)
    answer, own, of_library = None, None, f"The exported {format} cannot be used by its library"
    if open_answers is not None:
        with or_deleted(of_library):
            answer = open_answers(folder, classifier)
            own = check_own_way(answer, exported, classifier, rows)
        if own.problem:
            raise UnfreezeError(f"The exported {format} was deleted, since {own.problem}.")
    if not isinstance(reads, ImagePreprocess):
        return Passed(rows, parity, pixels, own, None)
    samples, label = reencode(rows)
    again, parity_again, pixels_again = _compare(
        exported, graph, classifier, samples, label, calibrated=calibrated
    )
    _demand(format, parity_again, pixels_again)
    alike = {}
    if answer is not None:
        with or_deleted(of_library):
            alike = count_alike(answer, again)
    forms = RawForms(count_forms(again), parity_again, pixels_again, alike)
    return Passed(rows, parity, pixels, own, forms)


def _compare(
    exported: Exported,
    graph: Path | None,
    classifier: Classifier,
    samples: Samples,
    label: NDArray[np.int32],
    *,
    calibrated: bool,
) -> tuple[GateRows, Parity, Pixels | None]:
    """Those of the samples that the trained model can read, through the export; and through ``graph`` before it.

    ``calibrated``: see ``logits_gap``.
    """
    reference, unreadable = Model(classifier).probabilities(samples)
    kept = np.array([row for row in range(len(samples)) if row not in unreadable], dtype=np.intp)
    if not len(kept):
        raise UnfreezeError(f"None of the {len(samples):,} rows to check the export with can be read.")
    resizer = None
    if graph is not None:
        assert isinstance(exported.card.reads, ImagePreprocess)
        resizer = Resizer(graph, exported.card.reads)
    rows = gather(
        samples.select(kept),
        labels=classifier.labels.names,
        label=label[kept],
        reference=reference[kept],
        prepare=exported.prepare if resizer is None else resizer.prepare,
    )
    parity = check(exported, rows)
    if not parity.problem:
        gap = logits_gap(exported, classifier, rows, calibrated=calibrated)
        far = f"its logits or probabilities differ by {gap:.1e} of the largest logit"
        parity = replace(parity, logits_gap=gap, problem="" if gap <= LARGEST_LOGITS_GAP else far)
    return rows, parity, None if resizer is None else check_pixels(resizer, exported, rows)


def _demand(format: str, parity: Parity, pixels: Pixels | None) -> None:
    if parity.problem:
        raise UnfreezeError(
            f"The exported {format} does not give the trained model's answers, so it was deleted: {parity.problem}."
        )
    if pixels is not None and pixels.problem:
        raise UnfreezeError(
            f"preprocess.onnx does not give the trained model's pixels, so the export was deleted: {pixels.problem}."
        )


@contextmanager
def or_deleted(what: str) -> Iterator[None]:
    """Within it, whatever is raised becomes an UnfreezeError that says ``what`` failed, and why the export is gone."""
    try:
        yield
    except Exception as problem:  # every library and every runtime has errors of its own
        raise UnfreezeError(f"{what}, so it was deleted: {first_line(problem)}.") from None
