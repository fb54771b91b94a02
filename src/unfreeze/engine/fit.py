"""The loop: it runs any plan and knows no strategy by name.

``fit`` → phase → epoch → step. What lies below the first thawed stage is read from a prefix, computed once; order,
augmentation and dropout are functions of seed and position, so that a resumed run gives the bits of one never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unfreeze.contracts import Backbone, State
from unfreeze.engine.checkpoints import Checkpoint, Checkpoints, Position
from unfreeze.engine.inputs import Inputs
from unfreeze.engine.ledger import PhaseRecord, fingerprint_frozen, record_phase
from unfreeze.engine.losses import batch_weight, cross_entropy, draw_mix, log_loss_and_accuracy
from unfreeze.engine.prefix import Prefix, PrefixMaker
from unfreeze.engine.schedule import rate_factor
from unfreeze.engine.trainable import HEAD, Group, select, set_modes
from unfreeze.errors import UnfreezeError
from unfreeze.evaluate.calibration import fit_temperature
from unfreeze.plan import Phase, Plan

if TYPE_CHECKING:
    from unfreeze.progress import Progress

BETAS, EPSILON = (0.9, 0.999), 1e-8
# Shares of the trained weights that are tried between start and end (WiSE-FT).
MIXES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one part: raw inputs, and class indices (rows,)."""

    inputs: Inputs
    y: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a plan is run on. ``val`` may be None: then the last weights are taken. ``class_weight`` (classes,)."""

    train: Rows
    val: Rows | None
    seed: int
    device: torch.device
    class_weight: NDArray[np.float32] | None = None
    autocast: torch.dtype | None = None
    checkpoint_epochs: int = 1


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history; rates by group, log-loss in nats (after the best temperature), shares in 0..1."""

    phase: str
    epoch: int
    train_loss: float
    val_log_loss: float | None
    val_accuracy: float | None
    seconds: float
    rows_per_second: float
    wait_share: float
    peak_bytes: int
    rates: Mapping[str, float]


@dataclass
class Fit:
    """What a plan came to: the history, the ledger, and which weights were taken. The backbone was trained in place."""

    history: list[EpochRecord] = field(default_factory=list)
    ledger: list[PhaseRecord] = field(default_factory=list)
    taken: str = "start"
    mix: float = 1.0
    seconds: float = 0.0


class StoppedError(UnfreezeError):
    """Training was asked to stop; it is saved and continues with --resume."""

    exit_status = 75


@dataclass(eq=False)
class _Best:
    """The best weights so far by calibrated validation log-loss, and where they were found."""

    log_loss: float
    accuracy: float
    where: str
    tensors: dict[str, Tensor]


def fit(
    plan: Plan,
    *,
    backbone: Backbone,
    head: nn.Module,
    task: Task,
    prefix: PrefixMaker,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress,
) -> Fit:
    """Run the plan; backbone and head hold the weights taken in the end.

    Raises UnfreezeError when a loss is not finite (the last good weights are kept in the backbone), StoppedError when
    ``should_stop`` said so.
    """
    return _Loop(plan, backbone, head, task, prefix, checkpoints, should_stop, progress).run(resume=resume)


