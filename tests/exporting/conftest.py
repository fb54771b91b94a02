"""Toys of exporting: a network that was written once, and files whose bytes are decoded in ways of their own."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def quick_onnx(image_onnx, monkeypatch):
    """Exports to ONNX take the network that was written once."""

    from unfreeze.exporting import formats

    def write(classifier, folder):
        return formats.Written(shutil.copy(image_onnx.file, folder / "model.onnx"), {})

    monkeypatch.setitem(formats.FORMATS, "onnx", replace(formats.FORMATS["onnx"], write=write))


@pytest.fixture
def raw_files(tmp_path):
    """Files whose bytes are decoded in ways of their own."""
    folder = tmp_path / "raw"
    folder.mkdir()
    chance = np.random.default_rng(3)

    def picture(height, width):
        return Image.fromarray(chance.integers(0, 255, (height, width, 3)).astype(np.uint8))

    exif = Image.Exif()
    exif[0x0112] = 6
    picture(40, 60).save(folder / "rotated.jpg", exif=exif)
    picture(50, 50).convert("CMYK").save(folder / "cmyk.jpg")
    picture(50, 50).quantize(16).save(folder / "palette.png")
    Image.fromarray(chance.integers(0, 65535, (40, 40)).astype(np.uint16)).save(folder / "deep.png")
    picture(8, 8).save(folder / "tiny.png")
    picture(6, 900).save(folder / "long.png")
    return sorted(folder.iterdir())
