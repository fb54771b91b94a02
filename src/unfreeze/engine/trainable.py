"""What a phase trains: which parameters, in which group, at which rate, and which modules are in training mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unfreeze.amounts import counted
from unfreeze.contracts import Backbone
from unfreeze.errors import UnfreezeError
from unfreeze.plan import Phase, What

if TYPE_CHECKING:
    from torch import Tensor, nn

# Names that a graft adds below the module it wraps; the wrapped layer itself moves to `base_layer`, as in PEFT.
LORA_A = "lora_A"
GRAFT_MARKS = (LORA_A, "lora_B", "lora_magnitude_vector", "adapter")
BASE = "base_layer"
# What norms with running statistics keep; some the variance alone.
STATISTICS = ("running_mean", "running_var")
HEAD = "head"


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that share a rate and a weight decay; ``stage`` is None for the head."""

    name: str
    stage: int | None
    rate: float
    weight_decay: float
    parameters: tuple[tuple[str, nn.Parameter], ...]


def head_key(name: str) -> str:
    """The name of a head's tensor beside the backbone's; a backbone may have a module named ``head`` too."""
    return f"{HEAD}:{name}"


def select(backbone: Backbone, head: nn.Module, phase: Phase) -> tuple[Group, ...]:
    """The groups of a phase: every trainable parameter in exactly one; all others stop requiring gradients.

    Raises UnfreezeError when the phase thaws something that has no parameters.
    """
    owner = stage_of_parameters(backbone)
    norms = set(_norm_parameters(backbone.module))
    # By timm: tokens, positions and tables of biases, which are no matrices whatever their shape.
    spared = frozenset(getattr(backbone.module, "no_weight_decay", set)())
    groups: list[Group] = []
    taken: set[str] = set()
    # The particular comes before the general: the norms of a stage may have another rate than its weights.
    for thaw in sorted(phase.thaw, key=lambda thaw: thaw.what == "weights"):
        if thaw.stage >= len(backbone.stages):
            raise UnfreezeError(
                f"Phase {phase.name!r} thaws stage {thaw.stage}, but {backbone.name} has the stages 0 to "
                f"{len(backbone.stages) - 1}."
            )
        chosen = []
        for name, parameter in backbone.module.named_parameters():
            if owner[name] == thaw.stage and name not in taken and _matches(name, thaw.what, norms):
                chosen.append((name, parameter))
                taken.add(name)
        if not chosen:
            having = ", ".join(map(str, stages_with(backbone, thaw.what))) or "none"
            raise UnfreezeError(
                f"Phase {phase.name!r} thaws the {thaw.what} of stage {thaw.stage} "
                f"({backbone.stages[thaw.stage].name}), which has none: the stages that have are {having}."
            )
        groups += _split_by_decay(
            f"{backbone.stages[thaw.stage].name}.{thaw.what}",
            thaw.stage,
            thaw.rate,
            phase.weight_decay,
            chosen,
            spared=spared,
        )
    for name, parameter in backbone.module.named_parameters():
        parameter.requires_grad_(name in taken)
    head_parameters = list(head.named_parameters())
    for _, parameter in head_parameters:
        parameter.requires_grad_(phase.head_rate is not None)
    if phase.head_rate is not None:
        named = [(head_key(name), parameter) for name, parameter in head_parameters]
        groups += _split_by_decay(HEAD, None, phase.head_rate, phase.weight_decay, named)
    return tuple(groups)


def stages_with(backbone: Backbone, what: What) -> tuple[int, ...]:
    """The stages that have such parameters, ascending: those that a ``Thaw`` of ``what`` can name."""
    owner, norms = stage_of_parameters(backbone), set(_norm_parameters(backbone.module))
    return tuple(
        sorted({owner[name] for name, _ in backbone.module.named_parameters() if _matches(name, what, norms)})
    )


def stage_of_parameters(backbone: Backbone) -> dict[str, int]:
    """The stage of each parameter and buffer by its present name, grafts included."""
    owner = {name: index for index, stage in enumerate(backbone.stages) for name in stage.tensors}
    holders: dict[str, set[int]] = {}
    for name, index in owner.items():
        parts = name.split(".")[:-1]
        for length in range(1, len(parts) + 1):
            holders.setdefault(".".join(parts[:length]), set()).add(index)
    names = [*backbone.module.state_dict(keep_vars=True), *dict(backbone.module.named_parameters())]
    return {name: owner[name] if name in owner else _stage_of_graft(name, holders) for name in names}


def set_modes(backbone: Backbone, head: nn.Module, phase: Phase) -> None:
    """Put thawed stages and the head into training mode, everything else into evaluation mode.

    Normalisation layers with running statistics train only where the phase says so and the stage is thawed.
    """
    thawed = {thaw.stage for thaw in phase.thaw}
    held: dict[str, set[int]] = {}
    for name, stage in stage_of_parameters(backbone).items():
        parts = name.split(".")
        for length in range(len(parts)):
            held.setdefault(".".join(parts[:length]), set()).add(stage)
    _set_mode(backbone.module, "", held, thawed, inherited=False, norm=phase.norm == "train")
    head.train(phase.head_rate is not None)


