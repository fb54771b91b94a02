"""The ledger: what a phase declared trainable, what the optimizer held, what really changed, and proof of the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unfreeze.contracts import Backbone
from unfreeze.engine.devices import Precision
from unfreeze.engine.trainable import HEAD, Group, stage_of_parameters
from unfreeze.plan import Phase

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GroupRecord:
    """A group of the optimizer: its peak rate, weight decay, and size."""

    name: str
    rate: float
    weight_decay: float
    tensors: int
    parameters: int


@dataclass(frozen=True)
class PhaseRecord:
    """A phase in the ledger.

    ``change``: relative change of each stage's trainable weights, ‖Δw‖/‖w‖, by stage name (``head`` too).
    ``drift``: how far the features at the end of each stage moved since the training began, relative to their length.
    ``precision``: what the phase computed in. ``epoch_seconds``: what the steps of an epoch were predicted to take,
    from a few that were measured before the phase; None where none was.
    ``frozen_before`` and ``frozen_after``: a hash over all frozen weights and norm statistics; equal when they did
    not change.
    """

    phase: str
    declared: tuple[str, ...]
    groups: tuple[GroupRecord, ...]
    change: Mapping[str, float]
    drift: Mapping[str, float]
    precision: Precision
    frozen_before: str
    frozen_after: str
    epoch_seconds: float | None = None

    @property
    def frozen_unchanged(self) -> bool:
        """Whether everything declared frozen is bit-identical to what it was."""
        return self.frozen_before == self.frozen_after

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return asdict(self) | {"frozen_unchanged": self.frozen_unchanged}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PhaseRecord:
        """The record that ``to_dict`` wrote."""
        given = {key: value for key, value in values.items() if key != "frozen_unchanged"}
        given["groups"] = tuple(GroupRecord(**group) for group in given["groups"])
        given["declared"] = tuple(given["declared"])
        return cls(**given)


def fingerprint_frozen(backbone: Backbone, groups: Sequence[Group], phase: Phase) -> str:
    """A hash over every tensor of the backbone that the phase must not change."""
    trained = {name for group in groups for name, _ in group.parameters}
    # A tensor that is tied to a trained one under another name changes with it.
    tied = {id(parameter) for group in groups for _, parameter in group.parameters}
    if phase.norm == "train":
        thawed = {thaw.stage for thaw in phase.thaw}
        owner = stage_of_parameters(backbone)
        buffers = {name for name, _ in backbone.module.named_buffers()}
        trained |= {name for name in buffers if owner.get(name) in thawed}
    return fingerprint(
        {
            name: tensor
            for name, tensor in backbone.module.state_dict(keep_vars=True).items()
            if name not in trained and id(tensor) not in tied
        }
    )


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash over the names and bits of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        bits: Any = tensor.detach().cpu().contiguous().reshape(-1).view(_bytes()).numpy()
        digest.update(memoryview(bits))
    return digest.hexdigest()


def record_phase(
    backbone: Backbone,
    phase: Phase,
    groups: Sequence[Group],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    frozen_before: str,
    *,
    drift: Mapping[str, float],
    precision: Precision,
    epoch_seconds: float | None = None,
) -> PhaseRecord:
    """The record of a phase that has ended."""
    from torch import nn

    owner = stage_of_parameters(backbone)
    statistics = {name for name, _ in backbone.module.named_buffers()}
    moved: dict[str, list[float]] = {}
    for name, tensor in after.items():
        if name in statistics or not isinstance(tensor, nn.Parameter):
            continue
        stage = backbone.stages[owner[name]].name if name in owner else HEAD
        sums = moved.setdefault(stage, [0.0, 0.0])
        # Not every device has double precision.
        then = before[name].cpu().double()
        sums[0] += float((tensor.detach().cpu().double() - then).square().sum())
        sums[1] += float(then.square().sum())
    return PhaseRecord(
        phase=phase.name,
        declared=tuple(f"{backbone.stages[thaw.stage].name}: {thaw.what}" for thaw in phase.thaw),
        groups=tuple(
            GroupRecord(
                name=group.name,
                rate=group.rate,
                weight_decay=group.weight_decay,
                tensors=len(group.parameters),
                parameters=sum(parameter.numel() for _, parameter in group.parameters),
            )
            for group in groups
        ),
        # A graft starts at zero, where a relative change has no meaning: its absolute norm is given then.
        change={
            stage: (change**0.5) / (size**0.5) if size > 0 else change**0.5
            for stage, (change, size) in moved.items()
        },
        drift=drift,
        precision=precision,
        frozen_before=frozen_before,
        frozen_after=fingerprint_frozen(backbone, groups, phase),
        epoch_seconds=epoch_seconds,
    )


def _bytes() -> Any:
    import torch

    return torch.uint8