class _Loop:
    def __init__(
        self,
        plan: Plan,
        backbone: Backbone,
        head: nn.Module,
        task: Task,
        prefix: PrefixMaker,
        checkpoints: Checkpoints | None,
        should_stop: Callable[[], bool],
        progress: Progress,
    ) -> None:
        self.plan, self.backbone, self.head, self.task = plan, backbone, head, task
        self.prefix, self.checkpoints = prefix, checkpoints
        self.should_stop, self.progress = should_stop, progress
        self.fit = Fit()
        self.best: _Best | None = None
        self.ema: dict[str, Tensor] = {}
        self.stale = 0
        self.micro_batches = 1
        weight = task.class_weight
        self.weight = None if weight is None else torch.from_numpy(weight).to(task.device)
        backbone.module.to(task.device)
        head.to(task.device)
        # Everything that any phase may change, so that a checkpoint can hold it whatever the phase.
        self.changing = self._changing()
        self.start = {name: tensor.detach().clone() for name, tensor in self._live().items()}

    # -- phases

    def run(self, *, resume: bool) -> Fit:
        began = time.perf_counter()
        found = self.checkpoints.newest() if resume and self.checkpoints is not None else None
        position = Position() if found is None else found.position
        for index in range(position.phase, len(self.plan.phases)):
            here = position if index == position.phase else Position(phase=index)
            self._run_phase(index, here, found if index == position.phase else None)
        if self.plan.interpolate and self.task.val is not None:
            self._interpolate()
        self.backbone.module.eval()
        self.head.eval()
        for parameter in self.backbone.module.parameters():
            parameter.requires_grad_(False)
        self.fit.seconds = time.perf_counter() - began
        return self.fit

    def _run_phase(self, index: int, position: Position, found: Checkpoint | None) -> None:
        phase = self.plan.phases[index]
        groups = select(self.backbone, self.head, phase)
        boundary = phase.boundary(len(self.backbone.stages))
        before = {name: tensor.detach().clone() for name, tensor in self._live().items()}
        optimizer = _optimizer(groups, self.task.device)
        if found is not None:
            before = self._restore(found, optimizer, groups)
        frozen = fingerprint_frozen(self.backbone, groups, phase)
        prefix = self.prefix.make(phase, boundary, rounds=phase.epochs)
        self.progress.say(describe_phase(phase, groups, self.backbone, prefix.reason))
        if self.best is None and self.task.val is not None:
            self._judge(prefix, "start")
        if found is None:
            self.stale = 0
            self.ema = {name: tensor.detach().clone() for name, tensor in self._trainable(groups).items()}
        steps = sum(len(self._batches(index, epoch)) for epoch in range(phase.epochs))
        if steps == 0:
            raise UnfreezeError(f"Phase {phase.name!r} has no training steps: there are no training rows.")
        for epoch in range(position.epoch, phase.epochs):
            self._run_epoch(index, epoch, position, groups, optimizer, prefix, steps, before)
            position = Position(phase=index, epoch=epoch + 1, done=self.done)
            if phase.patience is not None and self.stale >= phase.patience:
                self.progress.say(
                    f"{phase.name}: no better validation log-loss for {self.stale} epochs, it ends here."
                )
                break
        if self.best is not None:
            # A phase hands on its best weights: the next one starts where validation was best.
            self._load(self.best.tensors)
        record = record_phase(self.backbone, phase, groups, before, self._live(), frozen)
        self.fit.ledger.append(record)
        prefix.close()

    # -- epochs

    def _run_epoch(
        self,
        index: int,
        epoch: int,
        position: Position,
        groups: tuple[Group, ...],
        optimizer: torch.optim.Optimizer,
        prefix: Prefix,
        steps: int,
        before: Mapping[str, Tensor],
    ) -> None:
        phase = self.plan.phases[index]
        set_modes(self.backbone, self.head, phase)
        batches = self._batches(index, epoch)
        self.done = position.done
        first = position.step if epoch == position.epoch else 0
        losses: list[Tensor] = []
        waited = seen = 0.0
        began = time.perf_counter()
        if self.task.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.task.device)
        for step in range(first, len(batches)):
            start = time.perf_counter()
            rows = batches[step]
            state = prefix.train_batch(rows, epoch)
            waited += time.perf_counter() - start
            self._set_rates(optimizer, groups, phase, steps)
            losses.append(self._step(state, rows, optimizer, groups, index))
            self.done += 1
            seen += len(rows)
            if self.task.device.type == "cpu" and not bool(torch.isfinite(losses[-1])):
                self._not_finite(phase, epoch, step, rows)
            if self.should_stop():
                self._save(Position(index, epoch, step + 1, self.done), groups, optimizer, before)
                raise StoppedError("Stopped as asked; the state is saved. Continue with --resume.")
        mean = float(torch.stack(losses).mean()) if losses else float("nan")
        if losses and not np.isfinite(mean):
            broken = int((~torch.isfinite(torch.stack(losses))).nonzero()[0])
            self._not_finite(phase, epoch, first + broken, batches[first + broken])
        seconds = time.perf_counter() - began
        log_loss, accuracy = self._validate(prefix, phase, epoch, groups)
        self.fit.history.append(
            EpochRecord(
                phase=phase.name,
                epoch=epoch,
                train_loss=mean,
                val_log_loss=log_loss,
                val_accuracy=accuracy,
                seconds=seconds,
                rows_per_second=seen / max(seconds, 1e-9),
                wait_share=waited / max(seconds, 1e-9),
                peak_bytes=_peak_bytes(self.task.device),
                rates={group["name"]: float(group["lr"]) for group in optimizer.param_groups},
            )
        )
        self.progress.count(f"{phase.name}, epochs", epoch + 1, phase.epochs)
        if self.checkpoints is not None and (epoch + 1) % self.task.checkpoint_epochs == 0:
            self._save(Position(index, epoch + 1, 0, self.done), groups, optimizer, before)

    def _step(
        self,
        state: State,
        rows: NDArray[np.intp],
        optimizer: torch.optim.Optimizer,
        groups: tuple[Group, ...],
        index: int,
    ) -> Tensor:
        """One optimizer step on a whole batch, in as many micro-batches as memory asks for; the mean loss."""
        while True:
            try:
                loss = self._gradients(state, rows, index)
                break
            except torch.OutOfMemoryError:
                optimizer.zero_grad(set_to_none=True)
                self.micro_batches *= 2
                if self.micro_batches > len(rows):
                    raise UnfreezeError(
                        "One row alone does not fit into the device's memory: take a smaller backbone or --image-size."
                    ) from None
                torch.cuda.empty_cache()
                self.progress.say(
                    f"Out of memory: every batch is now computed in {self.micro_batches} parts, with the same result."
                )
        parameters = [parameter for group in groups for _, parameter in group.parameters]
        if self.plan.clip:
            nn.utils.clip_grad_norm_(parameters, self.plan.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self.plan.ema is not None:
            live = self._trainable(groups)
            names = list(live)
            # Bias-corrected at the start, when the average has seen few steps.
            decay = min(self.plan.ema, (1 + self.done) / (10 + self.done))
            torch._foreach_lerp_([self.ema[n] for n in names], [live[n].detach() for n in names], 1 - decay)
        return loss

    def _gradients(self, state: State, rows: NDArray[np.intp], index: int) -> Tensor:
        y = torch.from_numpy(self.task.train.y[rows]).to(self.task.device)
        whole = batch_weight(y, self.weight)
        boundary = self.plan.phases[index].boundary(len(self.backbone.stages))
        total = torch.zeros((), device=self.task.device)
        seed = (self.task.seed * 1_000_003 + index * 10_007 + self.done) % 2**63
        mix = draw_mix(self.plan.mixup, seed=self.task.seed, step=self.done, rows=len(rows))
        if mix is not None:
            partner = torch.from_numpy(mix.partner).to(state.h.device)
            state = replace(state, h=mix.share * state.h.float() + (1 - mix.share) * state.h[partner].float())
        with torch.random.fork_rng(devices=_cuda_devices(self.task.device)):
            torch.manual_seed(seed)
            parts = np.array_split(np.arange(len(rows)), self.micro_batches)
            for part in parts:
                chosen = slice(int(part[0]), int(part[-1]) + 1)
                piece = State(state.h[chosen], None if state.mask is None else state.mask[chosen])
                with _autocast(self.task):
                    features = self.backbone.run(piece, boundary, None).h
                    logits = self.head(features.float())
                loss = (
                    cross_entropy(
                        logits, y[chosen], weight=self.weight, smoothing=self.plan.label_smoothing, mix=mix
                    )
                    / whole
                )
                (loss + self._pull() / len(parts)).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        return total

    def _pull(self) -> Tensor | float:
        """L2-SP: half the squared distance of the backbone's trainable weights from where they started."""
        if not self.plan.pull:
            return 0.0
        distance: Tensor | float = 0.0
        for name, parameter in self.backbone.module.named_parameters():
            if parameter.requires_grad:
                distance = distance + (parameter - self.start[name]).square().sum()
        return 0.5 * self.plan.pull * distance

    def _set_rates(
        self, optimizer: torch.optim.Optimizer, groups: tuple[Group, ...], phase: Phase, steps: int
    ) -> None:
        factor = rate_factor(phase, self.done, steps)
        for entry, group in zip(optimizer.param_groups, groups, strict=True):
            entry["lr"] = group.rate * factor

    # -- validation

    def _validate(
        self, prefix: Prefix, phase: Phase, epoch: int, groups: tuple[Group, ...]
    ) -> tuple[float | None, float | None]:
        if self.task.val is None:
            return None, None
        if self.plan.ema is None:
            return self._judge(prefix, f"{phase.name}, epoch {epoch + 1}")
        raw = {name: tensor.detach().clone() for name, tensor in self._trainable(groups).items()}
        self._load(self.ema)
        result = self._judge(prefix, f"{phase.name}, epoch {epoch + 1}")
        self._load(raw)
        return result

    def _judge(self, prefix: Prefix, where: str) -> tuple[float, float]:
        """Score the present weights on validation and keep them when they are the best yet."""
        log_loss, accuracy = self._score(prefix)
        if self.best is None or log_loss < self.best.log_loss:
            tensors = {name: tensor.detach().clone() for name, tensor in self._live().items()}
            self.best = _Best(log_loss, accuracy, where, tensors)
            self.fit.taken = where
            self.stale = 0
        else:
            self.stale += 1
        return log_loss, accuracy

    def _score(self, prefix: Prefix) -> tuple[float, float]:
        assert self.task.val is not None
        self.backbone.module.eval()
        self.head.eval()
        logits = []
        rows = np.arange(len(self.task.val.y))
        with torch.no_grad():
            for state in prefix.val_batches(rows, self.plan.batch_size):
                with _autocast(self.task):
                    features = self.backbone.run(state, prefix.boundary, None).h
                logits.append(self.head(features.float()).float().cpu())
        values = torch.cat(logits).numpy()
        # An overconfident network is no worse a classifier: it is judged as it will be shipped, calibrated.
        return log_loss_and_accuracy(values / fit_temperature(values, self.task.val.y), self.task.val.y)

    def _interpolate(self) -> None:
        """Take the mix of start and trained weights that validates best (WiSE-FT)."""
        assert self.best is not None
        stages = len(self.backbone.stages)
        lowest = min(phase.boundary(stages) for phase in self.plan.phases)
        prefix = self.prefix.make(self.plan.phases[-1], lowest, rounds=1)
        trained = self.best.tensors
        chosen = (self.best.log_loss, 1.0)
        for mix in MIXES:
            self._load(_mixed(self.start, trained, mix))
            log_loss, _ = self._score(prefix)
            if log_loss < chosen[0]:
                chosen = (log_loss, mix)
        self.fit.mix = chosen[1]
        self._load(_mixed(self.start, trained, chosen[1]) if chosen[1] < 1 else trained)
        prefix.close()

    # -- state

    def _batches(self, index: int, epoch: int) -> list[NDArray[np.intp]]:
        # Phases must not repeat each other's orders.
        return self.task.train.inputs.batches(self.task.seed + 7919 * index, epoch, self.plan.batch_size)

    def _changing(self) -> list[str]:
        names: set[str] = set()
        for phase in self.plan.phases:
            for group in select(self.backbone, self.head, phase):
                names.update(name for name, _ in group.parameters)
            if phase.norm == "train":
                names.update(name for name, _ in self.backbone.module.named_buffers())
        return sorted(names)

    def _live(self) -> dict[str, Tensor]:
        """The tensors that the plan may change, by name; the head's carry its prefix."""
        everything: dict[str, Tensor] = dict(self.backbone.module.state_dict(keep_vars=True))
        everything |= {
            f"{HEAD}.{name}": tensor for name, tensor in self.head.state_dict(keep_vars=True).items()
        }
        return {name: everything[name] for name in self.changing if name in everything}

    def _trainable(self, groups: tuple[Group, ...]) -> dict[str, Tensor]:
        return {name: parameter for group in groups for name, parameter in group.parameters}

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        live = self._live()
        with torch.no_grad():
            for name, tensor in tensors.items():
                live[name].copy_(tensor)

    def _save(
        self,
        position: Position,
        groups: tuple[Group, ...],
        optimizer: torch.optim.Optimizer,
        before: Mapping[str, Tensor],
    ) -> None:
        if self.checkpoints is None:
            return
        tensors = {f"live.{name}": tensor for name, tensor in self._live().items()}
        tensors |= {f"before.{name}": tensor for name, tensor in before.items()}
        tensors |= {f"start.{name}": tensor for name, tensor in self.start.items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.items()}
        for name, parameter in self._trainable(groups).items():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        numbers: dict[str, Any] = {
            "stale": self.stale,
            "taken": self.fit.taken,
            "history": [vars(record) for record in self.fit.history],
            "ledger": [record.to_dict() for record in self.fit.ledger],
        }
        if self.best is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.tensors.items()}
            numbers["best"] = [self.best.log_loss, self.best.accuracy, self.best.where]
        self.checkpoints.save(Checkpoint(position=position, tensors=tensors, numbers=numbers))

    def _restore(
        self, found: Checkpoint, optimizer: torch.optim.Optimizer, groups: tuple[Group, ...]
    ) -> dict[str, Tensor]:
        """Put everything back where it stood; returns the weights the phase began with."""
        parts: dict[str, dict[str, Tensor]] = {
            key: {} for key in ("live", "before", "start", "ema", "best", "optimizer")
        }
        for name, tensor in found.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor.to(self.task.device)
        self._load(parts["live"])
        self.start, self.ema = parts["start"], parts["ema"]
        if "best" in found.numbers:
            log_loss, accuracy, where = found.numbers["best"]
            self.best = _Best(log_loss, accuracy, where, parts["best"])
        for name, parameter in self._trainable(groups).items():
            state = {
                key.partition(".")[0]: value
                for key, value in parts["optimizer"].items()
                if key.partition(".")[2] == name
            }
            if state:
                # AdamW keeps its step count on the CPU unless it is fused.
                fused = bool(optimizer.param_groups[0].get("fused"))
                state["step"] = state["step"] if fused else state["step"].cpu()
                optimizer.state[parameter] = state
        self.stale, self.fit.taken = found.numbers["stale"], found.numbers["taken"]
        self.fit.history = [EpochRecord(**record) for record in found.numbers["history"]]
        self.fit.ledger = [PhaseRecord.from_dict(record) for record in found.numbers["ledger"]]
        return parts["before"]

    def _not_finite(self, phase: Phase, epoch: int, step: int, rows: NDArray[np.intp]) -> None:
        if self.best is not None:
            self._load(self.best.tensors)
        shown = ", ".join(str(int(row)) for row in rows[:8])
        raise UnfreezeError(
            f"The loss is not finite in phase {phase.name!r}, epoch {epoch + 1}, step {step + 1} "
            f"(training rows {shown}{', …' if len(rows) > 8 else ''}). "
            "The best weights so far are kept; try a lower --lr."
        )