def judge_mode(module: nn.Module) -> None:
    """Put a network whose weights may have changed into evaluation mode.

    It goes there by way of training mode: LeViT and others keep a table of their weights in evaluation mode, and in
    older versions of timm let go of it only when they are told to train. The flags of ``set_modes`` tell nothing.
    """
    module.train()
    module.eval()


def _set_mode(
    module: nn.Module,
    path: str,
    held: Mapping[str, set[int]],
    thawed: set[int],
    *,
    inherited: bool,
    norm: bool,
) -> None:
    # A module without tensors, such as dropout, follows the module it stands in.
    training = held[path] <= thawed if path in held else inherited
    module.training = training and (norm or not has_statistics(module))
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        _set_mode(child, below, held, thawed, inherited=training, norm=norm)


def moving_statistics(module: nn.Module) -> list[Tensor]:
    """What norms in training mode change in each pass: mean, variance and how many batches they have seen."""
    norms = (part for part in module.modules() if part.training and has_statistics(part))
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]


def has_statistics(module: nn.Module) -> bool:
    """Whether it is a norm that keeps running statistics."""
    return any(getattr(module, name, None) is not None for name in STATISTICS)


def trains_statistics(backbone: Backbone, phase: Phase) -> bool:
    """Whether norms of the stages that the phase thaws learn their running statistics."""
    owner = stage_of_parameters(backbone)
    known = {owner.get(name) for name, _ in backbone.module.named_buffers() if name.endswith(STATISTICS)}
    return phase.norm == "train" and bool(known & {thaw.stage for thaw in phase.thaw})


def _norm_parameters(module: nn.Module) -> Iterator[str]:
    for path, child in module.named_modules():
        # Norm layers are told by their class name: libraries bring their own (RmsNorm, LayerNorm2d, BatchNormAct2d).
        if "norm" in type(child).__name__.lower():
            for name, _ in child.named_parameters(recurse=False):
                yield f"{path}.{name}" if path else name


def _matches(name: str, what: str, norms: set[str]) -> bool:
    grafted = is_graft(name)
    if what == "graft":
        return grafted
    if grafted:
        return False
    if what == "norm":
        return name in norms
    if what == "bias":
        return name.endswith("bias")
    return True


def is_graft(name: str) -> bool:
    """Whether a parameter was added by a graft."""
    return any(mark in GRAFT_MARKS for mark in name.split("."))


def _stage_of_graft(name: str, holders: Mapping[str, set[int]]) -> int:
    """The stage of a tensor that the ungrafted network does not have: that of the closest module it stands in."""
    parts = name.split(".")
    cut = next((index for index, part in enumerate(parts) if part == BASE or part in GRAFT_MARKS), 0)
    for length in range(cut, 0, -1):
        stages = holders.get(".".join(parts[:length]), set())
        if len(stages) == 1:
            return next(iter(stages))
    raise UnfreezeError(f"The tensor {name!r} belongs to no stage of the backbone.")


def _split_by_decay(
    name: str,
    stage: int | None,
    rate: float,
    weight_decay: float,
    chosen: Sequence[tuple[str, nn.Parameter]],
    *,
    spared: frozenset[str] = frozenset(),
) -> list[Group]:
    """Two groups at most: weight decay is for matrices, not for biases, norms, other vectors and what is ``spared``."""

    def is_decayed(path: str, parameter: nn.Parameter) -> bool:
        return sum(size > 1 for size in parameter.shape) > 1 and path not in spared

    decayed = tuple(item for item in chosen if is_decayed(*item))
    plain = tuple(item for item in chosen if not is_decayed(*item))
    groups = []
    if decayed:
        groups.append(Group(name, stage, rate, weight_decay, decayed))
    if plain:
        groups.append(Group(f"{name} (no decay)", stage, rate, 0.0, plain))
    return groups


def describe_phase(phase: Phase, groups: Sequence[Group], backbone: Backbone, prefix: str) -> str:
    """What a phase trains, in a line: parameters, share, rates, and how its frozen part is read."""
    sizes = {group: sum(parameter.numel() for _, parameter in group.parameters) for group in groups}
    trained = sum(sizes.values())
    total = sum(parameter.numel() for parameter in backbone.module.parameters())
    total += sum(size for group, size in sizes.items() if group.stage is None)
    rates = sorted({group.rate for group in groups})
    shown = f"{rates[0]:.1e}" if len(rates) == 1 else f"{rates[0]:.1e} to {rates[-1]:.1e}"
    early = phase.patience is not None and phase.patience < phase.epochs
    ends = f" (fewer after {phase.patience} without a lower validation log-loss)" if early else ""
    return (
        f"Phase {phase.name}: {counted(phase.epochs, 'epoch')}{ends}, {trained:,} of {total:,} parameters trainable "
        f"({trained / total:.2%}), rates {shown}, norm statistics {'trained' if phase.norm == 'train' else 'frozen'}. "
        f"{prefix}"
    )
