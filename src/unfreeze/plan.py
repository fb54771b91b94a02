"""A plan: which stages thaw when, at which rates. Strategies return one; the engine runs any of them.

The frozen boundary is derived from what is thawed, never given: everything below the first thawed stage has an
output that cannot change during the phase, so it is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unfreeze.contracts import Modality
from unfreeze.errors import RequestError

What = Literal["weights", "norm", "bias", "graft"]
NormPolicy = Literal["freeze", "train"]
Schedule = Literal["cosine", "linear", "constant"]
AugmentName = Literal["none", "light", "strong", "dihedral"]
# What a phase minimises: the cross-entropy of the head's answers, or how far rows of one class lie apart.
Objective = Literal["classes", "pairs"]


@dataclass(frozen=True)
class Thaw:
    """What becomes trainable in one stage, and its peak learning rate.

    ``weights``: every parameter of the stage; ``norm``: scale and shift of its normalisation layers; ``bias``: its
    biases; ``graft``: what was grafted onto it (LoRA, adapters).
    """

    stage: int
    what: What
    rate: float


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank updates beside frozen layers (Hu et al. 2021): W + (alpha / rank) · B · A, with B zero at the start.

    ``targets``: module paths of the layers. ``dropout`` acts on the update's input.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """A bottleneck behind each block (Houlsby et al. 2019): h + up(GELU(down(norm(h)))), with ``up`` zero at the start.

    ``blocks``: module paths of the blocks. The bottleneck is 1/``reduction`` as wide as the block.
    """

    reduction: int
    blocks: tuple[str, ...]


Graft = Lora | Adapters


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training with one set of trainable parameters.

    ``head_rate``: the head's peak rate, or None to keep it as it is. ``warmup``: share of the phase's steps with a
    linearly rising rate. ``norm``: whether normalisation statistics of thawed stages are updated. ``patience``:
    epochs without a better validation log-loss before the phase ends early, or None. ``objective``: ``pairs`` draws
    the features of one class together, without the head, which is fitted anew on them when the training is over; no
    epoch of it is judged by validation rows, and the last weights are taken.
    """

    name: str
    epochs: int
    thaw: tuple[Thaw, ...] = ()
    head_rate: float | None = 1e-3
    warmup: float = 0.1
    schedule: Schedule = "cosine"
    weight_decay: float = 0.01
    norm: NormPolicy = "freeze"
    patience: int | None = None
    objective: Objective = "classes"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"phase {self.name!r} has {self.epochs} epochs: it needs at least one")
        if not self.thaw and self.head_rate is None:
            raise ValueError(f"phase {self.name!r} trains nothing")
        if self.objective == "pairs" and (self.head_rate is not None or self.patience is not None):
            raise ValueError(f"phase {self.name!r} trains on pairs, in which the head has no part")
        if len({(thaw.stage, thaw.what) for thaw in self.thaw}) != len(self.thaw):
            raise ValueError(f"phase {self.name!r} names a stage twice for the same parameters")

    def boundary(self, stages: int) -> int:
        """The first boundary whose output can change: the lowest thawed stage, or ``stages`` for the head alone."""
        return min((thaw.stage for thaw in self.thaw), default=stages)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole training: where the weights start, what is grafted onto them, and the phases in order.

    ``start``: the weights that the backbone came with (pretrained, or those of another run), or random ones.
    ``head``: the fitted probe, or a new head of a kind, with random weights. ``ema``: decay of the averaged weights
    a step, or None. ``interpolate``: choose a mix of start and trained weights on validation (WiSE-FT, Wortsman et
    al. 2022). ``pull``: strength of the L2 pull to the starting weights (L2-SP, Li et al. 2018). ``views``: augmented
    views kept for each sample when a frozen prefix is stored.
    """

    strategy: str
    phases: tuple[Phase, ...]
    start: Literal["pretrained", "random"] = "pretrained"
    head: Literal["fitted", "linear", "mlp"] = "fitted"
    graft: Graft | None = None
    batch_size: int = 32
    augment: AugmentName = "none"
    views: int = 8
    dropout: float = 0.0
    token_dropout: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    clip: float = 1.0
    ema: float | None = None
    interpolate: bool = False
    pull: float = 0.0
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("a plan needs at least one phase")
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise ValueError(f"phase names repeat: {', '.join(names)}")
        if any(phase.objective == "pairs" for phase in self.phases[:-1]):
            raise ValueError(
                "a phase on pairs leaves the head behind, which is fitted at the end: put it last"
            )
        if self.ends_in_pairs and (self.interpolate or self.mixup or self.label_smoothing):
            raise ValueError(
                "pairs know no mixed or smoothed labels, and no validation that could choose a mix"
            )

    @property
    def ends_in_pairs(self) -> bool:
        """Whether the head has to be fitted anew on what the training leaves."""
        return self.phases[-1].objective == "pairs"

    def boundary(self, stages: int) -> int:
        """The first boundary whose output can change in any of the phases."""
        return min(phase.boundary(stages) for phase in self.phases)

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)


def check_modality(plan: Plan, modality: Modality) -> None:
    """Raise RequestError when the plan varies its inputs in a way that this kind of input has not."""
    if modality == "text" and plan.mixup:
        raise RequestError("--mixup mixes images: texts, which are rows of words, cannot be mixed.")
    if modality == "text" and plan.augment != "none":
        raise RequestError(f"--augment {plan.augment} varies images: for texts there is --token-dropout.")
    if modality == "image" and plan.token_dropout:
        raise RequestError("--token-dropout leaves words out of texts: for images there is --augment.")
