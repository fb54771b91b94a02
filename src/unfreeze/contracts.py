"""The nouns that several rooms share: states, stages, backbones, executors.

A backbone is an ordered row of stages. Boundary k is the place before stage k: boundary 0 holds the raw
batch, boundary ``len(stages)`` holds the pooled feature. Nothing here imports torch at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unfreeze.runtime.preprocess import ImagePreprocess, TextPreprocess

Modality = Literal["image", "text"]


@dataclass(frozen=True)
class State:
    """What stands at a boundary for a batch.

    At boundary 0: images are ``h`` uint8 (or float in 0..255) of shape (batch, height, width, 3);
    texts are ``h`` int64 token ids (batch, tokens) with ``mask`` bool (batch, tokens), padding on the right.
    At the last boundary: ``h`` is the pooled feature, float (batch, dim). Between: whatever the backbone keeps.
    ``full``: what was known of the mask before it was moved to a device: True, no text is padded; False, some may be;
    None, whoever needs to know looks at it, and so waits for the device.
    """

    h: Tensor
    mask: Tensor | None = None
    full: bool | None = field(default=None, kw_only=True)

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """The same with each of its tensors changed, such as moved to a device."""
        return replace(self, h=change(self.h), mask=None if self.mask is None else change(self.mask))

    def rows(self, chosen: Any) -> State:
        """Those of the batch that an index of its first dimension names, with their masks."""
        return self.map(lambda tensor: tensor[chosen])


@dataclass(frozen=True)
class Stage:
    """One step of a backbone and the names (in ``module.state_dict()``) of all tensors it owns."""

    name: str
    tensors: tuple[str, ...]


@runtime_checkable
class Backbone(Protocol):
    """A pretrained network cut into stages.

    Laws: every parameter and buffer of ``module`` belongs to exactly one stage;
    ``run(run(x, 0, k), k, None) == run(x, 0, None)`` for every k; the full run gives (batch, dim).
    """

    @property
    def name(self) -> str:
        """Canonical name, such as ``tf_efficientnet_lite0``."""

    @property
    def family(self) -> str:
        """Architecture family: vit, resnet, efficientnet, convnext, swin, encoder, decoder, or opaque (one stage)."""

    @property
    def modality(self) -> Modality:
        """What it reads: image or text."""

    @property
    def dim(self) -> int:
        """Width of the pooled feature."""

    @property
    def preprocess(self) -> ImagePreprocess | TextPreprocess:
        """How raw inputs become the batch at boundary 0 (normalisation of images happens in stage 0)."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Ordered from input to pooling; the last stage is pooling."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """Module paths of the transformer blocks, in order, one a stage from stage 1 on; empty where it has none."""

    @property
    def module(self) -> nn.Module:
        """The library's own module; its state_dict keeps the library's names."""

    @property
    def recipe(self) -> Mapping[str, object]:
        """JSON-serialisable description from which the architecture is rebuilt without weights or network."""

    @property
    def assets(self) -> Mapping[str, bytes]:
        """Small files that belong to the backbone, by file name (``tokenizer.json``); empty for images."""

    @property
    def weights_hash(self) -> str:
        """Hash over names, shapes, types and values of all tensors as they were loaded."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences a person should read, such as a fallback to one stage."""

    def run(self, state: State, start: int = 0, stop: int | None = None) -> State:
        """The state at boundary ``stop`` (default: the pooled feature), from the state at boundary ``start``."""

    def summary(self, state: State, boundary: int) -> Tensor:
        """One vector a sample, float (batch, width), that sums up the state at ``boundary`` (1..len(stages)).

        At the last boundary this is the pooled feature itself.
        """


def recipe_here(backbone: Backbone) -> dict[str, object]:
    """The recipe with the versions of the libraries that are installed: a run's backbone names those it came from."""
    return {
        key: version(key) if key in ("timm", "transformers") else value
        for key, value in backbone.recipe.items()
    }


@dataclass(frozen=True)
class Passed:
    """What an executor gives back for a batch.

    ``summaries`` holds one float32 (batch, width) tensor for each boundary asked for, in that order, and ``states``
    the states at the boundaries where they were to be kept.
    """

    summaries: tuple[Tensor, ...]
    states: tuple[State, ...] = ()


@runtime_checkable
class Executor(Protocol):
    """Runs the stages below a boundary over raw batches, without gradients."""

    @property
    def name(self) -> str:
        """Engine and precision, such as ``torch-fp32`` or ``openvino-fp32``."""

    @property
    def precision(self) -> str:
        """fp32 or bf16."""

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Where it gives summaries, ascending."""

    @property
    def device(self) -> str:
        """Where it runs: cpu, cuda or mps, with an index where there are several."""

    def __call__(self, batch: State) -> Passed:
        """The outputs this executor was built for, on the CPU in float32."""
