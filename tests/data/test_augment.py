"""Each sample is varied by itself, as its name says, and stays a picture."""

import numpy as np
import pytest
import torch

from unfreeze.data.augment import augment
from unfreeze.data.chance import uniforms

KEYS = np.random.default_rng(1).integers(0, 2**63, 64).astype(np.uint64)
PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 24, 24, 3), dtype=np.uint8))


def varied(batch, name, keys=KEYS, round_=0, seed=0):
    return augment(batch, name, seed=seed, round_=round_, keys=keys)


@pytest.mark.parametrize("name", ["light", "strong", "dihedral"])
def test_a_sample_alone_is_varied_as_in_a_batch_to_the_bit(name):
    together = varied(PICTURES, name)
    assert together.shape == PICTURES.shape
    assert together.dtype == torch.uint8
    for rows in ([0], [63, 5], list(range(9, 40))):
        assert torch.equal(varied(PICTURES[rows], name, KEYS[rows]), together[rows])


@pytest.mark.parametrize("name", ["light", "strong", "dihedral"])
def test_variation_depends_on_seed_round_and_key(name):
    first = varied(PICTURES, name)
    assert torch.equal(first, varied(PICTURES, name))
    for other in (
        varied(PICTURES, name, round_=1),
        varied(PICTURES, name, seed=1),
        varied(PICTURES, name, KEYS[::-1].copy()),
    ):
        assert (first != other).flatten(1).any(1).float().mean() > 0.7


@pytest.mark.parametrize("name", ["none", "light", "strong", "dihedral"])
def test_a_varied_batch_lies_in_memory_as_it_came(name):
    assert varied(PICTURES, name).is_contiguous()


def test_none_changes_nothing():
    assert varied(PICTURES, "none") is PICTURES


def test_dihedral_gives_all_eight_symmetries_and_nothing_else():
    one = PICTURES[:1]
    forms = {
        one.rot90(turns, (1, 2)).flip(flip).numpy().tobytes() for turns in range(4) for flip in ((), (1,))
    }
    found = {item.numpy().tobytes() for item in varied(one.expand(64, -1, -1, -1), "dihedral")}
    assert found == forms
    assert len(found) == 8


def test_oblong_pictures_are_only_flipped():
    one = PICTURES[:1, :, :16]
    forms = {one.flip(axes).numpy().tobytes() for axes in ((), (1,), (2,), (1, 2))}
    assert {item.numpy().tobytes() for item in varied(one.expand(64, -1, -1, -1), "dihedral")} == forms


def test_light_crops_and_mirrors_without_leaving_the_picture():
    ramp = torch.arange(24, dtype=torch.uint8).mul(10)[None, None, :, None].expand(64, 24, 24, 3)
    found = varied(ramp, "light").float()
    slopes = found[:, 12, -1, 0] - found[:, 12, 0, 0]
    assert 20 < int((slopes < 0).sum()) < 44
    # Areas from 0.75 on keep sides from 0.866 on.
    assert float(slopes.abs().min()) > 0.84 * 230
    assert float(slopes.abs().max()) <= 231
    flat = torch.full((4, 24, 24, 3), 77, dtype=torch.uint8)
    assert varied(flat, "light", KEYS[:4]).eq(77).all()


def test_strong_varies_brightness_and_sometimes_takes_colour_away():
    found = varied(PICTURES, "strong").float()
    gray = (found.amax(-1) - found.amin(-1)).amax(dim=(1, 2)) <= 1
    assert 4 < int(gray.sum()) < 24
    means = found.mean(dim=(1, 2, 3))
    assert float(means.max() - means.min()) > 60


def cropped(picture, draws, *, area, aspect):
    """The crop as the docstring describes it, point by point: a window, mirrored for half of the draws, scaled up."""
    height, width = picture.shape[:2]
    share = area[0] + (area[1] - area[0]) * draws[0]
    ratio = aspect[0] * (aspect[1] / aspect[0]) ** draws[1]
    wide, high = min(np.sqrt(share * ratio), 1.0), min(np.sqrt(share / ratio), 1.0)
    # Where the window begins, as a share of the side, and the centres of its points.
    across = (draws[2] * (1 - wide) + wide * (np.arange(width) + 0.5) / width) * width - 0.5
    down = (draws[3] * (1 - high) + high * (np.arange(height) + 0.5) / height) * height - 0.5
    if draws[4] < 0.5:
        across = across[::-1]
    rows = between(picture.astype(float), np.clip(down, 0, height - 1))
    return between(rows.transpose(1, 0, 2), np.clip(across, 0, width - 1)).transpose(1, 0, 2)


def between(lines, places):
    """Values between the lines, weighted by distance."""
    low = np.minimum(places.astype(int), len(lines) - 2)
    part = (places - low)[:, None, None]
    return lines[low] * (1 - part) + lines[low + 1] * part


def test_light_is_the_crop_that_its_draws_say():
    draws = uniforms(7, 3, KEYS, 12)
    found = varied(PICTURES, "light", round_=3, seed=7).numpy()
    for row, picture in enumerate(PICTURES.numpy()):
        wanted = cropped(picture, draws[row], area=(0.75, 1.0), aspect=(1.0, 1.0))
        assert np.abs(found[row] - wanted).max() < 0.51


def test_strong_is_crop_jitter_grey_and_blur_with_a_draw_of_its_own_each():
    draws = uniforms(0, 0, KEYS, 12)
    found = varied(PICTURES, "strong").numpy()
    luma = np.array([0.299, 0.587, 0.114])
    grey, blurred = draws[:, 8] < 0.2, draws[:, 9] < 0.3
    assert {(bool(one), bool(other)) for one, other in zip(grey, blurred, strict=True)} == {
        (False, False), (False, True), (True, False), (True, True)
    }  # fmt: skip
    for row, picture in enumerate(PICTURES.numpy()):
        wanted = cropped(picture, draws[row], area=(0.4, 1.0), aspect=(3 / 4, 4 / 3))
        brightness, contrast, saturation = 0.6 + 0.8 * draws[row, 5:8]
        wanted = np.clip(wanted * brightness, 0, 255)
        mean = (wanted @ luma).mean()
        wanted = np.clip((wanted - mean) * contrast + mean, 0, 255)
        shade = (wanted @ luma)[..., None]
        wanted = np.clip((wanted - shade) * saturation + shade, 0, 255)
        if grey[row]:
            wanted = np.repeat((wanted @ luma)[..., None], 3, axis=2)
        if blurred[row]:
            sigma = 0.1 + 1.9 * draws[row, 10]
            kernel = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2)
            for axis in (0, 1):
                padded = np.pad(
                    wanted, [(4, 4) if side == axis else (0, 0) for side in range(3)], mode="reflect"
                )
                wanted = np.apply_along_axis(np.convolve, axis, padded, kernel / kernel.sum(), mode="valid")
        # The mean is taken of whole numbers, which differ by half of one at most.
        assert np.abs(found[row] - wanted).max() < 0.8


def test_every_symmetry_is_as_frequent_as_the_others():
    draws = (uniforms(0, 0, KEYS, 12)[:, 0] * 8).astype(int)
    found = varied(PICTURES, "dihedral").numpy()
    for picture, turned, choice in zip(PICTURES.numpy(), found, draws, strict=True):
        wanted = picture[:, ::-1] if choice & 1 else picture
        wanted = wanted[::-1] if choice & 2 else wanted
        wanted = wanted.transpose(1, 0, 2) if choice & 4 else wanted
        assert np.array_equal(turned, wanted)
