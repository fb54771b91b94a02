"""Each sample is varied by itself, as its name says, and stays a picture."""

import numpy as np
import pytest
import torch

from unfreeze.data.augment import augment

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
