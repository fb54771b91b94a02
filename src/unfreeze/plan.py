"""A plan: which stages thaw when, at which rates. Strategies return one; the engine runs any of them.

The frozen boundary is derived from what is thawed, never given: everything below the first thawed stage has an
output that cannot change during the phase, so it is computed once. Every value is checked where it is given, within the
bounds of the command line: a RequestError names it and says what may stand there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal, get_args

from unfreeze.config import MOST_RATE, RANGES, shown
from unfreeze.contracts import Modality
from unfreeze.errors import RequestError, did_you_mean

What = Literal["weights", "norm", "bias", "graft"]
NormPolicy = Literal["freeze", "train"]
Schedule = Literal["cosine", "linear", "constant"]
AugmentName = Literal["none", "light", "strong", "dihedral"]
# What a phase minimises: the cross-entropy of the head's answers, or how far rows of one class lie apart.
Objective = Literal["classes", "pairs"]
Start = Literal["pretrained", "random"]
PlanHead = Literal["fitted", "linear", "mlp"]
# Every strategy's head is at most ten times as fast as its backbone (the classic guide's ratio).
MOST_HEAD_RATE = 10 * MOST_RATE


@dataclass(frozen=True)
class Thaw:
    """What becomes trainable in one stage, and its peak learning rate.

    ``weights``: every parameter of the stage; ``norm``: scale and shift of its normalisation layers; ``bias``: its
    biases; ``graft``: what was grafted onto it (LoRA, adapters).
    """

    stage: int
    what: What
    rate: float

    def __post_init__(self) -> None:
        _require(
            _is_whole(self.stage) and self.stage >= 0, "Thaw", "stage", self.stage, "a whole number from 0 on"
        )
        where = f"Thaw of stage {self.stage}"
        _require_one_of(where, "what", self.what, get_args(What))
        _require_rate(where, "rate", self.rate, MOST_RATE)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank updates beside frozen layers (Hu et al. 2021): W + (alpha / rank) · B · A, with B zero at the start.

    ``targets``: module paths of the layers. ``dropout`` acts on the update's input.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_within("Lora", "rank", self.rank, RANGES["rank"], whole=True)
        _require_rate("Lora", "alpha", self.alpha, RANGES["alpha"][1])
        _require(
            _is_number(self.dropout) and 0 <= self.dropout < 1,
            "Lora",
            "dropout",
            self.dropout,
            "a number from 0 to below 1",
        )
        _require_all("Lora", "targets", self.targets, str, "module paths")


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """A bottleneck behind each block (Houlsby et al. 2019): h + up(GELU(down(norm(h)))), with ``up`` zero at the start.

    ``blocks``: module paths of the blocks. The bottleneck is 1/``reduction`` as wide as the block. ``norm``: whether it
    reads the block's output through a LayerNorm of its own; without, it is the classic guide's h + up(GELU(down(h))).
    """

    reduction: int
    blocks: tuple[str, ...]
    norm: bool = True

    def __post_init__(self) -> None:
        _require_within("Adapters", "reduction", self.reduction, RANGES["reduction"], whole=True)
        _require_all("Adapters", "blocks", self.blocks, str, "module paths")
        _require(isinstance(self.norm, bool), "Adapters", "norm", self.norm, "True or False")


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
        _require(isinstance(self.name, str) and bool(self.name), "Phase", "name", self.name, "a word")
        where = f"Phase {self.name!r}"
        _require_within(where, "epochs", self.epochs, RANGES["epochs"], whole=True)
        _require_all(where, "thaw", self.thaw, Thaw, "Thaw values", empty=True)
        if self.head_rate is not None:
            _require_rate(where, "head_rate", self.head_rate, MOST_HEAD_RATE)
        _require_within(where, "warmup", self.warmup, (0, 1))
        _require_one_of(where, "schedule", self.schedule, get_args(Schedule))
        _require_within(where, "weight_decay", self.weight_decay, (0, math.inf))
        _require_one_of(where, "norm", self.norm, get_args(NormPolicy))
        if self.patience is not None:
            _require_within(where, "patience", self.patience, RANGES["patience"], whole=True)
        _require_one_of(where, "objective", self.objective, get_args(Objective))
        if not self.thaw and self.head_rate is None:
            raise RequestError(f"{where} trains nothing: give it a thaw or a head_rate.")
        if self.objective == "pairs" and (self.head_rate is not None or self.patience is not None):
            raise RequestError(
                f"{where} trains on pairs, in which the head has no part: give it head_rate=None and no patience."
            )
        if len({(thaw.stage, thaw.what) for thaw in self.thaw}) != len(self.thaw):
            raise RequestError(f"{where} names a stage twice for the same parameters: give each one rate.")

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
    start: Start = "pretrained"
    head: PlanHead = "fitted"
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
        _require(
            isinstance(self.strategy, str) and bool(self.strategy),
            "Plan",
            "strategy",
            self.strategy,
            "a word",
        )
        where = f"Plan {self.strategy!r}"
        _require_all(where, "phases", self.phases, Phase, "Phase values")
        _require_one_of(where, "start", self.start, get_args(Start))
        _require_one_of(where, "head", self.head, get_args(PlanHead))
        _require(
            self.graft is None or isinstance(self.graft, Lora | Adapters),
            where,
            "graft",
            self.graft,
            "Lora(...), Adapters(...) or None",
        )
        _require_within(where, "batch_size", self.batch_size, RANGES["batch_size"], whole=True)
        _require_one_of(where, "augment", self.augment, get_args(AugmentName))
        _require_within(where, "views", self.views, RANGES["views"], whole=True)
        _require_within(where, "dropout", self.dropout, RANGES["lora_dropout"])
        _require_within(where, "token_dropout", self.token_dropout, RANGES["token_dropout"])
        _require_within(where, "label_smoothing", self.label_smoothing, RANGES["label_smoothing"])
        _require_within(where, "mixup", self.mixup, RANGES["mixup"])
        _require_within(where, "clip", self.clip, (0, math.inf))
        if self.ema is not None:
            _require_within(where, "ema", self.ema, RANGES["ema"])
        _require(isinstance(self.interpolate, bool), where, "interpolate", self.interpolate, "True or False")
        _require_within(where, "pull", self.pull, RANGES["pull_to_start"])
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise RequestError(f"Phase names repeat: {', '.join(names)}. Give each phase its own.")
        if any(phase.objective == "pairs" for phase in self.phases[:-1]):
            raise RequestError(
                "A phase on pairs leaves the head behind, which is fitted at the end: put it last."
            )
        if self.ends_in_pairs and (self.interpolate or self.mixup or self.label_smoothing):
            raise RequestError(
                "Pairs know no mixed or smoothed labels, and no validation that could choose a mix: "
                "leave interpolate, mixup and label_smoothing out."
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
    check_variation(modality, augment=plan.augment, mixup=plan.mixup, token_dropout=plan.token_dropout)


def check_variation(modality: Modality, *, augment: str, mixup: float, token_dropout: float) -> None:
    """The same, of the settings themselves."""
    if modality == "text" and mixup:
        raise RequestError("--mixup mixes images: texts, which are rows of words, cannot be mixed.")
    if modality == "text" and augment != "none":
        raise RequestError(f"--augment {augment} varies images: for texts there is --token-dropout.")
    if modality == "image" and token_dropout:
        raise RequestError("--token-dropout leaves words out of texts: for images there is --augment.")


def _require(holds: bool, where: str, name: str, value: object, wanted: str, *, hint: str = "") -> None:
    """Raise RequestError unless it holds: which value of what, and what may stand there."""
    if not holds:
        raise RequestError(f"{where}: {name} must be {wanted}, and {shown(value)} is not.{hint}")


def _require_one_of(where: str, name: str, value: object, known: tuple[str, ...]) -> None:
    hint = did_you_mean(value, known) if isinstance(value, str) else ""
    wanted = f"{', '.join(known[:-1])} or {known[-1]}"
    _require(isinstance(value, str) and value in known, where, name, value, wanted, hint=hint)


def _require_rate(where: str, name: str, value: float, most: float) -> None:
    _require(
        _is_number(value) and 0 < value <= most, where, name, value, f"a number above 0 and at most {most:g}"
    )


def _require_within(
    where: str, name: str, value: float, bounds: tuple[float, float], *, whole: bool = False
) -> None:
    low, high = bounds
    kind = "a whole number" if whole else "a number"
    wanted = f"{kind} from {low:g} {'on' if math.isinf(high) else f'to {high:.10g}'}"
    _require(
        (_is_whole(value) if whole else _is_number(value)) and low <= value <= high,
        where,
        name,
        value,
        wanted,
    )


def _require_all(
    where: str, name: str, value: object, kind: type, words: str, *, empty: bool = False
) -> None:
    held = isinstance(value, tuple) and all(isinstance(one, kind) for one in value)
    _require(held and (empty or bool(value)), where, name, value, f"a tuple of {words}")


def _is_number(value: object) -> bool:
    """Whether it is a finite number; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    """Whether it is a whole number, of Python or of NumPy; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, Integral)
