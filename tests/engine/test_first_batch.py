"""What the first layer reads is what the preprocessing promises, or the run ends before it trains on it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import unfreeze
from unfreeze.contracts import State
from unfreeze.engine.first_batch import look_at_first_batch
from unfreeze.errors import UnfreezeError


def pixels(low=0, high=256):
    drawn = np.random.default_rng(0).integers(low, high, (8, 64, 64, 3))
    return State(torch.from_numpy(drawn.astype(np.uint8)))


class Normalising(nn.Module):
    """A network that normalises its input by itself, before it hands it on."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner((x - 0.5) / 0.25)


@pytest.fixture
def backbone():
    return unfreeze.load_backbone("efficientnet-lite0", modality="image", image_size=64)


def test_what_the_first_layer_reads_is_what_was_meant(backbone):
    found = look_at_first_batch(backbone, pixels())
    assert found.read is not None
    assert found.rows == 8
    assert found.read.mean == pytest.approx(found.wanted.mean, abs=1e-4)
    assert found.read.std == pytest.approx(found.wanted.std, abs=1e-4)
    mean, std = np.array(backbone.preprocess.mean), np.array(backbone.preprocess.std)
    raw = pixels().h.numpy().reshape(-1, 3) / 255
    assert found.wanted.mean == pytest.approx((raw.mean(axis=0) - mean) / std)
    assert found.wanted.std == pytest.approx(raw.std(axis=0) / std)
    assert "normalised once" in found.told()
    assert "one colour" not in found.told()


def test_nothing_stays_behind(backbone):
    look_at_first_batch(backbone, pixels())
    assert not any(module._forward_pre_hooks for module in backbone.module.modules())


def test_pixels_that_are_normalised_twice_end_the_run(backbone):
    backbone.module.conv_stem = Normalising(backbone.module.conv_stem)
    with pytest.raises(
        UnfreezeError, match=r"reads other pixels than its preprocessing makes: mean .* It normalises"
    ):
        look_at_first_batch(backbone, pixels())


def test_pixels_that_are_not_normalised_end_the_run(backbone, monkeypatch):
    monkeypatch.setattr(
        "unfreeze.backbones.timm_.normalise", lambda raw, *_: raw.permute(0, 3, 1, 2).float() / 255
    )
    with pytest.raises(UnfreezeError, match="reads other pixels"):
        look_at_first_batch(backbone, pixels())


def test_a_layer_that_reads_another_shape_is_not_judged(backbone):
    class Padding(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(nn.functional.pad(x, (0, 2, 0, 2)))

    backbone.module.conv_stem = Padding(backbone.module.conv_stem)
    found = look_at_first_batch(backbone, pixels())
    assert found.read is None
    assert "normalised once" not in found.told()


@pytest.mark.parametrize(("low", "high"), [(0, 3), (250, 256)])
def test_pictures_of_nearly_one_colour_are_pointed_out(backbone, low, high):
    assert (
        "nearly one colour: look at what the pictures hold"
        in look_at_first_batch(backbone, pixels(low, high)).told()
    )


def test_bf16_weights_are_no_difference(backbone):
    backbone.module.to(torch.bfloat16)
    found = look_at_first_batch(replace(backbone), pixels())
    assert found.read is not None
