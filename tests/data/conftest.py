"""Toys: tiny pictures, class folders and tables."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _picture(number: int, *, size: tuple[int, int] = (8, 6), kind: str = "PNG") -> bytes:
    """An image file that differs from those of other numbers."""
    width, height = size
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return _picture


@pytest.fixture
def class_folders(tmp_path: Path) -> Callable[..., Path]:
    """Builds ROOT/[PART/]CLASS/N.png; all pictures differ unless the numbers repeat."""
    made = 0

    def build(counts: dict[str, int], *, root: str = "photos", content: str | None = None) -> Path:
        nonlocal made
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        for name, count in counts.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                made += 1
                if content is None:
                    (folder / name / f"{number:03}.png").write_bytes(_picture(made))
                else:
                    (folder / name / f"{number:03}.txt").write_text(f"{content} {made}")
        return folder

    return build
