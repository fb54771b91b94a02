"""How different the target is from the source, in numbers and plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.moments import Moments, moments_of
from unfreeze.adapting.scene import Scene
from unfreeze.adapting.signs import Reader, Signs, agreement, shares_of

# Rows of each domain that tell the two apart; more make the number no surer than a point.
MOST_ROWS = 1000
FOLDS = 5
# An AUC of this much says that the domains are alike: with 100 rows each, chance alone reaches 0.58 in one of twenty.
ALIKE = 0.6
UNUSUAL = 12
# Deviations of the target's features in those of the source's, over all depths. Solar cells of the other kind have 0.95
# to 1.1, heavily corrupted ones 0.65 and more, pictures of pure noise 0.2.
FLAT = 0.4
# Answers that are spread over the classes less than this, beside the source's, may have collapsed.
UNEVEN = 0.8
# What is told of class shares: that so many answers are displaced, that a class has less than this part of its answers.
DISPLACED = 0.1
SCARCE = 0.5


@dataclass(frozen=True)
class Shift:
    """``separability``: AUC with which a linear model tells the domains apart by their deepest features, out of fold.

    ``within_classes``: the same with both domains weighted to the same class shares, as the classifier predicts them:
    what is left when a change of shares alone is taken away. ``moved`` and ``spread`` by depth: mean distance of the
    features' means in the source's deviations, and the ratio of their deviations. ``agreement``: of heads from two
    halves of the source, on the target and on the source's validation rows. ``confidence``: of the classifier on
    both. ``source_shares``: of the classes among its answers on the source's validation rows. Without a source there is
    the confidence on the target alone.
    """

    separability: float | None
    within_classes: float | None
    moved: Mapping[str, float]
    spread: Mapping[str, float]
    agreement: tuple[float, float] | None
    confidence: tuple[float, float | None]
    source_shares: tuple[float, ...] | None = None

    @property
    def alike(self) -> bool:
        """Whether the domains look the same, but for the shares of their classes."""
        return self.within_classes is not None and self.within_classes < ALIKE

    @property
    def flat(self) -> bool:
        """Whether the target's rows hardly differ from each other, beside the source's."""
        return self.variation < FLAT

    @property
    def variation(self) -> float:
        """The target's deviations in those of the source's, over all depths; 1 without a source."""
        return float(np.exp(np.log(list(self.spread.values())).mean())) if self.spread else 1.0

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self)


def measure_shift(reader: Reader, before: Signs, names: Mapping[int, str]) -> Shift:
    """The shift of the reader's scene, of a target in steps that of the newest; ``names`` are those of the depths."""
    scene = reader.scene
    if scene.train is None or reader.halves is None:
        return Shift(None, None, {}, {}, None, (before.confidence, None))
    known, new = moments_of(scene.train.features), moments_of(scene.newest_target)
    val = scene.val_answers
    separability, within_classes = _separability(scene, known)
    return Shift(
        separability=separability,
        within_classes=within_classes,
        moved={names[b]: _moved(known, new, b) for b in known.mean},
        spread={names[b]: _spread(known, new, b) for b in known.mean},
        agreement=_halves_agree(scene, reader.halves),
        confidence=(before.confidence, None if val is None else float(val.max(axis=1).mean())),
        source_shares=None if val is None else tuple(map(float, shares_of(val))),
    )


def _moved(known: Moments, new: Moments, boundary: int) -> float:
    return float(np.abs((new.mean[boundary] - known.mean[boundary]) * known.inverse[boundary]).mean())


def _spread(known: Moments, new: Moments, boundary: int) -> float:
    both = (known.inverse[boundary] > 0) & (new.inverse[boundary] > 0)
    if not both.any():
        return 1.0
    return float(np.exp(np.log(known.inverse[boundary][both] / new.inverse[boundary][both]).mean()))


def _separability(scene: Scene, known: Moments) -> tuple[float, float]:
    """The domains' AUC, and that with the same shares of predicted classes in both, of those that both have."""
    assert scene.train is not None
    chance = np.random.default_rng(scene.seed)
    last = max(scene.target)
    parts, classes = [], []
    for features in (scene.train.features, scene.newest_target):
        rows = chance.permutation(len(features[last]))[:MOST_ROWS]
        chosen = {boundary: block[rows] for boundary, block in features.items()}
        parts.append(known.standardise({last: chosen[last]})[last])
        classes.append(scene.probabilities(chosen).argmax(axis=1))
    x = np.concatenate(parts)
    domain = np.repeat([0, 1], [len(part) for part in parts])
    return (
        _tell_apart(x, domain, np.ones(len(domain)), scene.seed),
        _tell_apart(x, domain, _equal_shares(classes, scene.classes), scene.seed),
    )


