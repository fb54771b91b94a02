"""Augmentation of image batches: each sample has parameters of its own, a pure function of (seed, round, sample)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.chance import uniforms
from unfreeze.data.sending import send

if TYPE_CHECKING:
    from torch import Tensor

Name = Literal["none", "light", "strong", "dihedral"]

# Area kept by a crop. light loses little, for objects that may lie at the edge; strong is the range of
# Szegedy et al. 2015 as softened for small data by later practice (0.4 instead of 0.08).
LIGHT_AREA = (0.75, 1.0)
STRONG_AREA = (0.4, 1.0)
STRONG_ASPECT = (3 / 4, 4 / 3)
JITTER = 0.4
GRAYSCALE_SHARE = 0.2
BLUR_SHARE = 0.3
BLUR_SIGMA = (0.1, 2.0)
BLUR_RADIUS = 4
LUMA = (0.299, 0.587, 0.114)
DRAWS = 12


def augment(batch: Tensor, name: Name, *, seed: int, round_: int, keys: NDArray[np.uint64]) -> Tensor:
    """The batch, varied: uint8 (batch, height, width, 3), as it came.

    ``keys`` (batch,) identify the samples; ``round_`` is the epoch, or the view when views are stored. The result is
    rounded to uint8, so that every executor reads the same pixels, and lies in memory as the batch does: a training
    step that reads the channels of a pixel together took Lite0 two thirds of the time in fp32 (bench/RESULTS.md).
    """
    if name == "none":
        return batch
    chance = uniforms(seed, round_, keys, DRAWS)
    if name == "dihedral":
        return turn(batch, (chance[:, 0] * symmetries(batch)).astype(np.int64))
    images = batch.permute(0, 3, 1, 2).float()
    if name == "light":
        images = _crop(images, chance, area=LIGHT_AREA, aspect=(1.0, 1.0))
    else:
        images = _crop(images, chance, area=STRONG_AREA, aspect=STRONG_ASPECT)
        images = _jitter(images, chance[:, 5:8])
        images = _grayscale(images, chance[:, 8] < GRAYSCALE_SHARE)
        images = _blur(images, chance[:, 9] < BLUR_SHARE, chance[:, 10])
    return images.round().clamp(0, 255).to(batch.dtype).permute(0, 2, 3, 1).contiguous()


def symmetries(batch: Tensor) -> int:
    """How many flips and quarter turns images of this shape have: those of a square, or of a rectangle."""
    return 8 if batch.shape[1] == batch.shape[2] else 4


def turn(batch: Tensor, choice: NDArray[np.int64]) -> Tensor:
    """Each image (height, width, channels) of a batch in the symmetry that ``choice`` (batch,) names.

    Of its bits 1 mirrors it, 2 stands it on its head, and 4 swaps rows and columns; 0 leaves it as it is.
    """
    import torch

    turned = torch.empty_like(batch)
    for element in np.unique(choice):
        rows = send(np.flatnonzero(choice == element), batch.device)
        part = batch[rows]
        if element & 1:
            part = part.flip(2)
        if element & 2:
            part = part.flip(1)
        if element & 4:
            part = part.transpose(1, 2)
        turned[rows] = part
    return turned


def _crop(
    images: Tensor, chance: NDArray[np.float64], *, area: tuple[float, float], aspect: tuple[float, float]
) -> Tensor:
    """A random rectangle of each image, scaled back to the full size, mirrored for half of them."""
    import torch
    from torch.nn import functional

    share = area[0] + (area[1] - area[0]) * chance[:, 0]
    ratio = np.exp(math.log(aspect[0]) + (math.log(aspect[1]) - math.log(aspect[0])) * chance[:, 1])
    width = np.minimum(np.sqrt(share * ratio), 1.0)
    height = np.minimum(np.sqrt(share / ratio), 1.0)
    # grid_sample's coordinates run from -1 to 1: a window of width w may be centred from w - 1 to 1 - w.
    x = (2 * chance[:, 2] - 1) * (1 - width)
    y = (2 * chance[:, 3] - 1) * (1 - height)
    mirror = np.where(chance[:, 4] < 0.5, -1.0, 1.0)
    rows, columns = images.shape[2:]
    # Computed number by number: a product of matrices may round differently in a batch of another size.
    across = (2 * np.arange(columns) + 1) / columns - 1
    down = (2 * np.arange(rows) + 1) / rows - 1
    left_right, up_down = (
        send(line.astype(np.float32), images.device)
        for line in ((width * mirror)[:, None] * across + x[:, None], height[:, None] * down + y[:, None])
    )
    # Spread out on the device: a grid of points for each image would be most of what is moved there.
    shape = (len(x), rows, columns)
    grid = torch.stack([left_right[:, None, :].expand(shape), up_down[:, :, None].expand(shape)], dim=-1)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _jitter(images: Tensor, chance: NDArray[np.float64]) -> Tensor:
    """Brightness, contrast and saturation, each scaled by a factor in 1 ± 0.4."""
    factors = send((1 - JITTER + 2 * JITTER * chance).astype(np.float32), images.device)
    brightness, contrast, saturation = (factors[:, i, None, None, None] for i in range(3))
    images = (images * brightness).clamp(0, 255)
    # Added as whole numbers, whose sum is the same in any order.
    luma = _luma(images).round().long().sum(dim=(2, 3), keepdim=True)
    mean = luma.float() / (images.shape[2] * images.shape[3])
    images = ((images - mean) * contrast + mean).clamp(0, 255)
    gray = _luma(images)
    return ((images - gray) * saturation + gray).clamp(0, 255)


def _grayscale(images: Tensor, chosen: NDArray[np.bool_]) -> Tensor:
    import torch

    mask = send(chosen, images.device)[:, None, None, None]
    return torch.where(mask, _luma(images).expand_as(images), images)


def _blur(images: Tensor, chosen: NDArray[np.bool_], chance: NDArray[np.float64]) -> Tensor:
    """A Gaussian of its own width for each chosen image."""
    from torch.nn import functional

    rows = np.flatnonzero(chosen)
    if not len(rows):
        return images
    sigma = BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * chance[rows]
    offsets = np.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    kernel = np.exp(-0.5 * (offsets[None, :] / sigma[:, None]) ** 2)
    kernel /= kernel.sum(1, keepdims=True)
    index = send(rows, images.device)
    part = images[index]
    height, width = part.shape[2:]
    weight = send(kernel.astype(np.float32), images.device)[:, :, None, None, None]
    part = functional.pad(part, (BLUR_RADIUS,) * 4, mode="reflect")
    # Tap by tap: a convolution may add in another order in a batch of another size, or round to TF32.
    part = _weighted(weight, [part[..., tap : tap + width] for tap in range(2 * BLUR_RADIUS + 1)])
    part = _weighted(weight, [part[..., tap : tap + height, :] for tap in range(2 * BLUR_RADIUS + 1)])
    blurred = images.clone()
    blurred[index] = part
    return blurred


def _weighted(weight: Tensor, taps: list[Tensor]) -> Tensor:
    """The sum of the taps, each times its weight (samples, taps, 1, 1, 1)."""
    total = weight[:, 0] * taps[0]
    for position, tap in enumerate(taps[1:], start=1):
        total = total + weight[:, position] * tap
    return total


def _luma(images: Tensor) -> Tensor:
    red, green, blue = LUMA
    return red * images[:, :1] + green * images[:, 1:2] + blue * images[:, 2:3]
