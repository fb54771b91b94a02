"""What methods that fit heads at every depth share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.depths import Rule
from unfreeze.adapting.moments import Features, Moments, moments_of
from unfreeze.adapting.scene import Proposal, Scene


@dataclass(frozen=True, eq=False)
class Source:
    """The source's training rows, in units of their own."""

    features: Features
    y: NDArray[np.intp]
    moments: Moments

    @classmethod
    def of(cls, features: Features, y: NDArray[np.intp]) -> Source:
        """The rows, standardised."""
        moments = moments_of(features)
        return cls(moments.standardise(features), y, moments)

    def shares(self, classes: int) -> NDArray[np.float64]:
        """The share of each class, (classes,)."""
        return np.bincount(self.y, minlength=classes) / len(self.y)


def propose_rule(
    method: str,
    scene: Scene,
    rule: Rule,
    new: Moments,
    source: Source | None,
    *,
    notes: tuple[str, ...] = (),
) -> Proposal:
    """The rule as a proposal: it reads the target in units of the ``new`` moments, the source in its own."""
    val_logits = None
    if source is not None and scene.val is not None:
        val_logits = rule.logits(source.moments.standardise(_read_by(rule, scene.val.features)))
    return Proposal(
        method=method,
        head=rule.head(new),
        logits=rule.logits(new.standardise(_read_by(rule, scene.target))),
        val_logits=val_logits,
        notes=notes,
    )


def _read_by(rule: Rule, features: Features) -> Features:
    return {boundary: features[boundary] for boundary in rule.weight}
