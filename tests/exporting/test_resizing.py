"""``preprocess.onnx`` gives the bits that Pillow gives, for every fit and filter, at any size."""

from itertools import product

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from unfreeze.exporting.resizing import write_preprocess
from unfreeze.runtime.decode import decode_image
from unfreeze.runtime.preprocess import ImagePreprocess

# (height, width): single pixels and lines, odd sides, growing and shrinking, both orders of Pillow's passes.
SIZES = [(1, 1), (8, 8), (1, 300), (300, 1), (6, 900), (57, 33), (32, 32), (161, 240), (240, 161), (513, 700)]
SIZES += [(700, 90)]


def through(preprocess, folder):
    session = onnxruntime.InferenceSession(
        str(write_preprocess(preprocess, folder)), providers=["CPUExecutionProvider"]
    )
    return lambda picture: session.run(None, {"picture": picture})[0]


def stored(pixels, path):
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_every_pixel_is_the_one_that_training_reads(fit, interpolation, tmp_path):
    chance = np.random.default_rng(1)
    # A share above 1 leaves a border.
    for height, width, share in ((32, 32, 0.875), (40, 63, 0.9), (32, 32, 1.15), (40, 63, 1.5)):
        preprocess = ImagePreprocess(
            height, width, (0.485, 0.456, 0.406), (0.2, 0.2, 0.2),
            fit=fit, crop_fraction=share, interpolation=interpolation,
        )  # fmt: skip
        resize = through(preprocess, tmp_path)
        for size in SIZES:
            # Noise of two levels alone overshoots most, and is clipped on both sides.
            for pixels in (chance.integers(0, 256, (*size, 3)), 255 * chance.integers(0, 2, (*size, 3))):
                wanted = decode_image(stored(pixels.astype(np.uint8), tmp_path / "picture.bmp"), preprocess)
                found = resize(pixels.astype(np.uint8))
                assert found.shape == wanted.shape
                assert found.dtype == np.uint8
                assert np.array_equal(found, wanted), f"{size} to {height} x {width}"


def test_the_usual_sizes_of_cameras_and_of_networks_are_equal_too(tmp_path):
    chance = np.random.default_rng(2)
    preprocess = ImagePreprocess(224, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), fit="crop", crop_fraction=0.875)
    resize = through(preprocess, tmp_path)
    for size in product((480, 1333), (640, 1001)):
        pixels = chance.integers(0, 256, (*size, 3)).astype(np.uint8)
        wanted = decode_image(stored(pixels, tmp_path / "picture.bmp"), preprocess)
        assert np.array_equal(resize(pixels), wanted)
