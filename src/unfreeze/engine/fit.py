"""The loop: it runs any plan and knows no strategy by name.

``fit`` → phase → epoch → step. What lies below the first thawed stage is read from a prefix, computed once; order,
augmentation and dropout are functions of seed and position, so that a resumed run gives the bits of one never stopped.
Several processes may run it together (``Task.ranks``): the first decides, saves and speaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unfreeze.amounts import counted
from unfreeze.backbones import randomise
from unfreeze.contracts import Backbone
from unfreeze.engine.checkpoints import Checkpoint, Checkpoints, Position, damaged
from unfreeze.engine.devices import peak_bytes
from unfreeze.engine.drift import Drift
from unfreeze.engine.judging import is_worse, load_best_mix, score
from unfreeze.engine.ledger import fingerprint, fingerprint_frozen, record_phase
from unfreeze.engine.pairing import batches_of
from unfreeze.engine.phase_precision import PrecisionChoice, choose_precision
from unfreeze.engine.prefix import PlainMaker, Prefix, PrefixMaker
from unfreeze.engine.ranks import PeerLostError
from unfreeze.engine.scaling import first_scale
from unfreeze.engine.schedule import rate_factor
from unfreeze.engine.sharding import Shards, describe_shards, shard_stages, stages_to_shard
from unfreeze.engine.state import (
    STEP,
    Best,
    Standing,
    Weights,
    beside,
    copied,
    from_checkpoint,
    optimizer_state,
    put,
    set_optimizer_state,
    to_checkpoint,
    trainable,
)
from unfreeze.engine.stepping import Stepper, build_optimizer
from unfreeze.engine.suffix import Suffix
from unfreeze.engine.task import Decided, EpochRecord, Fit, Kept, Rows, Task
from unfreeze.engine.trainable import (
    Group,
    describe_phase,
    has_statistics,
    judge_mode,
    select,
    set_modes,
    trains_statistics,
)
from unfreeze.errors import DivergedError, StoppedError, UnfreezeError
from unfreeze.executors.allocator import give_back_freed_memory
from unfreeze.plan import Phase, Plan, check_modality
from unfreeze.progress import Progress, Silent

__all__ = ["EpochRecord", "Fit", "Rows", "Task", "fit"]


def fit(
    plan: Plan,
    *,
    backbone: Backbone,
    head: nn.Module,
    task: Task,
    prefix: PrefixMaker | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    watch: Callable[[EpochRecord], None] = lambda _: None,
) -> Fit:
    """Run the plan; backbone and head hold the weights taken in the end, in evaluation mode.

    ``head`` maps features (batch, dim) to logits (batch, classes). ``prefix`` decides how frozen stages are read;
    without one they are run by PyTorch for every batch. What a plan says of its head, its graft and its inputs
    (``head``, ``graft``, ``dropout``, ``augment``, ``views``, ``token_dropout``) is for the caller to have made.
    ``watch`` is given each epoch's record, in a training that goes on those before too; what it raises ends the
    training. Of several ranks the first is given ``checkpoints`` and ``watch``, and each its own ``should_stop``.

    Raises UnfreezeError when there are no training rows or a frozen tensor has moved, DivergedError when a loss is not
    finite (the best weights so far are in the backbone then), StoppedError when ``should_stop`` said so, or
    another rank has ended.
    """
    check_modality(plan, backbone.modality)
    if not len(task.train.y):
        raise UnfreezeError(
            f"Phase {plan.phases[0].name!r} has no training steps: there are no training rows."
        )
    _check_norms(plan, backbone, head, rows=min(plan.batch_size, len(task.train.y)))
    if plan.start == "random":
        randomise(backbone, seed=task.seed)
    maker = PlainMaker(backbone, task) if prefix is None else prefix
    loop = _Loop(plan, backbone, head, task, maker, checkpoints, should_stop, progress or Silent(), watch)
    try:
        return loop.run(resume=resume)
    finally:
        maker.close()
        for module in (backbone.module, head):
            judge_mode(module)
            module.requires_grad_(False)
        give_back_freed_memory()


def _check_norms(plan: Plan, backbone: Backbone, head: nn.Module, *, rows: int) -> None:
    """Raise UnfreezeError where norms would be trained on the statistics of a single row."""
    in_head = any(has_statistics(part) for part in head.modules())
    for phase in plan.phases:
        trained = trains_statistics(backbone, phase)
        trained_head = in_head and phase.head_rate is not None
        if rows < 2 and (trained or trained_head):
            way_out = (
                "take larger batches." if trained_head else "take a larger --batch-size, or --bn freeze."
            )
            raise UnfreezeError(
                f"Phase {phase.name!r} trains norm statistics, and batches of one row have none: {way_out}"
            )


@dataclass(frozen=True, eq=False)
class _Active:
    """The phase that is being run."""

    index: int
    phase: Phase
    groups: tuple[Group, ...]
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    prefix: Prefix
    steps: int


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
        watch: Callable[[EpochRecord], None],
    ) -> None:
        self.plan, self.backbone, self.head, self.task = plan, backbone, head, task
        self.prefix, self.checkpoints, self.ranks = prefix, checkpoints, task.ranks
        self.should_stop, self.progress, self.watch = should_stop, progress, watch
        self.saved = time.perf_counter()
        backbone.module.to(task.device)
        head.to(task.device)
        # Weights that are cut because a device has no room for what belongs to them leave it none for copies.
        self.home = None if self.ranks.sharding is None else torch.device("cpu")
        self.weights = Weights(plan, backbone, head, home=self.home)
        # Before a checkpoint is loaded: a training that goes on has moved since the same start.
        self.drift = Drift(
            backbone, task.train.inputs, seed=task.seed, lowest=plan.boundary(len(backbone.stages))
        )
        # Trials keep no checkpoints: nothing is put together for one then. The first process knows.
        self.saving = self.ranks.lead(lambda: self.checkpoints is not None)
        self.standing = Standing(start=self.weights.copy() if plan.pull or plan.interpolate else {})

    def run(self, *, resume: bool) -> Fit:
        began = time.perf_counter()
        found = self.ranks.lead(lambda: self._found(resume))
        first = 0 if found is None else found.position.phase
        for index in range(first, len(self.plan.phases)):
            self._run_phase(index, found if index == first else None)
        if self.plan.interpolate and self.task.val is not None:
            self._interpolate()
        self.standing.fit.seconds = time.perf_counter() - began
        return self.standing.fit

    def _found(self, resume: bool) -> Checkpoint | None:
        if self.checkpoints is None:
            return None
        if resume:
            found = self.checkpoints.newest()
            if found is not None and not self._has(found.position):
                raise damaged(found.folder, "it stands where this training has no step")
            return found
        # What another run left here would look newer than what this one is going to write.
        self.checkpoints.begin()
        return None

    def _has(self, place: Position) -> bool:
        """Whether a training stands there at some time."""
        if place.phase >= len(self.plan.phases):
            return False
        epochs = self.plan.phases[place.phase].epochs
        steps = [len(self._batches(place.phase, epoch)) for epoch in range(epochs)] + [0]
        return place.epoch <= epochs and place.step <= steps[place.epoch] and place.done <= sum(steps)

    # -- phases

    def _run_phase(self, index: int, found: Checkpoint | None) -> None:
        phase = self.plan.phases[index]
        groups = select(self.backbone, self.head, phase)
        optimizer = build_optimizer(groups, self.task.device)
        if found is None:
            self._begin_phase(index, groups)
        else:
            judged = 0 if self.task.val is None else len(self.task.val.y)
            self.standing = from_checkpoint(
                found,
                self.weights,
                groups,
                optimizer,
                device=self.task.device,
                home=self.home,
                judged=judged,
            )
            # It may count epochs, and goes on counting as if the run had not been stopped.
            self.ranks.lead(lambda: [self.watch(record) for record in self.standing.fit.history])
        # One may have run out of memory alone: in as many parts all meet in what this phase exchanges.
        self.standing.micro_batches = max(self.ranks.every(self.standing.micro_batches))
        self._check_alike(groups)
        if not self._phase_is_over(phase):
            self._train(index, groups, optimizer)
        self.weights.load(self.standing.ema)
        if self.standing.best is not None and self._is_judged(phase):
            self._settle(phase, self.standing.best)
            self.weights.load(self.standing.best.tensors)
        else:
            self.standing.fit.taken = self._place(phase)
        self._record(phase, groups)

    def _settle(self, phase: Phase, best: Best) -> None:
        """Take the phase's last weights, which are in place, unless the best ones are better beyond chance.

        The best of many epochs on few validation rows is a lucky one: on 75 rows of solar cells the last epoch beat it
        by 1.4 to 4 points in all of five partial and full trainings (bench/RESULTS.md). Where the training loss has
        risen since, the training went wrong and the best weights are taken without a test; where they are from before
        the phase, since its first epoch. A validation loss is no measure of it: training varies its inputs, mixes and
        smooths their labels.
        """
        standing, place = self.standing, self._place(phase)
        epochs = [record for record in standing.fit.history if record.phase == phase.name]
        standing.fit.kept = None
        if best.where == place or not epochs or standing.judged is None:
            return
        last = Best(standing.judged, place, self.weights.copy())
        known = {f"{one.phase}, epoch {one.epoch + 1}": one.train_loss for one in epochs}
        went_wrong = not epochs[-1].train_loss <= known.get(best.where, epochs[0].train_loss)
        if went_wrong or is_worse(last.judged.losses, best.judged.losses, looks=len(epochs)):
            standing.fit.kept = Kept("last", last.judged, last.tensors)
            return
        standing.fit.kept = Kept("best", best.judged, best.tensors)
        standing.best, standing.fit.taken = last, place

    def _place(self, phase: Phase) -> str:
        """What the weights are called that a phase had after the last of its epochs."""
        return f"{phase.name}, epoch {self.standing.position.epoch}"

    def _check_alike(self, groups: tuple[Group, ...]) -> None:
        """Ranks that trained different parameters, or started from different weights, would drift apart unnoticed."""
        if not self.ranks.alone:
            named = [
                (group.name, group.rate, name, tuple(parameter.shape))
                for group in groups
                for name, parameter in group.parameters
            ]
            self.ranks.check_alike("The trainable parameters", repr(named))
            self.ranks.check_alike("The weights", fingerprint(self.weights.live()) + self.standing.frozen)

    def _record(self, phase: Phase, groups: tuple[Group, ...]) -> None:
        standing = self.standing
        assert standing.precision is not None
        record = record_phase(
            self.backbone,
            phase,
            groups,
            standing.before,
            self.weights.live(),
            standing.frozen,
            drift=self._moved(phase),
            precision=standing.precision,
            epoch_seconds=standing.epoch_seconds,
        )
        if not record.frozen_unchanged:
            # What was stored of them, and what the report would say of the run, are of other weights.
            raise UnfreezeError(
                f"Phase {phase.name!r} has changed weights or statistics of {self.backbone.name} that it keeps frozen: "
                "parts of this network move by themselves. Train all of it with --strategy full --bn train, or nothing "
                "with --strategy feature-extraction."
            )
        standing.fit.ledger.append(record)

    def _moved(self, phase: Phase) -> dict[str, float]:
        """The drift after a phase: as it was before, where the phase has trained the head alone."""
        if phase.thaw:
            return self.drift.since_start()
        ledger = self.standing.fit.ledger
        return dict(ledger[-1].drift) if ledger else self.drift.none()

    def _begin_phase(self, index: int, groups: tuple[Group, ...]) -> None:
        standing = self.standing
        standing.position = Position(phase=index)
        standing.before = self.weights.copy()
        standing.ema = {} if self.plan.ema is None else copied(trainable(groups), self.home)
        standing.frozen = fingerprint_frozen(self.backbone, groups, self.plan.phases[index])
        if self.plan.phases[index].boundary(len(self.backbone.stages)) not in (standing.stored or ()):
            # What an earlier phase has decided for this one too is not decided anew, after a stop between them neither.
            standing.stored = None
        standing.precision, standing.epoch_seconds, standing.stale, standing.losses = None, None, 0, []
        standing.scale, standing.judged = {}, None

    def _train(self, index: int, groups: tuple[Group, ...], optimizer: torch.optim.Optimizer) -> None:
        phase = self.plan.phases[index]
        boundary = phase.boundary(len(self.backbone.stages))
        judge_mode(self.backbone.module)
        try:
            prefix = self.prefix.make(phase, boundary, rounds=phase.epochs, stored=self.standing.stored)
        except PeerLostError:
            raise
        except StoppedError:
            self._stop(groups, optimizer)
        try:
            self.standing.stored = prefix.stored
            self.progress.say(describe_phase(phase, groups, self.backbone, prefix.reason))
            steps = sum(len(self._batches(index, epoch)) for epoch in range(phase.epochs))
            # What measuring held lies in pieces that steps of another precision would not fit into.
            give_back_freed_memory()
            # Measured as the steps will be run, which are not captured where ranks exchange something within them.
            cutting = stages_to_shard(self.backbone, phase, self.ranks)
            choice = self._precision(index, prefix, 0 if cutting or self._shares_statistics(phase) else steps)
            prefix.precision = choice.precision
            # What a phase that is gone on with has decided is known from before.
            decided = Decided(bool(prefix.stored), prefix.reason, choice.reason)
            self.standing.fit.decided.setdefault(phase.name, decided)
            give_back_freed_memory()
            if self.task.device.type == "cuda":
                # What measuring held is none of the peak of the steps.
                torch.cuda.empty_cache()
            if self.standing.best is None and self._is_judged(phase):
                self._judge(prefix, "start")
            with self._sharded(phase, groups, optimizer) as (shards, groups, optimizer):
                self._take_steps(index, shards, groups, optimizer, prefix, steps)
        finally:
            prefix.close()
        if self.standing.position.epoch < phase.epochs:
            self.progress.say(
                f"{phase.name}: no better validation log-loss for "
                f"{counted(self.standing.stale, 'epoch')}, it ends here."
            )

    def _take_steps(
        self,
        index: int,
        shards: Shards,
        groups: tuple[Group, ...],
        optimizer: torch.optim.Optimizer,
        prefix: Prefix,
        steps: int,
    ) -> None:
        phase, say = self.plan.phases[index], self.progress.say
        suffix = Suffix(
            self.backbone,
            prefix.boundary,
            self.task.device,
            prefix.precision,
            # What FSDP does between stages is nothing that a graph could hold, and where one rank alone has no room to
            # capture what all exchange for their norms, it would exchange it at another time than they.
            steps=0 if shards.parts or self._shares_statistics(phase) else steps,
            say=say,
        )
        stepper = Stepper(
            plan=self.plan,
            suffix=suffix,
            head=self.head,
            task=self.task,
            index=index,
            groups=groups,
            optimizer=optimizer,
            standing=self.standing,
            start=shards.part(self.standing.start),
            shards=shards,
            make_room=prefix.give_room,
            say=say,
        )
        active = _Active(index, phase, groups, optimizer, stepper, prefix, steps)
        try:
            while not self._phase_is_over(phase):
                self._run_epoch(active)
        finally:
            # A training that collapsed starts again beside nothing of this one.
            suffix.close()

    def _shares_statistics(self, phase: Phase) -> bool:
        """Whether ranks exchange the statistics of norms within the stages that the phase trains."""
        return not self.ranks.alone and trains_statistics(self.backbone, phase)

    @contextmanager
    def _sharded(
        self, phase: Phase, groups: tuple[Group, ...], optimizer: torch.optim.Optimizer
    ) -> Iterator[tuple[Shards, tuple[Group, ...], torch.optim.Optimizer]]:
        """Within it the ranks hold what they are to hold of the thawed stages; groups and optimizer for that.

        Afterwards the weights are whole again. After any problem but a loss that is not finite those of the cut stages
        are what they were before: another rank may have gone with its parts.
        """
        shards = shard_stages(self.backbone, phase, self.ranks, self.task.device)
        if self.ranks.sharding is not None:
            self.progress.say(describe_shards(shards, groups))
        parts = shards.groups(groups)
        working = build_optimizer(parts, self.task.device)
        set_optimizer_state(
            working,
            trainable(parts),
            {
                kind: values if kind == STEP else shards.part(values)
                for kind, values in optimizer_state(optimizer, trainable(groups)).items()
            },
        )
        # What was kept at home, or was whole, is not needed there any more.
        optimizer.state.clear()
        self.standing.ema = beside(shards.part(self.standing.ema), trainable(parts))
        self.weights.shards = shards
        try:
            yield shards, parts, working
        except BaseException as problem:
            # The best weights are in place then, which are to be found in the backbone.
            self._join(shards, all_there=isinstance(problem, DivergedError))
            raise
        self._join(shards, all_there=True)

    def _join(self, shards: Shards, *, all_there: bool) -> None:
        if all_there:
            self.standing.ema = shards.whole(self.standing.ema, home=self.home)
            shards.restore()
        else:
            shards.drop()
        self.weights.shards = Shards(self.backbone.module)

    def _precision(self, index: int, prefix: Prefix, steps: int) -> PrecisionChoice:
        """What the phase computes in: as it was, when it is gone on with, else as it measures now."""
        phase, before = self.plan.phases[index], self.standing.precision
        if before is not None:
            return PrecisionChoice(before, f"Phase {phase.name} computes in {before}, as before.")
        choice = self.ranks.lead(
            lambda: choose_precision(
                self.backbone,
                self.head,
                task=self.task,
                prefix=prefix,
                phase=phase,
                rows=self._batches(index, 0)[0],
                steps=steps,
            )
        )
        self.standing.precision = choice.precision
        if choice.step_seconds is not None and steps:
            self.standing.epoch_seconds = choice.step_seconds * steps / phase.epochs
        self.standing.scale = first_scale(choice.precision, self.task.device)
        if choice.reason:
            self.progress.say(choice.reason)
        return choice

    def _phase_is_over(self, phase: Phase) -> bool:
        patient = phase.patience is None or self.standing.stale < phase.patience
        return self.standing.position.epoch >= phase.epochs or (
            not patient and self.standing.position.step == 0
        )

    # -- epochs

    def _run_epoch(self, active: _Active) -> None:
        set_modes(self.backbone, self.head, active.phase)
        began, waited, seen = time.perf_counter(), 0.0, 0
        if self.task.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.task.device)
        place = self.standing.position
        batches = self._batches(active.index, place.epoch)
        # Phases go on counting rounds, so that the second does not see the pictures of the first again.
        round_ = place.epoch + sum(phase.epochs for phase in self.plan.phases[: active.index])
        for step in range(place.step, len(batches)):
            rows = batches[step]
            started = time.perf_counter()
            state = active.prefix.train_batch(active.stepper.loads(rows), round_)
            waited += time.perf_counter() - started
            done = self.standing.position.done
            factor = rate_factor(active.phase, done, active.steps)
            try:
                loss = active.stepper.take(state, rows, factor=factor)
                self.standing.losses.append(loss)
                self.standing.position = replace(place, step=step + 1, done=done + 1)
                stopping = self.ranks.any(self.should_stop())
            except PeerLostError:
                self._save_alone(active)
                raise
            seen += len(rows)
            if self.task.device.type != "cuda" and not bool(torch.isfinite(loss)):
                self._check_losses(active, batches)
            if stopping:
                self._check_losses(active, batches)
                self._stop(active.groups, active.optimizer)
        self._check_losses(active, batches)
        self._end_epoch(active, seconds=time.perf_counter() - began, waited=waited, seen=seen)

    def _end_epoch(self, active: _Active, *, seconds: float, waited: float, seen: int) -> None:
        standing, phase = self.standing, active.phase
        place = standing.position
        mean = float(torch.stack(standing.losses).mean())
        log_loss, accuracy = self._validate(active)
        factor = rate_factor(phase, place.done - 1, active.steps)
        standing.fit.history.append(
            EpochRecord(
                phase=phase.name,
                epoch=place.epoch,
                train_loss=mean,
                val_log_loss=log_loss,
                val_accuracy=accuracy,
                seconds=seconds,
                rows_per_second=seen / max(seconds, 1e-9),
                wait_share=waited / max(seconds, 1e-9),
                peak_bytes=peak_bytes(self.task.device),
                rates={group.name: group.rate * factor for group in active.groups},
            )
        )
        standing.losses = []
        standing.position = Position(active.index, place.epoch + 1, 0, place.done)
        self.progress.count(f"{phase.name}, epochs", place.epoch + 1, phase.epochs)
        self.ranks.lead(lambda: self.watch(standing.fit.history[-1]))
        if self.ranks.lead(lambda: time.perf_counter() - self.saved >= self.task.checkpoint_seconds):
            self._save(active.groups, active.optimizer)

    def _check_losses(self, active: _Active, batches: list[NDArray[np.intp]]) -> None:
        """Raise when a loss of the epoch is not finite, with the best weights in place and saved."""
        finite = torch.isfinite(torch.stack(self.standing.losses))
        if bool(finite.all()):
            return
        step = int((~finite).nonzero()[0])
        rows = tuple(map(int, batches[step]))
        epoch = self.standing.position.epoch + 1
        where = f"The loss is not finite in phase {active.phase.name!r}, epoch {epoch}, step {step + 1}"
        if self.standing.best is None:
            raise DivergedError(where, rows=rows)
        self._keep_best(active)
        raise DivergedError(where, rows=rows, kept=self.checkpoints is not None)

    def _keep_best(self, active: _Active) -> None:
        """Save the best weights at the beginning of this epoch, without what has led away from them."""
        standing, place = self.standing, self.standing.position
        assert standing.best is not None
        self.weights.load(standing.best.tensors)
        standing.ema = {} if self.plan.ema is None else copied(trainable(active.groups))
        standing.scale = (
            {} if standing.precision is None else first_scale(standing.precision, self.task.device)
        )
        standing.losses = []
        standing.position = replace(place, step=0, done=place.done - place.step)
        active.optimizer.state.clear()
        self._save(active.groups, active.optimizer, diverged=True)

    def _stop(self, groups: tuple[Group, ...], optimizer: torch.optim.Optimizer) -> NoReturn:
        self._save(groups, optimizer)
        raise StoppedError(
            "Stopped as asked, without a checkpoint."
            if self.checkpoints is None
            else "Stopped as asked; the state is saved. Continue with --resume."
        )

    def _save(
        self, groups: tuple[Group, ...], optimizer: torch.optim.Optimizer, *, diverged: bool = False
    ) -> None:
        """Write a checkpoint, where there are to be any; by all ranks."""
        if not self.saving:
            return
        self.saved = time.perf_counter()
        # Only the first process writes: the others let go of what they help to put together.
        home = torch.device("meta") if self.checkpoints is None else self.home
        found = to_checkpoint(self.standing, self.weights, groups, optimizer, home=home)
        # They wait here, and not in what the devices exchange next: NCCL gives that up after ten minutes.
        self.ranks.lead(lambda: self._write(found, diverged=diverged))

    def _save_alone(self, active: _Active) -> None:
        """Save what stands when another rank was lost: of the step that it was lost in, nothing was taken yet.

        Statistics of norms have moved in it already, where they are trained; of weights that are cut a part is gone;
        and an accelerator may wait for ever for what it was to exchange. The last checkpoint is whole.
        """
        known = self.task.device.type == "cpu" and active.phase.norm == "freeze"
        if self.checkpoints is not None and known and not self.weights.shards.parts:
            self._write(to_checkpoint(self.standing, self.weights, active.groups, active.optimizer))

    def _write(self, found: Checkpoint, *, diverged: bool = False) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(found, diverged=diverged)

    def _batches(self, index: int, epoch: int) -> list[NDArray[np.intp]]:
        # Phases must not repeat each other's orders.
        seed, pairs = self.task.seed + 7919 * index, self.plan.phases[index].objective == "pairs"
        train, size = self.task.train, self.plan.batch_size
        return batches_of(train.inputs, train.y, pairs=pairs, seed=seed, epoch=epoch, batch_size=size)

    # -- validation

    def _is_judged(self, phase: Phase) -> bool:
        """Whether validation says how good the phase's weights are: the head knows nothing of pairs."""
        return self.task.val is not None and phase.objective == "classes"

    def _validate(self, active: _Active) -> tuple[float | None, float | None]:
        if not self._is_judged(active.phase):
            return None, None
        where = f"{active.phase.name}, epoch {self.standing.position.epoch + 1}"
        if self.plan.ema is None:
            return self._judge(active.prefix, where)
        live = trainable(active.groups)
        raw = copied(live)
        put(live, self.standing.ema)
        result = self._judge(active.prefix, where)
        put(live, raw)
        return result

    def _judge(self, prefix: Prefix, where: str) -> tuple[float, float]:
        """Score the present weights on validation and keep them when they are the best yet."""
        judged = score(
            self.backbone,
            self.head,
            self.task,
            prefix,
            batch_size=self._scored_rows(),
        )
        self.standing.judged = judged
        best = self.standing.best
        if best is None or judged.log_loss < best.judged.log_loss:
            self.standing.best = Best(judged, where, self.weights.copy())
            self.standing.fit.taken = where
            self.standing.stale = 0
        else:
            self.standing.stale += 1
        return judged.log_loss, judged.accuracy

    def _scored_rows(self) -> int:
        """Rows that fit into memory at a time, as training has found out."""
        return max(1, self.plan.batch_size // self.standing.micro_batches)

    def _interpolate(self) -> None:
        """Take the mix of start and trained weights that validates best (WiSE-FT)."""
        best = self.standing.best
        assert best is not None
        lowest = self.plan.boundary(len(self.backbone.stages))
        prefix = self.prefix.make(self.plan.phases[-1], lowest, rounds=1, stored=())
        prefix.precision = self.standing.precision or prefix.precision
        try:
            self.standing.fit.mix = load_best_mix(
                self.weights,
                self.standing.start,
                best.tensors,
                backbone=self.backbone,
                head=self.head,
                task=self.task,
                prefix=prefix,
                batch_size=self._scored_rows(),
            )
        finally:
            prefix.close()
