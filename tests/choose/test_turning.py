"""Whether pictures have an up, seen in pictures that were made with one and without."""

import numpy as np

from unfreeze.choose.settings import Decisions, record_data
from unfreeze.config import TrainRequest
from unfreeze.data.load import load_dataset
from unfreeze.engine.batches import golden_batch
from unfreeze.progress import Silent
from unfreeze.training.material import Material
from unfreeze.training.prepare import frozen_pass, open_backbone, pick_executor
from unfreeze.training.probing import probe_features
from unfreeze.training.turning import LEAST_TURNED_ROWS, measure_turning


def pictures(rows, *, up):
    """Light above or below where ``up`` matters, else all light or all dark; noisy, 32 pixels square."""
    random, found = np.random.default_rng(3), []
    for number in range(rows):
        pixels = np.full((32, 32, 3), 70.0)
        if not up:
            pixels += 110 * (number % 2)
        elif number % 2:
            pixels[:16] += 110
        else:
            pixels[16:] += 110
        found.append(np.clip(random.normal(pixels, 10), 0, 255).astype(np.uint8))
    return found, [("light", "dark")[number % 2] for number in range(rows)]


def measured(rows, *, up):
    decisions = Decisions(TrainRequest(data="x", backbone="efficientnet-lite0", image_size=64, batch_size=32))
    dataset = load_dataset(pictures(rows, up=up), seed=0, fractions=(1.0, 0.0, 0.0))
    record_data(decisions, dataset)
    backbone = open_backbone(dataset, decisions, Silent())
    _, executor = pick_executor(backbone, dataset, decisions, Silent())
    features = frozen_pass(backbone, dataset, executor, decisions, Silent())
    probe = probe_features(dataset, features, backbone, decisions, Silent())
    material = Material(dataset, backbone, features, executor, decisions, Silent())
    return measure_turning(material, probe.pooled), material


def test_pictures_that_differ_by_their_up_stand_no_turning(plain_torch):
    found, material = measured(120, up=True)
    assert found.rows == 120
    assert found.without > 0.9
    assert found.beside < found.without
    assert not found.harmless
    # Nothing that was read is changed by looking.
    rows = material.features.rows[:4]
    again = material.executor(golden_batch(material.dataset, material.backbone, rows)).summaries[-1].numpy()
    np.testing.assert_allclose(again, material.features.arrays[max(material.features.arrays)][:4], atol=2e-2)


def test_pictures_that_differ_by_their_brightness_do(plain_torch):
    found, _ = measured(120, up=False)
    assert found.without > 0.9
    assert found.harmless


def test_of_few_pictures_nothing_is_said(plain_torch):
    assert measured(LEAST_TURNED_ROWS - 2, up=True)[0] is None
