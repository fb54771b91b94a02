"""An export from a run to files that passed the gate, as a table of contents."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.claim import locked
from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.folder import BUNDLE
from unfreeze.bundle.loading import Loaded, load
from unfreeze.bundle.places import run_folder
from unfreeze.data.dataset import UNLABELLED, Dataset
from unfreeze.errors import RequestError, UnfreezeError, did_you_mean, first_line
from unfreeze.exporting.cards import exported_card, lineage_without_folders
from unfreeze.exporting.formats import FORMATS, Format, Written
from unfreeze.exporting.gate import or_deleted, pass_gate
from unfreeze.exporting.gate_rows import GateRows
from unfreeze.exporting.hosting import refusal
from unfreeze.exporting.hub import check_hub, push
from unfreeze.exporting.libraries import LIBRARIES
from unfreeze.exporting.parity import Parity
from unfreeze.exporting.pixels import Pixels
from unfreeze.exporting.quantizing import FILE as INT8
from unfreeze.exporting.quantizing import Int8, calibration_rows
from unfreeze.exporting.quantizing import quantize as quantize_file
from unfreeze.exporting.raw_forms import RawForms
from unfreeze.progress import Progress, Silent
from unfreeze.regular import read_record
from unfreeze.report.card import NAME
from unfreeze.runtime.card import FILE, Card, read_card
from unfreeze.runtime.exported import TOKENIZER, Exported, tokenizer_beside
from unfreeze.runtime.files import file_hash, sync_folder, write_atomically
from unfreeze.runtime.remote import here_alone, is_remote, scrubbed
from unfreeze.training.reopening import open_source

# A difference that hits one row in a hundred is missed by two hundred rows once in seven times.
LEAST_ROWS = 200
# Of more validation rows so many are taken, evenly spread: one that hits one row in a hundred is missed by them once in
# fifty times, and what the network reads of them fits into memory at any size of picture.
MOST_ROWS = 400
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
    forms: RawForms | None = None
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
    run: str | Path,
    *,
    format: str = "onnx",
    output: str | Path | None = None,
    data: str | Path | None = None,
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
    problems = list(
        _problems(run, format, output, quantize=quantize, private=private, push_to_hub=push_to_hub)
    )
    if problems:
        raise RequestError("\n".join(problems))
    if push_to_hub is not None:
        check_hub(push_to_hub)
    loaded = load(run_folder(run))
    refused = refusal(loaded.classifier, format)
    if refused:
        raise RequestError(f"--format {format}: {refused}")
    folder = loaded.folder / PLACE / format if output is None else Path(output)
    _check_absent(folder)
    dataset, rows = _gate_rows(loaded, None if data is None else str(data))
    calibration = calibration_rows(dataset, rows) if quantize else None
    if calibration is not None and not len(calibration):
        raise RequestError(f"--quantize needs training rows, and {dataset.source} has none: leave it out.")
    workplace = folder.with_name(f".{folder.name}.partial")
    # Unlike a temporary folder it is to be read by everyone who may read its neighbours.
    made = workplace / folder.name
    try:
        with locked(workplace, flag="--output"):
            # Another process may have been first, and one that was killed may have left a part of its work.
            _check_absent(folder)
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            try:
                done = _write(loaded, made, format, dataset, rows, calibration, progress)
                made.rename(folder)
                sync_folder(folder.parent)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):
            workplace.rmdir()
    address = None if push_to_hub is None else push(folder, push_to_hub, private=private)
    return replace(done, file=folder / done.file.relative_to(made), address=address)


def _problems(
    run: str | Path,
    format: str,
    output: str | Path | None,
    *,
    quantize: bool,
    private: bool,
    push_to_hub: str | None,
) -> Iterator[str]:
    """A sentence for each thing that is wrong with the request itself."""
    if private and push_to_hub is None:
        yield "--private belongs to --push-to-hub OWNER/NAME: give both or neither."
    if format not in CHOICES:
        yield f"--format {format!r} is unknown: choose {', '.join(CHOICES)}.{did_you_mean(format, CHOICES)}"
    elif quantize and format != "onnx":
        yield f"--quantize writes ONNX, and --format is {format}: leave one of them out."
    if refused := here_alone(output, "--output"):
        yield refused
    if is_remote(run) and output is None:
        yield f"--output is needed, since the run {scrubbed(run)} is not on this disk: name a folder."


def _check_absent(folder: Path) -> None:
    if folder.exists():
        raise RequestError(f"{folder} exists already. Choose another --output, or remove it first.")


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
    try:
        written = kind.write(classifier, folder)
    except (UnfreezeError, OSError):
        raise
    except Exception as problem:  # every exporter raises whatever its passes do
        raise UnfreezeError(
            f"{classifier.backbone.name} cannot be written as {format} ({first_line(problem)}): choose another "
            "--format."
        ) from None
    for note in written.notes:
        progress.say(note)
    tokenizer = classifier.backbone.assets.get("tokenizer.json")
    if tokenizer is not None:
        write_atomically(folder / TOKENIZER, tokenizer)
    card = _card(loaded, format, written)
    _describe(kind, written.file, folder, card)
    exported = _reload(kind, written, folder, classifier)
    passed = pass_gate(exported, folder, classifier, dataset.select(rows), kind.answer)
    notes = written.notes
    if passed.own is not None:
        notes = (*notes, passed.own.sentence(format))
        progress.say(notes[-1])
    card = replace(card, parity=passed.to_dict())
    _describe(kind, written.file, folder, card)
    write_atomically(folder / NAME, exported_card(loaded, written, format))
    done = Export(written.file, format, card, passed.parity, notes, pixels=passed.pixels, forms=passed.forms)
    return done if calibration is None else _with_int8(done, passed.rows, dataset, calibration)


def _with_int8(done: Export, rows: GateRows, dataset: Dataset, calibration: NDArray[np.intp]) -> Export:
    """Put ``model.int8.onnx`` beside the model where that is worth it, and say in both cards what was measured."""
    int8, parity = quantize_file(done.file, rows, dataset, calibration)
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
    card = read_card(read_record(folder / FILE), source=str(folder / FILE))
    with or_deleted(f"The exported {card.format} cannot be loaded"):
        graph = kind.open(written.file, classifier)
    return Exported(graph, card, tokenizer_beside(folder / FILE))


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
    if len(rows) > MOST_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(np.intp)]
    if len(rows) < LEAST_ROWS:
        rows = np.concatenate([rows, dataset.rows("train")])[: max(LEAST_ROWS, len(rows))]
    if not len(rows):
        rows = np.arange(len(dataset))
    rows = rows[dataset.label[rows] != UNLABELLED]
    if not len(rows):
        raise RequestError(f"{dataset.source} has no labelled rows to check the export with.")
    return dataset, np.sort(rows)
