"""Heads of different sizes, kinds and depths in one batch give what each gives by itself."""

import numpy as np
import pytest

from unfreeze.heads.head import Head
from unfreeze.serving.heads import all_logits

CHANCE = np.random.default_rng(4)


def linear(classes, boundaries, width):
    weight = CHANCE.normal(size=(classes, width)).astype(np.float32)
    return Head("linear", boundaries, {"weight": weight, "bias": weight[:, 0].copy()})


def mlp(classes, width):
    tensors = {
        "hidden.weight": CHANCE.normal(size=(256, width)).astype(np.float32),
        "hidden.bias": CHANCE.normal(size=256).astype(np.float32),
        "weight": CHANCE.normal(size=(classes, 256)).astype(np.float32),
        "bias": CHANCE.normal(size=classes).astype(np.float32),
    }
    return Head("mlp", (2,), tensors)


def test_each_row_has_the_logits_of_its_tasks_alone():
    features = {
        1: CHANCE.normal(size=(5, 3)).astype(np.float32),
        2: CHANCE.normal(size=(5, 4)).astype(np.float32),
    }
    heads = {
        "two": linear(2, (2,), 4),
        "nine": linear(9, (2,), 4),
        "deep": linear(3, (2, 1), 7),
        "mlp": mlp(4, 4),
        "unasked": linear(6, (2,), 4),
    }
    wanted = [("two",), ("nine", "deep"), (), ("mlp", "two"), ("deep",)]
    found = all_logits(heads, features, wanted)
    for row, tasks in enumerate(wanted):
        assert set(found[row]) == set(tasks)
        for task in tasks:
            joined = np.concatenate([features[boundary] for boundary in heads[task].boundaries], axis=1)
            assert found[row][task] == pytest.approx(heads[task].logits(joined)[row], rel=1e-4, abs=1e-4)
