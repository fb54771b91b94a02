"""What can be known about answers on a domain without its labels: each sign is weak, so several must agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.depths import Depths, depths_of
from unfreeze.adapting.halves import halves
from unfreeze.adapting.moments import Features, joined, moments_of, transport
from unfreeze.adapting.scene import Proposal, Scene
from unfreeze.evaluate.calibration import fit_temperature, softmax
from unfreeze.heads.head import Head

# k-means from so many starts; the clusters' agreement with the answers is what counts, not the best inertia.
STARTS = 4
# Of a class that is to have this many answers none is no chance any more (a probability of 0.00005, by Poisson).
FEWEST_EXPECTED = 10


@dataclass(frozen=True)
class Signs:
    """What the answers of one rule look like on the target.

    ``shares``: of the classes among the answers. ``evenness``: entropy of the shares over that of the source's answers,
    without a source over that of equal shares. ``confidence``: mean top probability. ``nuclear``: nuclear norm of the
    probabilities over its largest value: high when answers are sure and varied (Cui et al. 2020). ``ami``: adjusted
    mutual information of answers and clusters of the target's features. ``estimate``: accuracy by average-thresholded
    confidence (Garg et al. 2022). ``reverse``: balanced accuracy on the source's validation rows of heads that learnt
    from these answers alone (reverse validation, Zhong et al. 2010). ``transported``: balanced accuracy on those rows
    when they have the means, spreads and correlations of the target. The last three are None without a source, and the
    last where the network itself was changed, which these rows have not been through. ``displaced``: the share of
    answers that would have to be another class for the source's shares (total variation); 0 without a source.
    ``scarcest``: of the classes that the source's shares give ten answers or more, the smallest share as a part of the
    source's; 1 where there is none.
    """

    shares: tuple[float, ...]
    evenness: float
    confidence: float
    nuclear: float
    ami: float
    estimate: float | None
    reverse: float | None
    transported: float | None = None
    displaced: float = 0.0
    scarcest: float = 1.0

    @property
    def largest(self) -> float:
        """The share of the commonest answer."""
        return max(self.shares)

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads the signs of rules on one scene; what they share is computed once.

    Of a target that changes in steps they are those of the newest one: it is what the model will meet.
    """

    scene: Scene

    @cached_property
    def halves(self) -> tuple[Scene, Scene] | None:
        """The scene with classifiers from either half of the source; None without one."""
        return halves(self.scene)

    def before(self) -> Signs:
        """Those of the classifier as it is."""
        scene = self.scene
        return self._signs(scene.probabilities(scene.newest_target), scene.val_answers, scene.classifier.head)

    def after(self, proposal: Proposal) -> Signs:
        """Those of a proposal, whose temperature is fitted on the source where there is one."""
        temperature = self.scene.classifier.temperature
        val = None
        if proposal.val_logits is not None and self.scene.val is not None:
            temperature = fit_temperature(proposal.val_logits, self.scene.val.y)
            val = softmax(proposal.val_logits, temperature)
        head = proposal.head if proposal.backbone is None else None
        return self._signs(softmax(proposal.logits[self.scene.newest], temperature), val, head)

    def _signs(
        self, answers: NDArray[np.float64], val: NDArray[np.float64] | None, head: Head | None
    ) -> Signs:
        from sklearn.metrics import adjusted_mutual_info_score

        labels = answers.argmax(axis=1)
        shares = shares_of(answers)
        usual = shares if val is None else shares_of(val)
        even = np.log(len(shares)) if val is None else entropy(usual)
        limit = np.sqrt(len(answers) * min(answers.shape))
        return Signs(
            shares=tuple(float(share) for share in shares),
            evenness=float(entropy(shares) / max(even, 1e-9)),
            confidence=float(answers.max(axis=1).mean()),
            nuclear=float(np.linalg.norm(answers, "nuc") / limit),
            ami=float(adjusted_mutual_info_score(labels, self._clusters)),
            estimate=None if val is None else self._estimate(answers, val),
            reverse=self._reverse(labels),
            transported=None if head is None else self._score_transported(head),
            displaced=float(np.abs(shares - usual).sum() / 2),
            scarcest=scarcest(shares, usual, rows=len(labels)),
        )

    @cached_property
    def _clusters(self) -> NDArray[np.intp]:
        """As many clusters as there are classes, among the deepest features of the target."""
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA

        scene, target = self.scene, self.scene.newest_target
        last = max(target)
        if len(target[last]) < 2:
            return np.zeros(len(target[last]), dtype=np.intp)
        block = moments_of({last: target[last]}).standardise({last: target[last]})[last]
        found = PCA(min(32, *block.shape), random_state=scene.seed).fit_transform(block)
        count = min(scene.classes, len(np.unique(found, axis=0)))
        return np.asarray(KMeans(count, n_init=STARTS, random_state=scene.seed).fit_predict(found))

    def _estimate(self, answers: NDArray[np.float64], val: NDArray[np.float64]) -> float:
        """The share of target rows above the confidence that as many source rows reach as are right."""
        assert self.scene.val is not None
        right = float((val.argmax(axis=1) == self.scene.val.y).mean())
        threshold = np.quantile(val.max(axis=1), 1 - right) if right < 1 else 0.0
        return float((answers.max(axis=1) >= threshold).mean())

    def _reverse(self, labels: NDArray[np.intp]) -> float | None:
        if self._backward is None or self.scene.val is None:
            return None
        depths, val = self._backward
        rule = depths.fit(labels.astype(np.intp), np.ones(len(labels)))
        return balanced_accuracy(self.scene.val.y, rule.logits(val).argmax(axis=1))

    def _score_transported(self, head: Head) -> float | None:
        if self._transported is None or self.scene.val is None:
            return None
        logits = head.logits(joined(self._transported, head.boundaries))
        return balanced_accuracy(self.scene.val.y, logits.argmax(axis=1))

    @cached_property
    def _transported(self) -> Features | None:
        scene = self.scene
        if scene.train is None or scene.val is None:
            return None
        return transport(scene.val.features, known=scene.train.features, new=scene.newest_target)

    @cached_property
    def _backward(self) -> tuple[Depths, Features] | None:
        scene = self.scene
        if scene.train is None or scene.val is None:
            return None
        target = moments_of(scene.newest_target).standardise(scene.newest_target)
        val = moments_of(scene.train.features).standardise(scene.val.features)
        return depths_of([target], classes=scene.classes), val


def shares_of(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of each class among the answers (rows, classes), as (classes,)."""
    return np.bincount(answers.argmax(axis=1), minlength=answers.shape[1]) / len(answers)


def entropy(shares: NDArray[np.float64]) -> float:
    """In nats."""
    some = shares[shares > 0]
    # Of one share alone it would be a negative zero.
    return abs(float((some * np.log(some)).sum()))


def scarcest(shares: NDArray[np.float64], usual: NDArray[np.float64], *, rows: int) -> float:
    """The smallest of ``shares`` as a part of the ``usual`` one, among classes that ``rows`` are enough to tell of."""
    expected = usual * rows >= FEWEST_EXPECTED
    return float((shares[expected] / usual[expected]).min(initial=1.0))


def balanced_accuracy(y: NDArray[np.intp], labels: NDArray[np.intp]) -> float:
    """The mean recall of the classes that occur in ``y``."""
    return float(np.mean([(labels[y == label] == label).mean() for label in np.unique(y)]))


def agreement(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The share of rows on which two answers (rows, classes) are the same class."""
    return float((one.argmax(axis=1) == other.argmax(axis=1)).mean())
