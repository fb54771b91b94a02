"""Looking at the first batch: what the network's first layer really reads, beside what its preprocessing promises.

Pixels that are normalised twice, or not at all, train to something that looks like a weak model. So what arrives is
measured once, before anything is trained on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unfreeze.errors import UnfreezeError
from unfreeze.runtime.preprocess import ImagePreprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unfreeze.contracts import Backbone, State

# Rows that are looked at: means of whole pictures, which eight of them give to a few hundredths.
ROWS = 8
# bf16 weights make the input bf16, whose steps are 2^-8 of a value that is 3 at most.
TOLERANCE = 0.02
# Photographs have a mean near 0 and a spread of 0.5 to 1, by the network's normalisation: what is as far from both as
# this are pictures of one colour, or of 16 bits read as 8.
LEAST_SPREAD, MOST_MEAN = 0.1, 3.0


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each of three channels, over a batch."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class FirstBatch:
    """What the first layer should read of ``rows`` pictures, and what it reads (None: it does not take pixels)."""

    rows: int
    wanted: Moments
    read: Moments | None

    def told(self) -> str:
        """A sentence for a person."""
        mean, spread = _middle(self.wanted.mean), _middle(self.wanted.std)
        once = ", normalised once, as in its pretraining" if self.read is not None else ""
        said = f"First batch: the network reads pixels of mean {mean:.2f} and spread {spread:.2f}{once}."
        if spread < LEAST_SPREAD or abs(mean) > MOST_MEAN:
            said += " That is nearly one colour: look at what the pictures hold."
        return said


def look_at_first_batch(backbone: Backbone, state: State) -> FirstBatch:
    """The first batch, from raw inputs at boundary 0: pixels in 0..255, (batch, height, width, 3).

    Raises UnfreezeError when the first layer reads other values than the preprocessing makes of these pixels.
    """
    import torch

    preprocess = backbone.preprocess
    assert isinstance(preprocess, ImagePreprocess)
    pixels = state.h.permute(0, 3, 1, 2).double() / 255
    scaled = (pixels - _by_channel(preprocess.mean)) / _by_channel(preprocess.std)
    device = next((tensor.device for tensor in backbone.module.parameters()), state.h.device)
    with _first_input(backbone.module) as seen, torch.no_grad():
        backbone.run(replace(state, h=state.h.to(device)), 0, 1)
    read = _moments(seen[0]) if seen and seen[0].shape == scaled.shape else None
    first = FirstBatch(len(scaled), _moments(scaled), read)
    if first.read is not None:
        _check(first.wanted, first.read, backbone.name)
    return first


def _check(wanted: Moments, read: Moments, name: str) -> None:
    pairs = zip((*wanted.mean, *wanted.std), (*read.mean, *read.std), strict=True)
    if all(abs(one - other) <= TOLERANCE * max(1.0, abs(one)) for one, other in pairs):
        return
    raise UnfreezeError(
        f"{name} reads other pixels than its preprocessing makes: mean {_middle(read.mean):.2f} and spread "
        f"{_middle(read.std):.2f} where {_middle(wanted.mean):.2f} and {_middle(wanted.std):.2f} were meant. It "
        "normalises them itself, or not as pretrained: set its preprocessing to what it was pretrained with."
    )


@contextmanager
def _first_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the first layer with weights of its own is given within the block, in a list of at most one."""
    seen: list[Tensor] = []

    def note(_: object, inputs: tuple[Tensor, ...]) -> None:
        if not seen and inputs:
            seen.append(inputs[0].detach())

    layers = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _by_channel(values: tuple[float, float, float]) -> Tensor:
    import torch

    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)


def _moments(values: Tensor) -> Moments:
    """Of (batch, 3, height, width)."""
    flat = values.double().cpu().transpose(0, 1).flatten(1)
    return Moments(tuple(flat.mean(dim=1).tolist()), tuple(flat.std(dim=1, correction=0).tolist()))


def _middle(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
