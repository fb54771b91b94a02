"""Image backbones from timm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from unfreeze.backbones.staging import assign_tensors, cut_is_exact, hash_weights, refuse_not_finite
from unfreeze.backbones.timm_families import OPAQUE, Family, Step, family_of, summarise
from unfreeze.contracts import Modality, Stage, State
from unfreeze.errors import RequestError
from unfreeze.runtime.preprocess import ImagePreprocess

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")


@dataclass(frozen=True, eq=False)
class TimmBackbone:
    """A timm network without its classifier, cut into stages; see ``unfreeze.contracts.Backbone``."""

    name: str
    kind: Family
    dim: int
    preprocess: ImagePreprocess
    stages: tuple[Stage, ...]
    steps: tuple[Step, ...]
    module: nn.Module
    recipe: Mapping[str, object]
    weights_hash: str
    notes: tuple[str, ...] = ()
    modality: Modality = "image"

    @property
    def family(self) -> str:
        """Architecture family; ``opaque`` for one stage."""
        return self.kind.name

    @property
    def assets(self) -> Mapping[str, bytes]:
        """Nothing: an image backbone needs no files beside its weights."""
        return {}

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks of a vision transformer."""
        if self.kind.name != "vit":
            return ()
        return tuple(step.name for step in self.steps[1:-1])

    def run(self, state: State, start: int = 0, stop: int | None = None) -> State:
        """The state at boundary ``stop``; stage 0 also scales and normalises the pixels."""
        depth = len(self.steps)
        stop = depth if stop is None else stop
        if not 0 <= start <= stop <= depth:
            raise ValueError(f"no way from boundary {start} to {stop}: there are {depth} stages")
        if start == stop:
            return state
        h = normalise(state.h, self.preprocess, self.module) if start == 0 else state.h
        positions = self.kind.positions(self.module) if start < depth - 1 else None
        for step in self.steps[start:stop]:
            h = step.run(self.module, h, positions)
        return State(h.float() if stop == depth else h)

    def summary(self, state: State, boundary: int) -> Tensor:
        """One float32 vector a sample (batch, width): the class token if any, and the mean over space."""
        if boundary == len(self.steps):
            return state.h.float()
        return summarise(state.h, layout=self.kind.layout, module=self.module)


def normalise(pixels: Tensor, preprocess: ImagePreprocess, module: nn.Module) -> Tensor:
    """Pixels in 0..255 of shape (batch, height, width, 3) as the network's input (batch, 3, height, width).

    The permuted view is channels_last in memory, which convolutions prefer; nothing is copied before the
    cast.
    """
    import torch

    x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0
    mean, std = _channels(preprocess.mean, x.device), _channels(preprocess.std, x.device)
    weights = next(module.parameters(), None)
    x = (x - mean) / std
    return x if weights is None else x.to(weights.dtype)


@cache
def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """One float32 value a channel (1, 3, 1, 1), on its device once: a captured graph cannot fetch it."""
    import torch

    with torch.inference_mode(mode=False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def assemble(
    module: Any,
    name: str,
    *,
    architecture: str,
    arguments: Mapping[str, object],
    image_size: int | None = None,
    notes: tuple[str, ...] = (),
) -> TimmBackbone:
    """A backbone around a loaded timm network: staged if its cut is exact on a random image."""
    import timm
    import torch

    module.eval()
    refuse_not_finite(module, name=name)
    fixed = arguments.get("img_size")
    size = (
        (fixed[0], fixed[1]) if isinstance(fixed, list) else (image_size, image_size) if image_size else None
    )
    preprocess = image_preprocess(module.pretrained_cfg, size, name=name)
    generator = torch.Generator().manual_seed(0)
    shape = (1, preprocess.height, preprocess.width, 3)
    sample = State(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
    wanted = _reference(module, sample, preprocess, name)
    dim = int(wanted.shape[1])
    recipe: dict[str, object] = {
        "library": "timm",
        "timm": timm.__version__,
        "name": name,
        "architecture": architecture,
        "arguments": {"num_classes": 0, **arguments},
        "preprocess": preprocess.to_dict(),
        "dim": dim,
    }
    build = partial(
        stage, module, name, preprocess=preprocess, dim=dim, weights_hash=hash_weights(module.state_dict())
    )
    kind = family_of(module)
    try:
        staged = build(kind=kind, recipe=recipe, notes=notes)
        exact = kind is not OPAQUE and cut_is_exact(staged, sample, wanted)
    except AttributeError:
        exact = False
    if not exact:
        why = (
            "its family is not in the table"
            if kind is OPAQUE
            else "its cut was not exact when it was checked"
        )
        notes = (*notes, f"{name} runs as one stage, since {why}: it can be trained whole or not at all.")
    recipe |= {"staged": exact, "notes": list(notes)}
    return build(kind=kind if exact else OPAQUE, recipe=recipe, notes=notes)


def stage(
    module: nn.Module,
    name: str,
    *,
    recipe: Mapping[str, object],
    preprocess: ImagePreprocess,
    kind: Family,
    dim: int,
    notes: tuple[str, ...],
    weights_hash: str,
) -> TimmBackbone:
    """A backbone around a timm network, cut as ``kind`` says; AttributeError when it has no such parts."""
    module.eval()
    steps = kind.cut(module)
    return TimmBackbone(
        name=name,
        kind=kind,
        dim=dim,
        preprocess=preprocess,
        stages=assign_tensors(module, [(step.name, step.owns) for step in steps]),
        steps=steps,
        module=module,
        recipe=recipe,
        weights_hash=weights_hash,
        notes=notes,
    )


def _reference(module: nn.Module, sample: State, preprocess: ImagePreprocess, name: str) -> Tensor:
    import torch

    try:
        with torch.no_grad():
            wanted: Tensor = module(normalise(sample.h, preprocess, module))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise RequestError(
            f"{name} cannot read images of {preprocess.height} x {preprocess.width} pixels: {error}."
        ) from error
    if wanted.ndim != 2:
        raise RequestError(f"{name} gives no pooled feature (its output has {wanted.ndim} dimensions).")
    return wanted


def image_preprocess(
    config: Mapping[str, Any], size: tuple[int, int] | None, *, name: str
) -> ImagePreprocess:
    """How images are prepared for weights with this configuration of timm; the whole image is kept.

    ``size``: (height, width) in pixels where they differ from the configuration's.

    The default squashes where timm crops the centre, because a crop can cut the object away.
    """
    channels, height, width = config["input_size"]
    if channels != 3:
        raise RequestError(f"{name} reads images of {channels} channels: choose a backbone that reads three.")
    interpolation = config.get("interpolation", "bicubic")
    return ImagePreprocess(
        height=height if size is None else size[0],
        width=width if size is None else size[1],
        mean=_triple(config["mean"]),
        std=_triple(config["std"]),
        crop_fraction=float(config.get("crop_pct") or 1.0),
        interpolation=interpolation if interpolation in _INTERPOLATIONS else "bilinear",
    )


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
