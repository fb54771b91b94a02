"""Where a training stands: live weights, the best ones, averages, and how all of it is saved and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from unfreeze.contracts import Backbone
from unfreeze.engine.checkpoints import Checkpoint, Position, damaged
from unfreeze.engine.devices import Precision
from unfreeze.engine.ledger import PhaseRecord
from unfreeze.engine.scaling import first_scale
from unfreeze.engine.sharding import Shards
from unfreeze.engine.task import Decided, EpochRecord, Fit, Judged
from unfreeze.engine.trainable import Group, head_key, select, stage_of_parameters
from unfreeze.plan import Plan

Tensors = dict[str, Tensor]
# What AdamW keeps of each parameter: how many steps it took, and two moments of its shape.
STEP = "step"
ADAMW = {STEP, "exp_avg", "exp_avg_sq"}


class Weights:
    """The tensors that any phase of a plan may change, by name, so that a copy holds for every phase.

    ``home``: where copies are kept; where None they stay beside the tensors. ``shards``: what of them is cut over ranks
    at present, with which every rank has to ask for ``copy``.
    """

    def __init__(
        self, plan: Plan, backbone: Backbone, head: nn.Module, *, home: torch.device | None = None
    ) -> None:
        self._backbone, self._head, self._home = backbone, head, home
        self.shards = Shards(backbone.module)
        self._names = _changing(plan, backbone, head)

    def live(self) -> Tensors:
        """The tensors themselves, those that are cut too; the head's carry its mark."""
        everything: Tensors = dict(self._backbone.module.state_dict(keep_vars=True))
        head = self._head.state_dict(keep_vars=True)
        everything |= {head_key(name): tensor for name, tensor in head.items()}
        return {name: everything[name] for name in self._names if name in everything}

    def copy(self) -> Tensors:
        """The whole tensors as they are now."""
        live = self.live()
        sharded = {name: tensor for name, tensor in live.items() if name in self.shards.live}
        rest = {name: tensor for name, tensor in live.items() if name not in self.shards.live}
        # What is put together is a copy already.
        return self.shards.whole(sharded, home=self._home) | copied(rest, self._home)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put these whole values in place; the tensors not named stay."""
        live = self.live()
        sharded = self.shards.live.keys()
        self.shards.load({name: tensor for name, tensor in tensors.items() if name in sharded})
        put(live, {name: tensor for name, tensor in tensors.items() if name not in sharded})


@dataclass(eq=False)
class Best:
    """The best weights so far by calibrated validation log-loss, what they are worth, and where they were found."""

    judged: Judged
    where: str
    tensors: Tensors


@dataclass(eq=False)
class Standing:
    """Everything that a resumed training needs to go on as if it had never stopped.

    ``start``: the first weights, where the plan looks back at them; ``before``: those the phase began with, and
    ``frozen`` the hash of what it must not change. ``stored``: the boundaries that one pass has stored for the
    phase (activations are rounded, so the choice must not be made anew), and ``precision`` what it computes in; both
    are None before the phase has decided. ``epoch_seconds``: what the steps of one of its epochs were then predicted to
    take, where a step was measured. ``scale``: that of a float16 phase's loss. ``losses``: those of the epoch
    so far; ``judged``: what the weights were worth after the epoch before.
    """

    position: Position = field(default_factory=Position)
    start: Tensors = field(default_factory=dict)
    before: Tensors = field(default_factory=dict)
    ema: Tensors = field(default_factory=dict)
    scale: Tensors = field(default_factory=dict)
    best: Best | None = None
    losses: list[Tensor] = field(default_factory=list)
    judged: Judged | None = None
    frozen: str = ""
    stored: tuple[int, ...] | None = None
    precision: Precision | None = None
    epoch_seconds: float | None = None
    stale: int = 0
    micro_batches: int = 1
    fit: Fit = field(default_factory=Fit)


def trainable(groups: Sequence[Group]) -> dict[str, nn.Parameter]:
    """The parameters of all groups by name."""
    return {name: parameter for group in groups for name, parameter in group.parameters}


def put(places: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy each tensor to the place of its name."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            places[name].copy_(tensor)


def copied(tensors: Mapping[str, Tensor], home: torch.device | None = None) -> Tensors:
    """Copies that later training does not change, at ``home`` or, where None, beside the tensors."""
    return {name: tensor.detach().to(home or tensor.device, copy=True) for name, tensor in tensors.items()}


def beside(tensors: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> Tensors:
    """The tensors on the devices of what has their names."""
    return {name: tensor.to(places[name].device) for name, tensor in tensors.items()}


def to_checkpoint(
    standing: Standing,
    weights: Weights,
    groups: Sequence[Group],
    optimizer: torch.optim.Optimizer,
    *,
    home: torch.device | None = None,
) -> Checkpoint:
    """All of it as named tensors and JSON-serialisable numbers; by all ranks where weights are cut.

    ``home``: where what is cut goes when it was put together, as in ``Shards.whole``.
    """
    shards = weights.shards
    parts: dict[str, Mapping[str, Tensor]] = {
        "live": shards.whole(weights.live(), home=home),
        "start": standing.start,
        "before": standing.before,
        "ema": shards.whole(standing.ema, home=home),
        "scale": standing.scale,
        "best": {} if standing.best is None else standing.best.tensors,
    }
    tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
    for kind, values in optimizer_state(optimizer, trainable(groups)).items():
        whole = values if kind == STEP else shards.whole(values, home=home)
        tensors |= {f"optimizer.{kind}.{name}": value for name, value in whole.items()}
    if standing.losses:
        tensors["epoch.losses"] = torch.stack(standing.losses)
    best, last = standing.best, standing.judged
    # Copies: both may be one array, which the file's format refuses.
    if best is not None:
        tensors["judged.best"] = torch.tensor(best.judged.losses)
    if last is not None:
        tensors["judged.last"] = torch.tensor(last.losses)
    numbers = {
        "best": None if best is None else [best.judged.accuracy, best.where],
        "last": None if last is None else last.accuracy,
        "frozen": standing.frozen,
        "stored": standing.stored,
        "precision": standing.precision,
        "epoch_seconds": standing.epoch_seconds,
        "stale": standing.stale,
        "micro_batches": standing.micro_batches,
        "taken": standing.fit.taken,
        "history": [asdict(record) for record in standing.fit.history],
        "ledger": [record.to_dict() for record in standing.fit.ledger],
        "decided": {phase: asdict(decided) for phase, decided in standing.fit.decided.items()},
    }
    return Checkpoint(position=standing.position, tensors=tensors, numbers=numbers)


def from_checkpoint(
    found: Checkpoint,
    weights: Weights,
    groups: Sequence[Group],
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    home: torch.device | None = None,
    judged: int,
) -> Standing:
    """Put weights and optimizer back where they stood; returns the rest. ``judged``: how many rows validate.

    ``home``: where copies of weights are kept, and all but what a step needs.

    Raises RequestError, before anything is put back, when the tensors or numbers are not those of this training.
    """
    # What was judged is in double precision, which not every device has.
    places = {"scale": device, "epoch": device, "judged": torch.device("cpu")}
    parts: dict[str, Tensors] = {}
    for name, tensor in found.tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor.to(places.get(part, home or device))
    try:
        _check_numbers(found.numbers)
        _check_tensors(parts, found, weights.live(), trainable(groups))
        _check_judged(parts.get("judged", {}), found, rows=judged)
        standing = _standing(found, parts)
    except LookupError as problem:
        raise damaged(found.folder, f"it has no {problem}") from None
    except (AttributeError, TypeError, ValueError) as problem:
        raise damaged(found.folder, problem) from None
    weights.load(parts["live"])
    set_optimizer_state(optimizer, trainable(groups), _by_kind(parts.get("optimizer", {})), home=home)
    return standing


def _by_kind(saved: Mapping[str, Tensor]) -> dict[str, Tensors]:
    """The optimizer's tensors of a checkpoint, whose names begin with their kind."""
    kinds: dict[str, Tensors] = {}
    for key, tensor in saved.items():
        kind, _, name = key.partition(".")
        kinds.setdefault(kind, {})[name] = tensor
    return kinds


