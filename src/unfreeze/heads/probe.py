"""The probe: a head on frozen features, chosen out of fold, and the thaw curve, one probe a boundary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.heads.design import Design, make_design
from unfreeze.heads.folds import ALWAYS_TRAINED, assign_folds, can_be_held_out, stratified_sample
from unfreeze.heads.head import Head, HeadKind
from unfreeze.heads.mlp import fit_mlp
from unfreeze.heads.search import (
    FIRST_PENALTIES,
    Candidate,
    Search,
    fit_head,
    predict_out_of_fold,
    search_penalty,
)
from unfreeze.heads.weights import row_log_loss, row_weights
from unfreeze.proportions import effective_rows, wilson_interval

# Bounds of the time and memory that the curve may take; with so many rows its intervals are a point wide.
CURVE_ROWS = 20_000
PROBE_FOLDS = 5
JOINED_BOUNDARIES = 5
JOINED_BYTES = 2**30

Features = Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True)
class ThawPoint:
    """The probe at one boundary: out-of-fold accuracy with its 95 % Wilson interval, and log-loss in nats."""

    boundary: int
    name: str
    width: int
    regularisation: float
    accuracy: float
    low: float
    high: float
    log_loss: float


@dataclass(frozen=True, eq=False)
class Probe:
    """A head fitted on all rows given, and what it predicts for rows it was not fitted on.

    ``oof_logits`` (rows, classes) come from fits without the row where ``held_out`` (rows,) is True; a
    class with one row is always in training, and its logits are the mean of all folds. ``log_loss`` (nats)
    and ``accuracy`` are those of the held-out rows, each row counting the same; ``interval``: of the accuracy (95 %,
    Wilson's; rows that are held out together count as they belong together). ``candidates``: the
    penalties tried (none for mlp), on at most ``CURVE_ROWS`` rows. ``regularisation``: λ of a linear head,
    the weight decay of an mlp.
    """

    head: Head
    boundaries: tuple[int, ...]
    regularisation: float
    oof_logits: NDArray[np.float32]
    held_out: NDArray[np.bool_]
    log_loss: float
    accuracy: float
    interval: tuple[float, float]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """The chosen ``probe``, the linear ``pooled`` one (the same object if chosen), and the thaw ``curve``.

    ``reasons``: sentences that say how it was chosen. ``folds``: how many were used.
    """

    probe: Probe
    pooled: Probe
    curve: tuple[ThawPoint, ...]
    reasons: tuple[str, ...]
    folds: int


@dataclass(frozen=True, eq=False)
class _Task:
    """The labelled rows of one request, and the rows on which penalties are searched."""

    features: Features
    names: Mapping[int, str]
    y: NDArray[np.intp]
    assigned: NDArray[np.intp]
    rows: NDArray[np.intp]
    assigned_rows: NDArray[np.intp]
    classes: int
    balanced: bool
    groups: NDArray[np.integer] | None

    @property
    def sampled(self) -> bool:
        return len(self.rows) < len(self.y)

    def design(self, boundaries: tuple[int, ...], *, every_row: bool) -> Design:
        blocks = [self.features[boundary] for boundary in boundaries]
        if self.sampled and not every_row:
            blocks = [block[self.rows] for block in blocks]
        return make_design(blocks, name=", ".join(self.names[boundary] for boundary in boundaries))

    def search(self, design: Design) -> Search:
        return search_penalty(
            design, self.y[self.rows], self.assigned_rows, classes=self.classes, balanced=self.balanced
        )


def fit_probe(
    features: Features,
    y: NDArray[np.integer],
    *,
    classes: int,
    boundaries_names: Mapping[int, str],
    seed: int,
    groups: NDArray[np.integer] | None = None,
    folds: int = PROBE_FOLDS,
    class_weight: str | None = None,
    kind: HeadKind = "linear",
) -> ProbeResult:
    """The best probe of these features, the pooled one, and a probe at every boundary.

    ``features``: boundary → float32 (rows, width); the last boundary is the pooled feature. ``y`` (rows,),
    in 0..classes-1; ``groups`` (rows,): what is held out together (see ``held_together``). ``class_weight``: None, or
    ``"balanced"``. Every boundary's penalty is the one with the lowest out-of-fold log-loss. The last half of the
    boundaries, at most five, are also joined; that head is taken when it has a lower log-loss out of fold and no lower
    accuracy (balanced accuracy when ``"balanced"``). With ``kind="mlp"`` the classic head on the pooled feature is
    fitted instead. On more than ``CURVE_ROWS`` rows the penalties are searched on a stratified sample of that size.

    Raises UnfreezeError when a feature is not finite, ValueError when arguments do not fit together.
    """
    task, reasons = _make_task(
        features,
        y,
        classes=classes,
        names=boundaries_names,
        seed=seed,
        groups=groups,
        folds=folds,
        balanced=_is_balanced(class_weight),
    )
    last = max(features)
    points = []
    for boundary in sorted(features):
        design = task.design((boundary,), every_row=False)
        search = task.search(design)
        points.append(_point(task, boundary, design.width, search))
    pooled = _finish(task, (last,), search, design)
    reasons.append(_penalty_reason(search, task))
    probe = pooled
    if kind == "mlp":
        probe = _mlp_probe(task, last, seed=seed)
        reasons.append(_compare_sentence("The mlp head", probe, pooled))
    elif len(joined := _joined_boundaries(features, len(task.rows))) > 1:
        wide = task.design(joined, every_row=False)
        candidate = task.search(wide)
        taken = _is_better(candidate, search, task)
        reasons.append(_joined_reason(joined, candidate, search, task, taken=taken))
        if taken:
            probe = _finish(task, joined, candidate, wide)
            reasons.append(_penalty_reason(candidate, task))
    return ProbeResult(probe, pooled, tuple(points), tuple(reasons), int(task.assigned.max()) + 1)


def predict_from_less(
    probe: Probe,
    features: Features,
    y: NDArray[np.integer],
    assigned: NDArray[np.intp],
    *,
    folds: int,
    classes: int,
    seed: int,
    class_weight: str | None = None,
) -> NDArray[np.float32]:
    """What such a probe says of rows that it is not fitted on, with other folds: logits (rows, classes).

    ``assigned`` (rows,): the fold in which each row is held out, or ``ALWAYS_TRAINED``; ``folds``: how many the probe
    had. The penalty stands for the same prior as before: the data term is a mean, so its share of the objective falls
    with the rows of a fit.
    """
    truth, balanced = np.asarray(y, dtype=np.intp), _is_balanced(class_weight)
    if probe.head.kind == "mlp":
        (last,) = probe.boundaries
        return fit_mlp(
            features[last],
            truth,
            boundary=last,
            assigned=assigned,
            classes=classes,
            balanced=balanced,
            seed=seed,
        ).oof_logits
    before, now = 1 - 1 / folds, 1 - 1 / (int(assigned.max()) + 1)
    design = make_design([features[boundary] for boundary in probe.boundaries], name="probe")
    penalty = probe.regularisation * before / now
    return predict_out_of_fold(
        design, truth, assigned, penalty=penalty, classes=classes, balanced=balanced
    ).logits


def _is_balanced(class_weight: str | None) -> bool:
    if class_weight not in (None, "balanced"):
        raise ValueError(f"class_weight must be None or 'balanced', not {class_weight!r}")
    return class_weight == "balanced"


def _make_task(
    features: Features,
    y: NDArray[np.integer],
    *,
    classes: int,
    names: Mapping[int, str],
    seed: int,
    groups: NDArray[np.integer] | None,
    folds: int,
    balanced: bool,
) -> tuple[_Task, list[str]]:
    """The checked request with its folds, and the sentences that say what was decided here."""
    truth = np.asarray(y, dtype=np.intp)
    if classes < 2 or not len(truth) or truth.min() < 0 or truth.max() >= classes:
        raise ValueError("y must hold rows of labels in 0..classes-1, and classes must be two or more")
    for boundary, block in features.items():
        if block.ndim != 2 or len(block) != len(truth):
            raise ValueError(f"features of boundary {boundary} must have the shape ({len(truth)}, width)")
    assigned = assign_folds(truth, folds=folds, seed=seed, groups=groups)
    rows = stratified_sample(truth, size=CURVE_ROWS, seed=seed)
    sampled_folds = assigned
    reasons = []
    if len(rows) < len(truth):
        sampled_folds = assign_folds(
            truth[rows], folds=folds, seed=seed, groups=None if groups is None else groups[rows]
        )
        reasons.append(f"Penalties and the thaw curve come from {len(rows):,} of {len(truth):,} rows.")
    used = int(assigned.max()) + 1
    if used < folds:
        reasons.append(
            f"{used} folds instead of {folds}: the smallest class (or the number of groups) allows no more."
        )
    singles = len(np.unique(truth[assigned == ALWAYS_TRAINED]))
    if singles:
        reasons.append(
            f"{singles} classes have one row, or one group or content alone: they are always trained on and never "
            "scored."
        )
    if groups is not None and not can_be_held_out(truth, groups):
        reasons.append(
            "Every class is one group or one content: rows are scored by heads that saw others of it, which flatters."
        )
    return _Task(features, names, truth, assigned, rows, sampled_folds, classes, balanced, groups), reasons


def _joined_boundaries(features: Features, rows: int) -> tuple[int, ...]:
    """The last half of the boundaries, at most five, as far as they fit into ``JOINED_BYTES``."""
    ordered = sorted(features)
    wanted = ordered[-min(JOINED_BOUNDARIES, math.ceil(len(ordered) / 2)) :]
    while len(wanted) > 1 and sum(features[b].shape[1] for b in wanted) * rows * 4 > JOINED_BYTES:
        wanted = wanted[1:]
    return tuple(wanted)


def _point(task: _Task, boundary: int, width: int, search: Search) -> ThawPoint:
    scored = task.assigned_rows != ALWAYS_TRAINED
    truth, logits = task.y[task.rows][scored], search.logits[scored]
    accuracy = search.best.accuracy
    low, high = _interval(task, task.rows[scored], logits)
    return ThawPoint(
        boundary=boundary,
        name=task.names[boundary],
        width=width,
        regularisation=search.regularisation,
        accuracy=accuracy,
        low=low,
        high=high,
        log_loss=float(row_log_loss(logits, truth).mean()),
    )


def _finish(task: _Task, boundaries: tuple[int, ...], search: Search, design: Design) -> Probe:
    """The probe of a searched penalty: fitted on all rows, predicted out of fold for all rows."""
    penalty, logits = search.regularisation, search.logits
    if task.sampled:
        # The same prior over the weights: the data term is a mean, so its share of the objective falls with
        # rows.
        penalty *= len(task.rows) / len(task.y)
        design = task.design(boundaries, every_row=True)
        logits = predict_out_of_fold(
            design, task.y, task.assigned, penalty=penalty, classes=task.classes, balanced=task.balanced
        ).logits
    head = fit_head(
        design, task.y, boundaries=boundaries, penalty=penalty, classes=task.classes, balanced=task.balanced
    )
    return _probe(task, head, penalty, logits, search.candidates)


def _probe(
    task: _Task,
    head: Head,
    regularisation: float,
    logits: NDArray[np.float32],
    candidates: tuple[Candidate, ...],
) -> Probe:
    held_out = task.assigned != ALWAYS_TRAINED
    truth, scored = task.y[held_out], logits[held_out]
    return Probe(
        head=head,
        boundaries=head.boundaries,
        regularisation=regularisation,
        oof_logits=logits,
        held_out=held_out,
        log_loss=float(row_log_loss(scored, truth).mean()),
        accuracy=float((scored.argmax(axis=1) == truth).mean()),
        interval=_interval(task, np.flatnonzero(held_out), scored),
        candidates=candidates,
    )


def _interval(task: _Task, rows: NDArray[np.intp], logits: NDArray[np.float32]) -> tuple[float, float]:
    """The interval of the share of these rows that their logits are right on."""
    right = logits.argmax(axis=1) == task.y[rows]
    groups = None if task.groups is None else task.groups[rows]
    return wilson_interval(float(right.mean()), effective_rows(right, groups))


def _mlp_probe(task: _Task, last: int, *, seed: int) -> Probe:
    fit = fit_mlp(
        task.features[last],
        task.y,
        boundary=last,
        assigned=task.assigned,
        classes=task.classes,
        balanced=task.balanced,
        seed=seed,
    )
    return _probe(task, fit.head, fit.weight_decay, fit.oof_logits, ())


def _is_better(candidate: Search, other: Search, task: _Task) -> bool:
    """Lower log-loss and no lower accuracy out of fold, with the class weights of the fit."""
    scored = task.assigned_rows != ALWAYS_TRAINED
    truth = task.y[task.rows][scored]
    weight = row_weights(truth, balanced=task.balanced)
    right = [float((s.logits[scored].argmax(axis=1) == truth) @ weight) for s in (candidate, other)]
    return candidate.best.log_loss < other.best.log_loss and right[0] >= right[1] - 1e-12


def _penalty_reason(search: Search, task: _Task) -> str:
    tried = search.candidates
    kind = "class-weighted log-loss" if task.balanced else "log-loss"
    sentence = (
        f"Regularisation {search.regularisation:.2g} has the lowest out-of-fold {kind} "
        f"({search.best.log_loss:.4f}) of {len(tried)} values from {tried[-1].regularisation:.2g} "
        f"to {tried[0].regularisation:.2g}."
    )
    if len(tried) > len(FIRST_PENALTIES):
        sentence += " The grid was extended, because the best value lay at its edge."
    return sentence + (" It lies at the limit of what is tried." if search.at_limit else "")


def _joined_reason(
    joined: tuple[int, ...], candidate: Search, pooled: Search, task: _Task, *, taken: bool
) -> str:
    names = ", ".join(task.names[boundary] for boundary in joined)
    return (
        f"A head on {len(joined)} boundaries joined ({names}) has out-of-fold log-loss "
        f"{candidate.best.log_loss:.4f} and accuracy {candidate.best.accuracy:.4f}, the pooled feature alone "
        f"{pooled.best.log_loss:.4f} and {pooled.best.accuracy:.4f}: "
        + ("the joined head is taken." if taken else "the pooled feature alone is taken.")
    )


def _compare_sentence(what: str, probe: Probe, pooled: Probe) -> str:
    return (
        f"{what} has out-of-fold log-loss {probe.log_loss:.4f} and accuracy {probe.accuracy:.4f}, "
        f"the linear one {pooled.log_loss:.4f} and {pooled.accuracy:.4f}."
    )
