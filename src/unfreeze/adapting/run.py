"""An adaptation from a run and a target to a run of its own, as a table of contents.

Labels of the target, where its folders or columns carry them, are never opened before all is decided and saved.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from unfreeze.adapting.adaptation import Adaptation
from unfreeze.adapting.asking import LABELS, rows_to_label, write_questions
from unfreeze.adapting.gate import decide
from unfreeze.adapting.methods import sound_for
from unfreeze.adapting.moments import joined
from unfreeze.adapting.opening import Target, open_labels, open_target
from unfreeze.adapting.page import write_page
from unfreeze.adapting.request import AUTO, AdaptRequest
from unfreeze.adapting.saving import classifier_of, save_adapted, wished_precision
from unfreeze.adapting.scenery import Scenery, build_scenery
from unfreeze.adapting.shift import describe_shift, measure_shift, unusual_rows
from unfreeze.adapting.signs import Reader
from unfreeze.adapting.truth import look_up
from unfreeze.adapting.trying import try_methods
from unfreeze.adapting.wording import model_card
from unfreeze.bundle.claim import claimed
from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.loading import Loaded, load
from unfreeze.config import FLOOR
from unfreeze.data.dataset import Dataset
from unfreeze.data.memory import SOURCE as IN_MEMORY
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.evaluate.calibration import softmax
from unfreeze.model import Model
from unfreeze.progress import Clock, Progress, Silent
from unfreeze.report.content import Example
from unfreeze.reporting import show_row
from unfreeze.run import free_run_folder
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.predictions import Prediction
from unfreeze.runtime.remote import scrubbed
from unfreeze.training.reopening import open_source

RESULT = "adaptation.json"
QUESTIONS = "to_label"
BATCH = 32


def adapt(
    request: AdaptRequest, *, progress: Progress | None = None, command: str | None = None
) -> Adaptation:
    """Adapt what helps, keep the source otherwise; ``command`` is what the page says was typed.

    Raises RequestError or DataError when the run, the target or the request cannot be used; nothing is left then.
    """
    progress, clock = progress or Silent(), Clock()
    request.check()
    loaded = load(request.run)
    target = open_target(request, loaded)
    if request.report_target_accuracy and len(request.target) > 1:
        raise RequestError("--report-target-accuracy scores one --target: give one.")
    folder = request.output_dir or free_run_folder(f"{request.run.resolve().name}-adapted")
    # An adaptation keeps nothing to go on with: one that was killed is begun anew, from features that are stored.
    with claimed(folder, left="restart"):
        return _adapt_into(folder, loaded, target, request, clock, progress, command or "unfreeze.adapt(...)")


def _adapt_into(
    folder: Path,
    loaded: Loaded,
    target: Target,
    request: AdaptRequest,
    clock: Clock,
    progress: Progress,
    command: str,
) -> Adaptation:
    # Those of an adaptation that was killed; everything else is written anew in any case.
    (folder / RESULT).unlink(missing_ok=True)
    shutil.rmtree(folder / QUESTIONS, ignore_errors=True)
    classifier = loaded.classifier
    source, found = open_source(loaded, request.source)
    if source is not None and loaded.bundle.data.source == IN_MEMORY and loaded.bundle.strategy != FLOOR:
        # Rows that trained the network would pass for validation rows.
        source = None
        found = (
            "The run was trained on data in memory, so that it is not known which rows of the source it has seen: the "
            "source is left out"
        )
    progress.say(f"{found}.")
    precision = None if source is None else wished_precision(loaded.folder)
    named = None if request.target_labels is None else open_labels(request.target_labels, request, classifier)
    # A probe is fitted on all rows that are not test, unless validation rows were given.
    seen = loaded.bundle.strategy == FLOOR and source is not None and "val" not in source.given
    scenery = build_scenery(classifier, source, target, named, request, progress, seen=seen)
    scene = scenery.scene
    reader = Reader(scene)
    before = reader.before()
    names = {index + 1: stage.name for index, stage in enumerate(classifier.backbone.stages)}
    shift = measure_shift(reader, before, names)
    told = tuple(describe_shift(shift, before, classifier.labels.names))
    wanted = sound_for(scene) if request.method == AUTO else (request.method,)
    trials, missing = try_methods(scene, wanted, before, reader, progress)
    verdict = decide(scene, shift, before, [one.candidate for one in trials], rows=len(scenery.rows))
    chosen = next((one.proposal for one in trials if one.proposal.method == verdict.method), None)
    taken = classifier_of(scene, chosen, precision)
    asked = None
    if verdict.kind == "needs labels":
        asked = _ask(folder, scenery, target, taken)
    predictions = _predict(scenery, target, taken)
    save_adapted(
        folder, taken, loaded, chosen, target.dataset, predictions, request, scene, precision, verdict
    )
    answered = [one.label for one in predictions if one.label is not None]
    labels = classifier.labels.names
    result = Adaptation(
        folder=folder,
        run=str(request.run),
        target=tuple(map(scrubbed, request.target)),
        rows=len(target.dataset),
        modality=classifier.backbone.modality,
        labels=labels,
        source=found,
        shift=shift,
        told=told,
        before=before,
        candidates=tuple(one.candidate for one in trials),
        missing=missing,
        verdict=verdict,
        target_shares=tuple(answered.count(label) / max(len(answered), 1) for label in labels),
        unusual=_unusual(scenery, target, taken),
        asked=asked,
        again=scrubbed(request.again_with(folder / QUESTIONS / LABELS)),
        labelled=len(scene.asked),
        on_source=scenery.accuracy_on_source(chosen),
        seconds=clock.total,
        command=scrubbed(command),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _write(result)
    if request.report_target_accuracy:
        result = _after_the_fact(result, request, named, progress)
        _write(result)
    return result


def _write(result: Adaptation) -> None:
    text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_atomically(result.folder / RESULT, text)
    write_atomically(result.folder / "README.md", model_card(result))
    write_page(result, result.folder / "report.html")


def _ask(folder: Path, scenery: Scenery, target: Target, taken: Classifier) -> Path:
    """Write the rows most worth labelling."""
    scene = scenery.scene
    answers = scene.probabilities(scene.target)
    places = rows_to_label(scene, answers, len(scenery.rows))
    return write_questions(
        folder / QUESTIONS, target.dataset, scenery.rows[places], answers[places], taken.labels.names
    )


def _predict(scenery: Scenery, target: Target, taken: Classifier) -> list[Prediction]:
    """The answers to all rows of the target: from the features at hand, where they are those of all rows."""
    model, samples, scene = Model(taken), target.dataset.samples, scenery.scene
    if taken.backbone is not scene.classifier.backbone or len(scenery.rows) != len(samples):
        return list(model.iterate(samples, batch_size=BATCH))
    logits = taken.head.logits(joined(scene.target, taken.head.boundaries))[: len(samples)]
    answers = softmax(logits, taken.temperature)
    return [model.answer(samples.name(row), answer, 1) for row, answer in enumerate(answers)]


def _unusual(scenery: Scenery, target: Target, taken: Classifier) -> tuple[Example, ...]:
    """The rows that lie farthest from the source, with the answers that are given now."""
    places = [place for place in unusual_rows(scenery.scene) if place < len(scenery.rows)]
    rows = scenery.rows[np.array(places, dtype=np.intp)]
    found = Model(taken).iterate(target.dataset.samples.select(rows), batch_size=BATCH)
    return tuple(
        show_row(
            target.dataset,
            int(row),
            true="",
            predicted=one.label or "",
            probability=one.probability or 0.0,
        )
        for row, one in zip(rows, found, strict=True)
    )


def _after_the_fact(
    result: Adaptation, request: AdaptRequest, named: Dataset | None, progress: Progress
) -> Adaptation:
    """The result with scores of both models on the target's own labels, or with why there are none.

    All is decided and saved by now: that these labels cannot be read costs nothing but the scores.
    """
    try:
        truth = look_up(request, result.folder, named, progress)
    except UnfreezeError as problem:
        return replace(
            result, warning=f"The target's own labels could not be scored, all else is done: {problem}"
        )
    return replace(result, after_the_fact=truth.scores, left_out=truth.left_out)
