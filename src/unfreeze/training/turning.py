"""Whether pictures have an up: the same ones flipped and turned, asked of a head that saw none of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unfreeze.choose.facts import Turning
from unfreeze.choose.likeness import evenly
from unfreeze.choose.paired import paired_error
from unfreeze.contracts import State
from unfreeze.data.augment import symmetries, turn
from unfreeze.engine.batches import golden_batch
from unfreeze.heads.design import make_design
from unfreeze.heads.folds import assign_folds
from unfreeze.heads.probe import PROBE_FOLDS, Probe
from unfreeze.heads.search import fit_head
from unfreeze.training.material import Material
from unfreeze.training.probing import fit_rows
from unfreeze.training.starting import BATCH_ROWS

# A difference of shares of 128 rows is known to about four points; they take a second or two on two cores.
TURNED_ROWS = 128
# With fewer nothing but the largest difference would be seen.
LEAST_TURNED_ROWS = 20


def measure_turning(material: Material, pooled: Probe) -> Turning | None:
    """The pictures of one of the probe's folds, as they are and turned; None for texts, and where they are too few.

    ``pooled``: the probe on the pooled feature, whose penalty the head takes that is fitted on the other folds. Each
    picture is turned in one of the ways that are no mere mirror image: mirror images are in every augmentation.
    """
    dataset, features = material.dataset, material.features
    if dataset.modality != "image":
        return None
    last = max(features.arrays)
    fitted = fit_rows(dataset, features)
    rows, known = features.rows[fitted], features.arrays[last][fitted]
    y = dataset.label[rows].astype(np.intp)
    groups = None if dataset.group is None else dataset.group[rows]
    assigned = assign_folds(y, folds=PROBE_FOLDS, seed=material.decisions.number("seed"), groups=groups)
    held = np.flatnonzero(assigned == 0)
    if len(held) < LEAST_TURNED_ROWS:
        return None
    held = held[evenly(len(held), TURNED_ROWS)]
    others = assigned != 0
    head = fit_head(
        make_design([known[others]], name="pooled"),
        y[others],
        boundaries=(last,),
        penalty=pooled.regularisation,
        classes=len(dataset.labels),
        balanced=material.decisions.text("class_weight") == "balanced",
    )
    upright = head.logits(known[held]).argmax(axis=1) == y[held]
    turned = head.logits(_turned_features(material, rows[held])).argmax(axis=1) == y[held]
    return Turning(
        upright=float(upright.mean()),
        turned=float(turned.mean()),
        error=paired_error(turned, upright),
        rows=len(held),
    )


def _turned_features(material: Material, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Pooled features (rows, dim) of the turned pictures."""
    found = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = golden_batch(material.dataset, material.backbone, rows[start : start + BATCH_ROWS]).h
        # 0 leaves a picture as it is, and 1 mirrors it.
        choice = 2 + np.arange(start, start + len(batch)) % (symmetries(batch) - 2)
        found.append(material.executor(State(turn(batch, choice))).summaries[-1].numpy())
    return np.concatenate(found)