def _standing(found: Checkpoint, parts: Mapping[str, Tensors]) -> Standing:
    """What ``to_checkpoint`` saved, but for weights and optimizer."""
    numbers = found.numbers
    best = last = None
    judged = {name: tensor.cpu().numpy() for name, tensor in parts.get("judged", {}).items()}
    if numbers["best"] is not None:
        accuracy, where = numbers["best"]
        best = Best(Judged(judged["best"], float(accuracy)), str(where), parts.get("best", {}))
    if numbers["last"] is not None:
        last = Judged(judged["last"], float(numbers["last"]))
    losses = parts.get("epoch", {}).get("losses")
    return Standing(
        position=found.position,
        start=parts.get("start", {}),
        before=parts.get("before", {}),
        ema=parts.get("ema", {}),
        scale=parts.get("scale", {}),
        best=best,
        losses=[] if losses is None else list(losses.unbind()),
        judged=last,
        frozen=numbers["frozen"],
        stored=None if numbers["stored"] is None else tuple(numbers["stored"]),
        precision=numbers["precision"],
        epoch_seconds=numbers.get("epoch_seconds"),
        stale=numbers["stale"],
        micro_batches=numbers["micro_batches"],
        fit=Fit(
            history=[EpochRecord(**record) for record in numbers["history"]],
            ledger=[PhaseRecord.from_dict(record) for record in numbers["ledger"]],
            decided={phase: Decided(**decided) for phase, decided in numbers.get("decided", {}).items()},
            taken=numbers["taken"],
        ),
    )