def describe_phase(phase: Phase, groups: tuple[Group, ...], backbone: Backbone, prefix: str) -> str:
    """What a phase trains, in a line: parameters, share, rates, and how its frozen part is read."""
    trained = sum(parameter.numel() for group in groups for _, parameter in group.parameters)
    total = sum(parameter.numel() for parameter in backbone.module.parameters())
    total += sum(
        parameter.numel() for group in groups if group.stage is None for _, parameter in group.parameters
    )
    rates = sorted({group.rate for group in groups})
    shown = f"{rates[0]:.1e}" if len(rates) == 1 else f"{rates[0]:.1e} to {rates[-1]:.1e}"
    return (
        f"Phase {phase.name}: {phase.epochs} epochs, {trained:,} of {total:,} parameters trainable "
        f"({trained / total:.2%}), rates {shown}, norm statistics {'trained' if phase.norm == 'train' else 'frozen'}. "
        f"{prefix}"
    )


def _optimizer(groups: tuple[Group, ...], device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [
            {
                "params": [parameter for _, parameter in group.parameters],
                "lr": group.rate,
                "weight_decay": group.weight_decay,
                "name": group.name,
            }
            for group in groups
        ],
        betas=BETAS,
        eps=EPSILON,
        fused=device.type == "cuda",
    )


def _mixed(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], mix: float) -> dict[str, Tensor]:
    return {
        name: torch.lerp(start[name], tensor, mix) if tensor.is_floating_point() else tensor
        for name, tensor in trained.items()
    }


def _autocast(task: Task) -> Any:
    return nullcontext() if task.autocast is None else torch.autocast(task.device.type, dtype=task.autocast)


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
