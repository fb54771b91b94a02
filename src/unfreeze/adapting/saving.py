"""The result as a run folder of its own, with its lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.adapting.gate import Verdict
from unfreeze.adapting.request import AUTO, AdaptRequest
from unfreeze.adapting.scene import Proposal, Scene
from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.folder import BUNDLE, Story, save
from unfreeze.bundle.loading import Loaded
from unfreeze.choose.settings import Decisions
from unfreeze.config import Origin, Resolved, TrainRequest, read_config, write_config
from unfreeze.data.dataset import Dataset
from unfreeze.engine.frozen_pass import golden_batch
from unfreeze.evaluate.calibration import fit_temperature, softmax
from unfreeze.evaluate.metrics import score
from unfreeze.evaluate.scores import scores_text
from unfreeze.runtime.files import file_hash, write_atomically
from unfreeze.runtime.predictions import Prediction, write_predictions
from unfreeze.runtime.remote import scrubbed
from unfreeze.training.probing import fit_threshold

GOLDEN_ROWS = 4


def wished_precision(run: Path) -> float:
    """The share of right answers that the run was asked for above its abstain threshold (``--precision-target``).

    Raises RequestError where its settings cannot be read, or are out of range.
    """
    settings = run / "config.yaml"
    wished: Any = read_config(settings).get("precision_target") if settings.exists() else None
    request = TrainRequest(data=str(run), precision_target=wished)
    request.check()
    return float(str(Decisions(request).value("precision_target")))


def classifier_of(scene: Scene, proposal: Proposal | None, precision: float | None) -> Classifier:
    """The classifier that is taken: the proposal's, calibrated on the source's validation rows, or the one before.

    ``precision``: what its abstain threshold is to reach; None without the source, where it gets none.
    """
    before = scene.classifier
    if proposal is None:
        return before
    changed = replace(before, head=proposal.head)
    if proposal.backbone is not None:
        # Other statistics lie in the network itself, which an adapter's folder does not hold.
        changed = replace(changed, backbone=proposal.backbone, adapter=None)
    if proposal.val_logits is None or scene.val is None:
        return replace(changed, threshold=None)
    temperature = fit_temperature(proposal.val_logits, scene.val.y)
    threshold = None
    if precision is not None:
        answers = softmax(proposal.val_logits, temperature)
        threshold = fit_threshold(answers, scene.val.y, precision=precision, groups=scene.val.groups)
    return replace(changed, temperature=temperature, threshold=threshold)


def save_adapted(
    folder: Path,
    taken: Classifier,
    loaded: Loaded,
    proposal: Proposal | None,
    target: Dataset,
    predictions: Sequence[Prediction],
    request: AdaptRequest,
    scene: Scene,
    precision: float | None,
    verdict: Verdict,
) -> None:
    """Write settings, predictions of the target, weights, golden answers and ``bundle.json``."""
    write_atomically(folder / "config.yaml", write_config(_settings(request, verdict, precision)))
    write_predictions(predictions, folder / "predictions.csv", top_k=1)
    readable = [row for row, one in enumerate(predictions) if one.error is None][:GOLDEN_ROWS]
    before = loaded.bundle
    calibrated = before.calibration
    how, rows = calibrated.fitted_on, calibrated.rows
    if proposal is not None and scene.val is not None:
        how, rows = "the source's validation rows, read in the source's own units", len(scene.val.y)
    story = Story(
        strategy=before.strategy if proposal is None else f"adapted: {proposal.method}",
        calibrated_on=how,
        calibration_rows=rows,
        data_source=", ".join(map(scrubbed, request.target)),
        data_fingerprint=target.fingerprint,
        data_rows={"target": len(target)},
        lineage=(f"{loaded.folder.resolve()} {file_hash(loaded.folder / BUNDLE)}", *before.lineage),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    save(taken, folder, story=story, golden=golden_batch(target, taken.backbone, np.array(readable)))
    write_atomically(
        folder / "metrics.json", scores_text(_metrics(taken, proposal, scene), classes=len(taken.labels))
    )


def _metrics(taken: Classifier, proposal: Proposal | None, scene: Scene) -> dict[str, object]:
    """What is measured: the source's validation rows alone, since the target has no labels."""
    if scene.val is None or scene.val_answers is None:
        return {}
    answers = scene.val_answers
    if proposal is not None and proposal.val_logits is not None:
        answers = softmax(proposal.val_logits, taken.temperature)
    scores = score(answers, scene.val.y.astype(np.int32), taken.labels.names, groups=scene.val.groups)
    return {
        "validation": scores.to_dict()
        | {"how": "the source's validation rows, read in the source's own units"}
    }


def _settings(request: AdaptRequest, verdict: Verdict, precision: float | None) -> tuple[Resolved, ...]:
    taken = verdict.method or "none"
    said = "" if request.method == AUTO else f"{request.method} was asked for; "
    origin: Origin = "user" if taken == request.method else "trial"
    method = Resolved("adapt_method", taken, origin, f"{said}{'; '.join(verdict.reasons)}")
    given = {
        "threshold": request.threshold,
        "order_column": request.order_column,
        "target_labels": None if request.target_labels is None else scrubbed(request.target_labels),
    }
    seed = Resolved("adapt_seed", request.seed, "user", "asked for")
    if request.seed == AdaptRequest.seed:
        seed = Resolved("adapt_seed", request.seed, "default", "fixed, so that it can be repeated")
    asked = (
        method,
        seed,
        *(
            Resolved(f"adapt_{name}", value, "user", "asked for")
            for name, value in given.items()
            if value is not None
        ),
    )
    if precision is None:
        return asked
    # Another adaptation of this one reads it here again.
    return (*asked, Resolved("precision_target", precision, "user", "as the run that was adapted has it"))
