"""Two domains as features at three depths, whose classes are known to the tests alone."""

import numpy as np
import pytest

from unfreeze.adapting.scene import Known, Scene
from unfreeze.bundle.classifier import Classifier
from unfreeze.evaluate.calibration import softmax
from unfreeze.heads.design import make_design
from unfreeze.heads.search import fit_head
from unfreeze.runtime.labels import Labels

WIDTHS = {1: 6, 2: 8, 3: 10}
APART = 3.0


def draw(y, *, seed, shift=0.0, scale=1.0):
    """Rows whose class shows in the first feature of each depth; ``shift`` and ``scale`` act on all features."""
    chance = np.random.default_rng(seed)
    features = {}
    for boundary, width in WIDTHS.items():
        rows = chance.normal(size=(len(y), width))
        rows[:, 0] += APART * (np.asarray(y) - np.mean(y))
        features[boundary] = (scale * rows + shift + boundary).astype(np.float32)
    return features


def labels_of(count, *, seed, share=0.5):
    # Not the numbers that a scene of the same seed is cut into halves by: each half would be one class.
    return (np.random.default_rng((1, seed)).random(count) < share).astype(np.intp)


class Domains:
    """Makes scenes; ``y`` are the target's classes."""

    def __init__(self, y, scene):
        self.y, self.scene = y, scene

    def accuracy(self, logits):
        return float((np.asarray(logits).argmax(axis=1) == self.y).mean())

    @property
    def answers(self):
        """What the classifier says of the target as it is."""
        return self.scene.probabilities(self.scene.target).argmax(axis=1)

    @property
    def before(self):
        return self.accuracy(self.scene.probabilities(self.scene.target))


@pytest.fixture
def domains():
    def make(*, rows=300, shift=0.0, scale=1.0, share=0.5, target_rows=300, seed=0, source=True, **settings):
        y, held = labels_of(rows, seed=seed), labels_of(200, seed=seed + 1)
        train, val = Known(draw(y, seed=seed + 2), y), Known(draw(held, seed=seed + 3), held)
        there = labels_of(target_rows, seed=seed + 4, share=share)
        target = draw(there, seed=seed + 5, shift=shift, scale=scale)
        # Centred on the source's shares, so that other shares show as other means.
        for boundary in target:
            target[boundary][:, 0] += scale * APART * (np.mean(there) - np.mean(y))
        design = make_design([train.features[3]], name="toy")
        head = fit_head(design, y, boundaries=(3,), penalty=0.01, classes=2, balanced=False)
        classifier = Classifier(None, head, Labels(("no", "yes")))
        given = {
            "train": train,
            "val": val,
            "val_answers": softmax(head.logits(val.features[3])),
        }
        if not source:
            given = {"train": None, "val": None}
        scene = Scene(classifier=classifier, target=target, seed=seed, threshold=0.9, **(given | settings))
        return Domains(there, scene)

    return make
