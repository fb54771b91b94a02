"""What both adapters share: who owns which tensor, the hash of the weights, the check of a cut at loading."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unfreeze.contracts import Backbone, Stage, State
from unfreeze.errors import RequestError
from unfreeze.runtime.preprocess import Fit, ImagePreprocess, Preprocess, TextPreprocess, Truncation

if TYPE_CHECKING:
    from torch import Tensor, nn

# Two orders of summation of the same float32 network differ by about 1e-6 of its outputs; a wrong cut was
# seen to differ by 5e-3. The tolerance stands between.
RELATIVE_TOLERANCE = 1e-5
# How the note of a backbone begins whose weights a person gave: a name says nothing about them.
FROM_FILE = "Weights from the file"
# What a library's code raises where a network has other insides than it expects.
BREAKS = (AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def assign_tensors(module: nn.Module, owners: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[Stage, ...]:
    """One stage for each (name, prefixes) of ``owners``; what no prefix claims belongs to the first stage.

    A prefix claims the tensor of that very name and everything below it (``layer1`` claims
    ``layer1.0.weight`` but not ``layer10.weight``).
    """
    owned: list[list[str]] = [[] for _ in owners]
    claims = {prefix: index for index, (_, prefixes) in enumerate(owners) for prefix in prefixes}
    for tensor in module.state_dict():
        parts = tensor.split(".")
        heads = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        owned[next((claims[head] for head in heads if head in claims), 0)].append(tensor)
    return tuple(Stage(name, tuple(tensors)) for (name, _), tensors in zip(owners, owned, strict=True))


def stage_parameters(backbone: Backbone, index: int) -> dict[str, nn.Parameter]:
    """The parameters that stage ``index`` owns, by name, in the library's order (buffers are left out)."""
    owned = set(backbone.stages[index].tensors)
    return {name: value for name, value in backbone.module.named_parameters() if name in owned}


def hash_weights(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over the names, types, shapes and bytes of all tensors, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_not_finite(module: nn.Module, *, name: str) -> None:
    """Raise RequestError that names the first tensor of a network that holds NaN, or a weight that is infinite."""
    import torch

    for tensor_name, weight in module.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            wrong = int((~torch.isfinite(weight)).sum())
            raise RequestError(
                f"The weights of {name} are damaged: {tensor_name} has {wrong:,} of {weight.numel():,} values that are "
                "not finite. Download them again, or take another backbone."
            )
    for tensor_name, buffer in module.named_buffers():
        # A mask may be infinite; a running mean may not be NaN.
        if bool(torch.isnan(buffer).any()):
            raise RequestError(
                f"The weights of {name} are damaged: {tensor_name} holds NaN. Download them again, or take another "
                "backbone."
            )


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module; RequestError names the first whose name or shape does not match."""
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    extra = [name for name in tensors if name not in own]
    if missing or extra:
        which = f"has no tensor {missing[0]!r}" if missing else f"holds an unknown tensor {extra[0]!r}"
        raise RequestError(
            f"{source} {which} ({len(missing)} missing, {len(extra)} unknown): it holds another architecture."
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise RequestError(
                f"{source}: {name} has the shape {tuple(tensor.shape)}, the architecture needs "
                f"{tuple(own[name].shape)}: it holds another size of it."
            )
    module.load_state_dict(dict(tensors))


def cut_is_exact(backbone: Backbone, sample: State, wanted: Tensor) -> bool:
    """Whether the staged run of a raw batch gives ``wanted`` (batch, dim), in one go and resumed in between.

    A cut that raises is not exact either: a network of this library with other insides.
    """
    import torch

    depth = len(backbone.stages)
    scale = float(wanted.abs().max())
    try:
        with torch.no_grad():
            full = backbone.run(sample).h
            if full.shape != wanted.shape or not _close(full, wanted, scale):
                return False
            for boundary in sorted({1, depth // 2, depth - 1} - {0, depth}):
                middle = backbone.run(sample, 0, boundary)
                if not _close(backbone.run(middle, boundary).h, full, scale):
                    return False
    except BREAKS:
        return False
    return True


def _close(got: Tensor, wanted: Tensor, scale: float) -> bool:
    return float((got - wanted).abs().max()) <= RELATIVE_TOLERANCE * max(scale, 1e-6)


def with_fit(backbone: Backbone, fit: Fit) -> Backbone:
    """The same image backbone, with images squashed, cropped or padded to its size."""
    if not isinstance(backbone.preprocess, ImagePreprocess):
        raise RequestError(f"{backbone.name} reads texts, which are not fitted to a size.")
    return _prepared_by(backbone, replace(backbone.preprocess, fit=fit))


def with_truncation(backbone: Backbone, truncation: Truncation) -> Backbone:
    """The same text backbone, with the beginning kept of texts that are too long, or the beginning and the end."""
    if not isinstance(backbone.preprocess, TextPreprocess):
        raise RequestError(f"{backbone.name} reads images, which are not cut as texts are.")
    return _prepared_by(backbone, replace(backbone.preprocess, truncation=truncation))


def _prepared_by(backbone: Backbone, preprocess: Preprocess) -> Backbone:
    recipe = {**backbone.recipe, "preprocess": preprocess.to_dict()}
    return replace(backbone, preprocess=preprocess, recipe=recipe)  # type: ignore[type-var]


def rehash(backbone: Backbone) -> Backbone:
    """The same backbone with the hash of the weights that it holds now; for after training."""
    return replace(backbone, weights_hash=hash_weights(backbone.module.state_dict()))  # type: ignore[type-var]


def randomise(backbone: Backbone, *, seed: int) -> None:
    """Give every parameter the random value that it would start from, and statistics theirs; a function of the seed.

    What no layer of PyTorch knows how to draw (tokens, tables of positions, scales) follows ViT and BERT: a normal
    distribution of width 0.02, vectors ones or, where they are biases, zeros.
    """
    import torch
    from torch import nn

    before = {name: parameter.detach().clone() for name, parameter in backbone.module.named_parameters()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in backbone.module.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        for name, parameter in backbone.module.named_parameters():
            if not torch.equal(parameter, before[name]):
                continue
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            else:
                parameter.fill_(0.0 if "bias" in name else 1.0)
