"""Text backbones from transformers: encoders, and decoders read at their last token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unfreeze.backbones.hf_spine import Spine, first_layer_extras, last_hidden, run_layers
from unfreeze.backbones.staging import assign_tensors
from unfreeze.contracts import Modality, Stage, State
from unfreeze.runtime.preprocess import TextPreprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

Pooling = Literal["native", "mean", "cls", "last"]
POOLINGS: tuple[Pooling, ...] = ("native", "mean", "cls", "last")


@dataclass(frozen=True, eq=False)
class HfBackbone:
    """A transformers base model cut into embedding, layers and pooling; see ``unfreeze.contracts.Backbone``.

    ``spine`` is None for a model that runs as one stage. ``pooling``: the mean over real tokens, the first
    token, the last real token, or ``native``: the model's own pooler, which its classification class reads.
    """

    name: str
    family: str
    dim: int
    preprocess: TextPreprocess
    stages: tuple[Stage, ...]
    module: nn.Module
    spine: Spine | None
    pooling: Pooling
    recipe: Mapping[str, object]
    assets: Mapping[str, bytes]
    weights_hash: str
    notes: tuple[str, ...] = ()
    modality: Modality = "text"

    @property
    def blocks(self) -> tuple[str, ...]:
        """The layers of the transformer."""
        if self.spine is None:
            return ()
        return tuple(f"{self.spine.layers}.{index}" for index in range(self.spine.depth))

    def run(self, state: State, start: int = 0, stop: int | None = None) -> State:
        """The state at boundary ``stop``; a missing mask means that every token is real."""
        depth = len(self.stages)
        stop = depth if stop is None else stop
        if not 0 <= start <= stop <= depth:
            raise ValueError(f"no way from boundary {start} to {stop}: there are {depth} stages")
        if start == stop:
            return state
        mask = _mask_of(state)
        if self.spine is None:
            h = last_hidden(self.module, state.h, mask, full=state.full)
        else:
            h = run_layers(self.module, self.spine, state.h, mask, start=start, stop=stop, full=state.full)
        if stop < depth:
            return State(h, mask, full=state.full)
        return State(pool(self.module, h, mask, pooling=self.pooling))

    def summary(self, state: State, boundary: int) -> Tensor:
        """One float32 vector a sample (batch, width): the mean of its real tokens, or the pooled feature."""
        if boundary == len(self.stages):
            return state.h.float()
        return masked_mean(state.h, _mask_of(state))


def pool(module: Any, h: Tensor, mask: Tensor, *, pooling: Pooling) -> Tensor:
    """The pooled feature, float32 (batch, dim), of hidden states (batch, tokens, width)."""
    import torch

    if pooling == "mean":
        return masked_mean(h, mask)
    if pooling == "native":
        pooled: Tensor = module.pooler(h)
        return pooled.float()
    if pooling == "cls":
        return h[:, 0].float()
    last = (mask.to(torch.long).sum(dim=1) - 1).clamp(min=0)
    index = last.view(-1, 1, 1).expand(-1, 1, h.shape[2])
    return h.gather(1, index).squeeze(1).float()


def masked_mean(h: Tensor, mask: Tensor) -> Tensor:
    """The mean over real tokens, float32 (batch, width); an empty text gives zeros."""
    weights = mask.unsqueeze(-1).float()
    return (h.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def cut_stages(module: nn.Module, spine: Spine | None) -> tuple[Stage, ...]:
    """Embedding, layers, pooling; or one stage.

    Tables that many layers read (relative positions) belong to the embedding; the last norm and the pooler to
    the pooling.
    """
    if spine is None:
        return assign_tensors(module, [("model", ())])
    layers: list[tuple[str, tuple[str, ...]]] = [
        (f"layers.{index}", (f"{spine.layers}.{index}",)) for index in range(spine.depth)
    ]
    layers[0] = (layers[0][0], (*layers[0][1], *first_layer_extras(module, spine)))
    last = ("pooler",) if spine.norm is None else ("pooler", spine.norm)
    return assign_tensors(module, [("embeddings", ()), *layers, ("pooling", last)])


def sample_texts(config: Any) -> State:
    """Two texts of random ids, the second one padded."""
    import torch

    generator = torch.Generator().manual_seed(0)
    special = _special_ids(config)
    ids = torch.randint(0, int(config.vocab_size), (2, 12), generator=generator)
    # A padding id inside of a text would shift RoBERTa's positions.
    usable = next(value for value in range(len(special) + 1) if value not in special)
    for value in special:
        ids[ids == value] = usable
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 7:] = False
    ids[~mask] = getattr(config, "pad_token_id", None) or 0
    return State(ids, mask)


def _special_ids(config: Any) -> set[int]:
    """The ids of padding, beginning and end, of which some decoders have several."""
    found = [getattr(config, key, None) for key in ("pad_token_id", "bos_token_id", "eos_token_id")]
    listed = [ids if isinstance(ids, list) else [ids] for ids in found]
    return {value for ids in listed for value in ids if value is not None}


def is_causal(module: Any, config: Any) -> bool:
    """Whether a token sees only what stands before it: measured, by changing the last one."""
    import torch

    module.eval()
    first = sample_texts(config).h[:1]
    second = first.clone()
    second[0, -1] = (second[0, -1] + 1) % int(config.vocab_size)
    mask = torch.ones_like(first, dtype=torch.bool)
    with torch.no_grad():
        gap = last_hidden(module, first, mask)[:, 0] - last_hidden(module, second, mask)[:, 0]
    return float(gap.abs().max()) == 0.0


def _mask_of(state: State) -> Tensor:
    import torch

    if state.mask is not None:
        return state.mask
    return torch.ones(state.h.shape[:2], dtype=torch.bool, device=state.h.device)
