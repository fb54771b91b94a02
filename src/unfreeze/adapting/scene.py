"""What an adaptation is given and what a method comes to; labels of the target are nowhere in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.moments import Features, joined, rows_of
from unfreeze.bundle.classifier import Classifier
from unfreeze.contracts import Backbone
from unfreeze.evaluate.calibration import softmax
from unfreeze.heads.head import Head


@dataclass(frozen=True, eq=False)
class Known:
    """Labelled rows: features (rows, width) by boundary, and classes (rows,).

    ``groups``: codes (rows,) of rows that may stand and fall together, or None.
    """

    features: Features
    y: NDArray[np.intp]
    groups: NDArray[np.int32] | None = None

    def select(self, rows: NDArray[np.intp]) -> Known:
        """These rows in this order."""
        groups = None if self.groups is None else self.groups[rows]
        return Known(rows_of(self.features, rows), self.y[rows], groups)


def no_rows() -> NDArray[np.intp]:
    """The positions of no rows."""
    return np.zeros(0, dtype=np.intp)


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """A trained classifier and the features of both domains at every depth.

    ``train`` and ``val``: rows of the source, None where its data is not at hand. ``unseen``: a head like the
    classifier's that has not learnt from the latter, and ``val_answers`` what it says of them (rows, classes).
    ``target`` has no labels; ``asked`` are the few rows whose labels a person gave, ``answers`` those. ``order``
    (rows,) tells which step of a change a target row belongs to, or None; rows with a label belong to the newest.
    ``strong`` gives strongly varied views of the target rows, and ``strong_train`` of the source's, where the
    modality has them. ``restated`` gives the network with normalisation statistics of the newest target rows, and
    the features of all of them in it, where it has such statistics; it comes to None where those that it has are
    not the source's own.
    """

    classifier: Classifier
    train: Known | None
    val: Known | None
    target: Features
    seed: int
    threshold: float
    unseen: Head | None = None
    val_answers: NDArray[np.float64] | None = None
    order: NDArray[np.intp] | None = None
    asked: NDArray[np.intp] = field(default_factory=no_rows)
    answers: NDArray[np.intp] = field(default_factory=no_rows)
    strong: Callable[[], Features] | None = None
    strong_train: Callable[[], Features] | None = None
    restated: Callable[[], tuple[Backbone, Features] | None] | None = None

    @property
    def rows(self) -> int:
        """How many target rows there are."""
        return len(next(iter(self.target.values())))

    @property
    def newest(self) -> NDArray[np.intp]:
        """Positions of the target rows that the model is to meet: those of the newest step, all without steps."""
        if self.order is None:
            return np.arange(self.rows)
        return np.flatnonzero(self.order == self.order.max())

    @cached_property
    def newest_target(self) -> Features:
        """The features of the newest rows: the domain that the model is to meet."""
        return self.target if self.order is None else rows_of(self.target, self.newest)

    @property
    def classes(self) -> int:
        """How many classes the classifier knows."""
        return len(self.classifier.labels)

    def probabilities(self, features: Features) -> NDArray[np.float64]:
        """What the classifier says of these rows as it is, (rows, classes)."""
        head = self.classifier.head
        return softmax(head.logits(joined(features, head.boundaries)), self.classifier.temperature)


@dataclass(frozen=True, eq=False, kw_only=True)
class Proposal:
    """A classifier for the target that a method proposes.

    ``head`` reads raw features of the target, through ``backbone`` where the method changed it. ``unseen`` is the same
    made of the scene's unseen head, where the method makes it of the classifier's. ``logits`` are those of the target
    rows; ``val_logits`` those of the source's validation rows by the same rule, read in the source's own
    units, or None without a source.
    """

    method: str
    head: Head
    logits: NDArray[np.float64]
    val_logits: NDArray[np.float64] | None
    unseen: Head | None = None
    backbone: Backbone | None = None
    notes: tuple[str, ...] = ()


class NotPossibleError(Exception):
    """Why a method has nothing to propose here, as a sentence."""
