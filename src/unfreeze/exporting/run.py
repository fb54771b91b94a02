"""An export from a run to files that passed the gate, as a table of contents."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.folder import BUNDLE
from unfreeze.bundle.loading import Loaded, load
from unfreeze.data.dataset import UNLABELLED, Dataset
from unfreeze.errors import RequestError, UnfreezeError, did_you_mean
from unfreeze.exporting.cards import exported_card, lineage_without_folders
from unfreeze.exporting.formats import FORMATS, Answers, Format, Written
from unfreeze.exporting.hosting import refusal
from unfreeze.exporting.hub import check_hub, push
from unfreeze.exporting.libraries import LIBRARIES, OwnWay, check_own_way
from unfreeze.exporting.parity import Parity, check
from unfreeze.exporting.pixels import Pixels, check_pixels
from unfreeze.exporting.quantizing import FILE as INT8
from unfreeze.exporting.quantizing import Int8, calibration_rows
from unfreeze.exporting.quantizing import quantize as quantize_file
from unfreeze.model import Model
from unfreeze.progress import Progress, Silent
from unfreeze.report.card import NAME
from unfreeze.runtime.card import FILE, Card, read_card
from unfreeze.runtime.exported import TOKENIZER, Exported, tokenizer_beside
from unfreeze.runtime.files import file_hash, write_atomically
from unfreeze.runtime.preprocess import ImagePreprocess
from unfreeze.training.reopening import open_source

# A difference that hits one row in a hundred is missed by two hundred rows once in seven times.
LEAST_ROWS = 200
PLACE = "exported"
CHOICES: Mapping[str, Format] = {**FORMATS, **LIBRARIES}


@dataclass(frozen=True)
class Export:
    """Files that passed the gate: ``file`` is the model, its card and what it needs lie beside it.

    For a format that another library reads, ``file`` is the folder. ``address``: where it was uploaded to, or None.
    """

    file: Path
    format: str
    card: Card
    parity: Parity
    notes: tuple[str, ...]
    address: str | None = None
    pixels: Pixels | None = None
    int8: Int8 | None = None

    def to_dict(self) -> dict[str, object]:
        """What ``export --json`` prints."""
        return {
            "file": str(self.file),
            "format": self.format,
            "parity": dict(self.card.parity),
            "int8": None if self.int8 is None else self.int8.to_dict(),
            "notes": list(self.notes),
            "made_with": dict(self.card.made_with),
            "address": self.address,
        }


def export(
    run: Path,
    *,
    format: str = "onnx",
    output: Path | None = None,
    data: str | None = None,
    quantize: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
    progress: Progress | None = None,
) -> Export:
    """Export a run; a file that does not give its answers on real rows is not left behind.

    ``output``: the folder to make (default: ``exported/FORMAT`` in the run). ``data``: labelled rows for the gate,
    where those that the run was trained on are not at hand. ``quantize``: also ``model.int8.onnx``, where it is faster
    on this machine and loses at most half a point of accuracy. ``push_to_hub``: the repository, ``OWNER/NAME``, to
    upload the folder to; ``private`` if it is created. Raises RequestError for a wrong request, UnfreezeError when the
    export fails, does not agree, or cannot be uploaded.
    """
    progress = progress or Silent()
    if private and push_to_hub is None:
        raise RequestError("--private belongs to --push-to-hub OWNER/NAME: give both or neither.")
    if format not in CHOICES:
        near = did_you_mean(format, CHOICES)
        raise RequestError(f"--format {format!r} is unknown: choose {', '.join(CHOICES)}.{near}")
    if quantize and format != "onnx":
        raise RequestError(f"--quantize writes ONNX, and --format is {format}: leave one of them out.")
    if push_to_hub is not None:
        check_hub(push_to_hub)
    loaded = load(run)
    refused = refusal(loaded.classifier, format)
    if refused:
        raise RequestError(f"--format {format}: {refused}")
    folder = run / PLACE / format if output is None else output
    if folder.exists():
        raise RequestError(f"{folder} exists already. Choose another --output, or remove it first.")
    dataset, rows = _gate_rows(loaded, data)
    calibration = calibration_rows(dataset, rows) if quantize else None
    if calibration is not None and not len(calibration):
        raise RequestError(f"--quantize needs training rows, and {dataset.source} has none: leave it out.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Unlike a temporary folder it is to be read by everyone who may read its neighbours.
        made = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
        made.mkdir()
    except OSError as problem:
        why = problem.strerror or problem
        raise RequestError(f"{folder} cannot be written ({why}): choose another --output.") from None
    try:
        done = _write(loaded, made, format, dataset, rows, calibration, progress)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    address = None if push_to_hub is None else push(folder, push_to_hub, private=private)
    return replace(done, file=folder / done.file.relative_to(made), address=address)


def _write(
    loaded: Loaded,
    folder: Path,
    format: str,
    dataset: Dataset,
    rows: NDArray[np.intp],
    calibration: NDArray[np.intp] | None,
    progress: Progress,
) -> Export:
    classifier, kind = loaded.classifier, CHOICES[format]
    written = kind.write(classifier, folder)
    for note in written.notes:
        progress.say(note)
    tokenizer = classifier.backbone.assets.get("tokenizer.json")
    if tokenizer is not None:
        write_atomically(folder / TOKENIZER, tokenizer)
    card = _card(loaded, format, written)
    reference, unreadable = Model(classifier).probabilities(dataset.samples.select(rows))
    kept = np.array([place not in unreadable for place in range(len(rows))], dtype=bool)
    if not kept.any():
        raise UnfreezeError(f"None of the {len(rows):,} rows to check the export with can be read.")
    _describe(kind, written.file, folder, card)
    exported = _reload(kind, written, folder, classifier)
    parity = check(exported, dataset, rows[kept], reference[kept])
    if not parity.passed:
        raise UnfreezeError(
            f"The exported {format} does not give the trained model's answers, so it was deleted: {parity.problem}."
        )
    measured, notes = parity.to_dict(), written.notes
    pixels = _with_preprocess(exported, folder, dataset, rows[kept], reference[kept])
    if pixels is not None:
        measured["preprocess"] = pixels.to_dict()
    if kind.answer is not None:
        own = _own_way(kind.answer, folder, exported, classifier, dataset, rows[kept], reference[kept])
        measured["own_preprocessing"] = own.to_dict()
        notes = (*notes, own.sentence(format))
        progress.say(notes[-1])
    card = replace(card, parity=measured)
    _describe(kind, written.file, folder, card)
    write_atomically(folder / NAME, exported_card(loaded, written, format))
    done = Export(written.file, format, card, parity, notes, pixels=pixels)
    if calibration is None:
        return done
    return _with_int8(done, dataset, rows[kept], reference[kept], calibration)


def _with_preprocess(
    exported: Exported, folder: Path, dataset: Dataset, rows: NDArray[np.intp], reference: NDArray[np.float64]
) -> Pixels | None:
    """Put ``preprocess.onnx`` beside an ONNX model that reads images, behind the same gate."""
    preprocess = exported.card.reads
    if exported.card.format != "onnx" or not isinstance(preprocess, ImagePreprocess):
        return None
    from unfreeze.exporting.resizing import write_preprocess

    pixels = check_pixels(write_preprocess(preprocess, folder), exported, dataset, rows, reference)
    if pixels.problem:
        raise UnfreezeError(
            f"preprocess.onnx does not give the trained model's pixels, so the export was deleted: {pixels.problem}."
        )
    return pixels


def _with_int8(
    done: Export,
    dataset: Dataset,
    rows: NDArray[np.intp],
    reference: NDArray[np.float64],
    calibration: NDArray[np.intp],
) -> Export:
    """Put ``model.int8.onnx`` beside the model where that is worth it, and say in both cards what was measured."""
    int8, parity = quantize_file(done.file, dataset, rows, reference, calibration)
    card = replace(done.card, int8=int8.to_dict())
    kind = FORMATS[done.format]
    if parity is not None and int8.shipped:
        kind.describe(done.file.with_name(INT8), replace(card, parity=parity.to_dict()).to_json())
    _describe(kind, done.file, done.file.parent, card)
    return replace(done, card=card, int8=int8)


def _describe(kind: Format, file: Path, folder: Path, card: Card) -> None:
    """Put the card into the folder, and into the model where it has a place for that."""
    kind.describe(file, card.to_json())
    write_atomically(folder / FILE, card.to_json())


def _reload(kind: Format, written: Written, folder: Path, classifier: Classifier) -> Exported:
    """The export as a user will load it, from its files alone."""
    card = read_card((folder / FILE).read_text(encoding="utf-8"), source=str(folder / FILE))
    try:
        graph = kind.open(written.file, classifier)
    except Exception as problem:  # every runtime has errors of its own
        first = (str(problem).splitlines() or [type(problem).__name__])[0][:200]
        raise UnfreezeError(
            f"The exported {card.format} cannot be loaded, so it was deleted: {first}."
        ) from None
    return Exported(graph, card, tokenizer_beside(folder / FILE))


def _own_way(
    open_answers: Callable[[Path, Classifier], Answers],
    folder: Path,
    exported: Exported,
    classifier: Classifier,
    dataset: Dataset,
    rows: NDArray[np.intp],
    reference: NDArray[np.float64],
) -> OwnWay:
    """How the library answers with its own preprocessing; UnfreezeError where it does so too differently."""
    try:
        answer = open_answers(folder, classifier)
        own = check_own_way(answer, exported, classifier, dataset, rows, reference)
    except Exception as problem:  # every library has errors of its own
        first = (str(problem).splitlines() or [type(problem).__name__])[0][:200]
        raise UnfreezeError(
            f"The exported {exported.card.format} cannot be used by its library, so it was deleted: {first}."
        ) from None
    if own.problem:
        raise UnfreezeError(f"The exported {exported.card.format} was deleted, since {own.problem}.")
    return own


def _card(loaded: Loaded, format: str, written: Written) -> Card:
    bundle, classifier = loaded.bundle, loaded.classifier
    return Card(
        format=format,
        modality=bundle.modality,
        labels=bundle.labels,
        threshold=None if classifier.threshold is None else classifier.threshold.probability,
        preprocess=classifier.backbone.preprocess.to_dict(),
        strategy=bundle.strategy,
        run=file_hash(loaded.folder / BUNDLE),
        backbone=bundle.backbone.weights_hash,
        lineage=lineage_without_folders(bundle.lineage),
        made_with=written.made_with,
    )


def _gate_rows(loaded: Loaded, data: str | None) -> tuple[Dataset, NDArray[np.intp]]:
    """Real rows to compare with: validation rows first, then others that are no test rows."""
    dataset, told = open_source(loaded, data)
    if dataset is None:
        raise RequestError(f"{told}: give labelled rows to check the export with, by --data.")
    rows = dataset.rows("val")
    if len(rows) < LEAST_ROWS:
        rows = np.concatenate([rows, dataset.rows("train")])[: max(LEAST_ROWS, len(rows))]
    if not len(rows):
        rows = np.arange(len(dataset))
    rows = rows[dataset.label[rows] != UNLABELLED]
    if not len(rows):
        raise RequestError(f"{dataset.source} has no labelled rows to check the export with.")
    return dataset, np.sort(rows)