def _check_numbers(numbers: Mapping[str, Any]) -> None:
    """Raise ValueError where a number that training goes on with is none."""
    stored, whole = numbers["stored"], (numbers["stale"], numbers["micro_batches"])
    if any(isinstance(value, bool) or not isinstance(value, int) for value in (*whole, *(stored or ()))):
        raise ValueError("one of its numbers is not whole")
    if numbers["micro_batches"] < 1 or numbers["precision"] not in (None, *get_args(Precision)):
        raise ValueError("it was computed in parts or a precision that are none")
    if not isinstance(numbers.get("epoch_seconds"), float | None):
        raise ValueError("what it predicted of an epoch is no number")
    if not isinstance(numbers["frozen"], str) or not isinstance(numbers["taken"], str):
        raise ValueError("its hash or its name of weights is no text")
    for decided in numbers.get("decided", {}).values():
        if not isinstance(decided["stored"], bool) or not isinstance(
            decided["store"] + decided["precision"], str
        ):
            raise ValueError("what its phases decided is no sentence")
    for record in numbers["history"]:
        measured = [value for name, value in record.items() if name not in ("phase", "rates")]
        if not all(
            value is None or isinstance(value, int | float)
            for value in (*measured, *record["rates"].values())
        ):
            raise ValueError("its history holds what is no number")


def _check_tensors(
    parts: Mapping[str, Tensors],
    found: Checkpoint,
    live: Tensors,
    parameters: Mapping[str, nn.Parameter],
) -> None:
    """Raise ValueError where a tensor is missing, is not known or has another shape than it must have."""
    numbers, none = found.numbers, Tensors()
    wanted: dict[str, tuple[bool, Mapping[str, Tensor]]] = {
        "live": (True, live),
        "before": (True, live),
        "start": ("start" in parts, live),
        "best": (numbers["best"] is not None, live),
        "ema": ("ema" in parts, parameters),
        "scale": (numbers["precision"] == "fp16", first_scale("fp16", torch.device("cpu"))),
    }
    for part, (there, like) in wanted.items():
        _check_alike(part, parts.get(part, none), like if there else none)
    kinds = _by_kind(parts.get("optimizer", none))
    if kinds and kinds.keys() != ADAMW:
        raise ValueError(f"its optimizer keeps {', '.join(kinds)}")
    seen = kinds.get(STEP, none)
    for kind, tensors in kinds.items():
        like = {name: parameters[name] for name in seen}
        _check_alike(kind, tensors, {name: torch.zeros(()) for name in seen} if kind == STEP else like)
    losses = parts.get("epoch", none).get("losses", torch.zeros(0))
    if losses.shape != (found.position.step,):
        raise ValueError(f"it has {losses.numel()} losses of {found.position.step} steps")


def _check_judged(found: Tensors, checkpoint: Checkpoint, *, rows: int) -> None:
    """Raise ValueError where the losses of validation rows are not those of the best and the last weights."""
    if found.keys() != {name for name in ("best", "last") if checkpoint.numbers[name] is not None}:
        raise ValueError("its losses of validation rows are not those of its best and last weights")
    if any(one.shape != (rows,) or one.dtype != torch.float64 for one in found.values()):
        raise ValueError(f"its losses are not those of {rows} validation rows")


def _check_alike(part: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    if found.keys() != wanted.keys():
        name = min(found.keys() ^ wanted.keys())
        raise ValueError(f"the tensor {part}.{name} is {'missing' if name in wanted else 'not known'}")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"the tensor {part}.{name} has the shape {tuple(tensor.shape)}, "
                f"not {tuple(wanted[name].shape)}"
            )


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensors]:
    """What the optimizer keeps of these parameters, by kind and name."""
    found: dict[str, Tensors] = {}
    for name, parameter in parameters.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            found.setdefault(kind, {})[name] = torch.as_tensor(value)
    return found


def set_optimizer_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    state: Mapping[str, Mapping[str, Tensor]],
    *,
    home: torch.device | None = None,
) -> None:
    """Let the optimizer go on from a state as ``optimizer_state`` gives it.

    ``home``: where its tensors are to wait for a step; where None they go to the device of their parameters.
    """
    # AdamW keeps its step count on the CPU unless it is fused.
    fused = bool(optimizer.param_groups[0].get("fused"))
    for kind, values in state.items():
        for name, value in values.items():
            on_cpu = kind == STEP and not fused
            place = home or parameters[name].device
            optimizer.state[parameters[name]][kind] = value.cpu() if on_cpu else value.to(place)


def _changing(plan: Plan, backbone: Backbone, head: nn.Module) -> list[str]:
    """Names of the parameters that some phase trains, and of the statistics that some phase updates."""
    owner = stage_of_parameters(backbone)
    buffers = [name for name, _ in backbone.module.named_buffers()]
    names: set[str] = set()
    for phase in plan.phases:
        names.update(trainable(select(backbone, head, phase)))
        if phase.head_rate is not None:
            names.update(head_key(name) for name, _ in head.named_buffers())
        if phase.norm == "train":
            thawed = {thaw.stage for thaw in phase.thaw}
            names.update(name for name in buffers if owner.get(name) in thawed)
    return sorted(names)
