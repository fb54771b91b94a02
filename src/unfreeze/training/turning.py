"""Whether pictures may be turned: flipped and turned copies beside the rows that a head is fitted on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unfreeze.choose.facts import Turning
from unfreeze.choose.paired import paired_error
from unfreeze.contracts import State
from unfreeze.data.augment import symmetries, turn
from unfreeze.engine.batches import golden_batch
from unfreeze.heads.design import make_design
from unfreeze.heads.folds import ALWAYS_TRAINED, assign_folds, stratified_sample
from unfreeze.heads.head import Head
from unfreeze.heads.probe import PROBE_FOLDS, Probe
from unfreeze.heads.search import fit_head
from unfreeze.training.material import Material
from unfreeze.training.probing import fit_rows
from unfreeze.training.starting import BATCH_ROWS

# A difference of shares of so many rows has a standard error of one point (solar cells) or two (digits).
TURNED_ROWS = 256
# With fewer nothing but the largest difference would be seen.
LEAST_TURNED_ROWS = 40


def measure_turning(material: Material, pooled: Probe) -> Turning | None:
    """What copies of the pictures, flipped or turned by a quarter, do to a head; None for texts and few pictures.

    ``pooled``: the probe on the pooled feature, whose penalty stands for the same prior here. Each copy is turned in
    one of the ways that are no mere mirror image, since mirror images are in every augmentation.
    """
    dataset, features = material.dataset, material.features
    if dataset.modality != "image":
        return None
    fitted = fit_rows(dataset, features)
    seed = material.decisions.number("seed")
    everything = dataset.label[features.rows[fitted]].astype(np.intp)
    some = stratified_sample(everything, size=TURNED_ROWS, seed=seed)
    if len(some) < LEAST_TURNED_ROWS:
        return None
    rows, y = features.rows[fitted][some], everything[some]
    known = features.arrays[max(features.arrays)][fitted][some]
    turned = _turned_features(material, rows)
    together = material.together(rows)
    assigned = assign_folds(y, folds=PROBE_FOLDS, seed=seed, groups=together)
    penalty = pooled.regularisation * len(everything) / len(some)
    right = {"without": np.zeros(len(y), dtype=bool), "beside": np.zeros(len(y), dtype=bool)}
    for fold in np.unique(assigned[assigned != ALWAYS_TRAINED]):
        held, others = assigned == fold, assigned != fold
        copied = np.concatenate([known[others], turned[others]])
        plain = _head(material, known[others], y[others], penalty)
        # Twice the rows are no more pictures: the data term is a mean, so the penalty stays.
        varied = _head(material, copied, np.tile(y[others], 2), penalty)
        right["without"][held] = plain.logits(known[held]).argmax(axis=1) == y[held]
        right["beside"][held] = varied.logits(known[held]).argmax(axis=1) == y[held]
    scored = assigned != ALWAYS_TRAINED
    without, beside = right["without"][scored], right["beside"][scored]
    return Turning(
        without=float(without.mean()),
        beside=float(beside.mean()),
        error=paired_error(beside, without, None if together is None else together[scored]),
        rows=len(without),
    )


def _head(material: Material, features: NDArray[np.float32], y: NDArray[np.intp], penalty: float) -> Head:
    last = max(material.features.arrays)
    return fit_head(
        make_design([features], name="pooled"),
        y,
        boundaries=(last,),
        penalty=penalty,
        classes=len(material.dataset.labels),
        balanced=material.decisions.text("class_weight") == "balanced",
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