def _tell_apart(
    x: NDArray[np.float32], domain: NDArray[np.intp], weight: NDArray[np.float64], seed: int
) -> float:
    """The AUC of a linear model, out of fold; rows of weight 0 take no part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    kept = weight > 0
    x, domain, weight = x[kept], domain[kept], weight[kept]
    fewest = np.bincount(domain, minlength=2).min()
    if fewest < 2:
        return 1.0
    found = np.zeros(len(domain))
    split = StratifiedKFold(min(FOLDS, int(fewest)), shuffle=True, random_state=seed)
    for train, test in split.split(x, domain):
        model = LogisticRegression(C=0.01, max_iter=1000)
        model.fit(x[train], domain[train], sample_weight=weight[train])
        found[test] = model.decision_function(x[test])
    return float(roc_auc_score(domain, found, sample_weight=weight))


def _equal_shares(classes: list[NDArray[np.intp]], count: int) -> NDArray[np.float64]:
    """Row weights with which each class weighs the same in both domains; a class of one domain alone weighs nothing."""
    counts = np.array([np.bincount(one, minlength=count) for one in classes], dtype=float)
    common = np.minimum(*(counts / counts.sum(axis=1, keepdims=True)))
    factor = np.divide(common, counts, out=np.zeros_like(counts), where=counts > 0)
    weights = np.concatenate([factor[place][one] for place, one in enumerate(classes)])
    return np.asarray(weights / weights.sum() * len(weights))


def _halves_agree(scene: Scene, parts: tuple[Scene, Scene]) -> tuple[float, float]:
    """How often heads from two halves of the source answer alike: on the target, and on the source's validation rows.

    Where such heads disagree, at least one of them is wrong (Jiang et al. 2022).
    """
    assert scene.val is not None
    one, other = parts
    on_target, on_source = (
        agreement(one.probabilities(features), other.probabilities(features))
        for features in (scene.newest_target, scene.val.features)
    )
    return on_target, on_source


def unusual_rows(scene: Scene) -> NDArray[np.intp]:
    """The target rows that lie farthest from the source, or without one from the other rows, the farthest first."""
    from sklearn.neighbors import NearestNeighbors

    last = max(scene.target)
    known = scene.target if scene.train is None else scene.train.features
    moments = moments_of({last: known[last]})
    rows = moments.standardise({last: scene.target[last]})[last]
    others = rows if scene.train is None else moments.standardise({last: known[last]})[last]
    near = NearestNeighbors(n_neighbors=min(6, len(others))).fit(others)
    distance = near.kneighbors(rows)[0].mean(axis=1)
    return np.argsort(-distance, kind="stable")[:UNUSUAL]


def _describe_shares(shift: Shift, before: Signs, labels: tuple[str, ...]) -> list[str]:
    common = int(np.argmax(before.shares))
    told = f"As it is, the model calls {before.largest:.0%} of the target {labels[common]!r}"
    if shift.source_shares is None:
        return [f"{told}."]
    sentences = [f"{told}, {shift.source_shares[common]:.0%} of the source's validation rows."]
    if before.displaced >= DISPLACED:
        sentences.append(
            f"For the source's class shares {before.displaced:.0%} of the answers would have to be others."
        )
    if before.scarcest < SCARCE:
        usual = np.array(shift.source_shares)
        ratio = np.divide(before.shares, usual, out=np.ones(len(usual)), where=usual > 0)
        # Of several that are as scarce, the one that should be commonest.
        scarcest = labels[int(np.argmax(np.where(np.isclose(ratio, before.scarcest), usual, 0)))]
        sentences.append(
            f"{scarcest!r} has {before.scarcest:.0%} of the answers that the source's shares give it."
        )
    return sentences


def describe_shift(shift: Shift, before: Signs, labels: tuple[str, ...]) -> list[str]:
    """Sentences for a person."""
    told = []
    if shift.separability is not None and shift.within_classes is not None:
        told.append(
            f"A linear model tells the domains apart with an AUC of {shift.separability:.2f} "
            f"({shift.within_classes:.2f} when their predicted class shares are made equal; 0.5 is chance)."
        )
        depth = max(shift.moved, key=lambda name: shift.moved[name])
        least = min(shift.moved, key=lambda name: shift.moved[name])
        told.append(
            f"The means of the features have moved most at {depth} ({shift.moved[depth]:.1f} deviations), and least at "
            f"{least} ({shift.moved[least]:.1f})."
        )
    told += _describe_shares(shift, before, labels)
    here, there = shift.confidence
    beside = "" if there is None else f", {there:.0%} on the source's validation rows"
    told.append(f"Its mean confidence there is {here:.0%}{beside}.")
    if before.estimate is not None:
        doubt = (
            ""
            if before.evenness > UNEVEN
            else " A model that answers one class is as sure as it is wrong, though."
        )
        told.append(
            f"By its confidence (ATC) about {before.estimate:.0%} of its answers on the target are right.{doubt}"
        )
    if before.transported is not None:
        told.append(
            f"Of the source's validation rows, given the target's means and correlations, it is right on "
            f"{before.transported:.0%} (balanced): so much is left where class shares are as they were."
        )
    if shift.agreement is not None:
        on_target, on_source = shift.agreement
        told.append(
            f"Heads from two halves of the source agree on {on_target:.0%} of the target, on {on_source:.0%} of the "
            "source."
        )
    return told
