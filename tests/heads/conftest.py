"""Small labelled features with a known structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Toy = Callable[..., tuple[NDArray[np.float32], NDArray[np.intp]]]
Softmax = Callable[[NDArray[np.floating]], NDArray[np.float64]]


@pytest.fixture
def gaussians() -> Toy:
    """Overlapping Gaussian classes, with features of very different scale and offset."""

    def make(
        n: int, width: int, classes: int, *, seed: int = 0, apart: float = 1.0
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        random = np.random.default_rng(seed)
        y = np.arange(n) % classes
        centres = random.normal(size=(classes, width)) * apart / width**0.5
        scale, offset = 3.0 ** random.uniform(-1, 1, width), random.normal(size=width) * 5
        features = (centres[y] + random.normal(size=(n, width)) / 2 + offset) * scale
        return features.astype(np.float32), y

    return make


@pytest.fixture
def softmax() -> Softmax:
    def apply(logits: NDArray[np.floating]) -> NDArray[np.float64]:
        powers = np.exp(np.asarray(logits, dtype=np.float64) - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    return apply


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Toys are too small for threads: waiting for each other is most of what they would do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)
