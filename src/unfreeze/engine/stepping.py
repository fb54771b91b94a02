"""One optimizer step: micro-batches, mixup, the L2 pull, clipping, the averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unfreeze.contracts import State
from unfreeze.data.sending import send
from unfreeze.engine.devices import seed_chance
from unfreeze.engine.losses import Mixed, batch_weight, cross_entropy, draw_mix, pair_loss
from unfreeze.engine.ranks import carried
from unfreeze.engine.scaling import adjust, scaled, unscale
from unfreeze.engine.sharding import Shards
from unfreeze.engine.state import Standing, trainable
from unfreeze.engine.suffix import Suffix
from unfreeze.engine.summing import SharedStatistics
from unfreeze.engine.task import Task
from unfreeze.engine.trainable import Group, is_graft, moving_statistics
from unfreeze.errors import LoneError, UnfreezeError
from unfreeze.executors.halving import ONE_ROW, is_out_of_memory
from unfreeze.plan import Plan

BETAS, EPSILON = (0.9, 0.999), 1e-8
FUSED = ("cuda", "cpu")


@dataclass(frozen=True, kw_only=True, eq=False)
class Stepper:
    """Takes the steps of one phase (number ``index``), together with the other ranks of the task.

    ``groups`` and ``start``, the weights that a pull leads to, are this rank's parts of what ``shards`` has cut.
    ``make_room`` is asked where memory ends, and says whether it has let go of what no number depends on.
    """

    plan: Plan
    suffix: Suffix
    head: nn.Module
    task: Task
    index: int
    groups: Sequence[Group]
    optimizer: torch.optim.Optimizer
    standing: Standing
    start: Mapping[str, Tensor]
    shards: Shards
    make_room: Callable[[], bool]
    say: Callable[[str], None]

    def take(self, state: State, rows: NDArray[np.intp], *, factor: float) -> Tensor:
        """One step on a batch at ``factor`` times the peak rates; its mean loss.

        ``rows``: all of the batch; ``state``: those of them that ``loads`` names.
        Where the loss or a gradient is not finite, the loss is NaN and the weights stay as they were; in float16 they
        stay too where the scale of the loss was too large, and the loss is what it is. Raises UnfreezeError in a
        phase's first step when a part of a graft gets no gradient.
        """
        for entry, group in zip(self.optimizer.param_groups, self.groups, strict=True):
            entry["lr"] = group.rate * factor
        loss = None
        while loss is None:
            loss = self._try_gradients(state, rows)
        self.shards.collect()
        self.task.ranks.add_up([loss, *self._gradients_of(sharded=False)])
        if self.standing.position.done == 0:
            self._refuse_unused_grafts()
        finite = torch.isfinite(loss)
        scale, parameters = self.standing.scale, list(trainable(self.groups).values())
        unscale((given.grad for given in parameters if given.grad is not None), scale)
        norm = self._gradient_norm()
        if self.plan.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.plan.clip, norm)
        sound = torch.isfinite(norm)
        # Gradients that only the scale has made infinite are no reason to stop: the next scale is smaller.
        failed = ~finite | (~sound & (scale["scale"] <= 1)) if scale else ~(finite & sound)
        finite = finite & sound
        adjust(scale, finite)
        if self.task.device.type == "cuda":
            # Fused AdamW leaves everything as it is where this is 1: no need to wait for the device here.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(finite):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        return torch.where(failed, torch.full_like(loss, float("nan")), loss)

    def loads(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Which rows of a batch this rank needs: its own, or all where they are mixed with each other."""
        return rows if self.plan.mixup else self.task.ranks.loaded(rows)

    @property
    def _joins_pairs(self) -> bool:
        """Whether the phase's loss is that of pairs of rows which lie in several ranks."""
        return self.plan.phases[self.index].objective == "pairs" and not self.task.ranks.alone

    @property
    def _meets(self) -> bool:
        """Whether ranks exchange what they compute within a pass, so that none may repeat it or cut it by itself."""
        exchanging = bool(self.shards.parts) or bool(self._moving_statistics)
        return self._joins_pairs or (exchanging and not self.task.ranks.alone)

    @cached_property
    def _class_weight(self) -> Tensor | None:
        """On the device, where it is sent once for all steps."""
        weight = self.task.class_weight
        return None if weight is None else send(weight, self.task.device)

    def _try_gradients(self, state: State, rows: NDArray[np.intp]) -> Tensor | None:
        """The gradients of this rank's rows, or None when memory ran out and less of it is needed now."""
        mine = len(self.task.ranks.loaded(rows))
        moving = self._moving_statistics
        most = max(1, mine // 2) if moving else mine
        # Ranks join the pairs of a whole batch, in however many parts one process alone has computed it before.
        parts = 1 if self._joins_pairs else min(self.standing.micro_batches, most)
        before = torch._foreach_add(moving, 0) if moving else []
        try:
            with carried():
                return self._gradients(state, rows, parts)
        except RuntimeError as problem:
            if not is_out_of_memory(problem):
                raise
            self.optimizer.zero_grad(set_to_none=True)
        # Outside of the handler, which keeps the failed pass in memory. It has moved some of them already.
        for statistic, value in zip(moving, before, strict=True):
            statistic.copy_(value)
        if self._meets:
            raise LoneError(
                "A batch does not fit into the devices' memory, and what ranks exchange within it must not be cut: "
                "take a smaller --batch-size."
            )
        if self.make_room():
            torch.cuda.empty_cache()
            self.say("Out of memory: what is stored is read from its files from now on.")
            return None
        if parts == mine:
            raise LoneError(ONE_ROW)
        if moving and mine < 2 * 2 * parts:
            raise LoneError(
                "Norm statistics are trained on two rows or more, and parts of a batch that are no smaller do not fit "
                "into the device's memory: take a smaller backbone or --image-size, or --bn freeze."
            )
        self.standing.micro_batches = parts * 2
        self.suffix.close()
        torch.cuda.empty_cache()
        self.say(f"Out of memory: every batch is now computed in {parts * 2} parts, {self._of_parts}.")
        return None

    @cached_property
    def _moving_statistics(self) -> list[Tensor]:
        return [*self.suffix.moving_statistics(), *moving_statistics(self.head)]

    @property
    def _of_parts(self) -> str:
        """What computing a batch in parts changes."""
        if self.plan.phases[self.index].objective == "pairs":
            return "and pairs are those within a part"
        if self._moving_statistics:
            return "and norms see the statistics of a part"
        return "which add up to the same step"

    def _gradients(self, state: State, rows: NDArray[np.intp], parts: int) -> Tensor:
        device, ranks = self.task.device, self.task.ranks
        y, weight = send(self.task.train.y[rows], device), self._class_weight
        pairs = self.plan.phases[self.index].objective == "pairs"
        whole = batch_weight(y, None if pairs else weight)
        done = self.standing.position.done
        # Phases count their steps from 0 and must not repeat each other's chance.
        seed = self.task.seed * 1_000_003 + self.index * 10_000_019
        mix = draw_mix(self.plan.mixup, seed=seed, step=done, rows=len(rows))
        mixed = None
        if mix is not None:
            partner, kept = send(mix.partner, device), send(mix.share, device)
            # The same for every number of a row.
            wide = kept.view(-1, *[1] * (state.h.dim() - 1))
            state = replace(state, h=wide * state.h.float() + (1 - wide) * state.h[partner].float())
            mixed = Mixed(kept, y[partner])
        if len(state.h) > len(ranks.loaded(rows)):
            own = send(ranks.loaded(np.arange(len(rows))), state.h.device)
            state = state.rows(own)
        share = ranks.share(len(rows))
        mine, mixed = y[share], None if mixed is None else mixed.rows(share)
        total = torch.zeros((), device=device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            # Ranks must not drop the same units of different rows.
            seed_chance((seed + done + ranks.rank * 1_000_000_007) % 2**63, device)
            for part in np.array_split(np.arange(len(state.h)), parts):
                chosen = slice(int(part[0]), int(part[-1]) + 1)
                piece = state.rows(chosen)
                with self._statistics(len(mine[chosen])):
                    # Only whole batches are replayed; the shorter last one of an epoch must not be what is captured.
                    # Nor is one before the optimizer has its moments, for which a graph might leave no room.
                    replayable = (
                        parts == 1 and len(rows) == self.plan.batch_size and bool(self.optimizer.state)
                    )
                    features = self.suffix(piece, replayable=replayable)
                    # A row that counts nothing is run where others have one more.
                    features = features[: len(mine[chosen])]
                    logits = None if pairs else self.head(features)
                if self._joins_pairs:
                    # All ranks compute the loss of all pairs: each answers for a part of it.
                    summed = pair_loss(ranks.joined(features, len(rows)), y) / ranks.count
                elif pairs:
                    # Where memory has cut the batch, pairs are those within a part.
                    summed = pair_loss(features, mine[chosen])
                else:
                    assert logits is not None
                    summed = cross_entropy(
                        logits,
                        mine[chosen],
                        weight=weight,
                        smoothing=self.plan.label_smoothing,
                        mixed=None if mixed is None else mixed.rows(chosen),
                    )
                loss = summed / whole
                objective = loss + self._pull() / (parts * ranks.count)
                scaled(objective, self.standing.scale).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        return total

    def _gradients_of(self, *, sharded: bool) -> list[Tensor]:
        """The gradients of what is cut over ranks, or of what each of them holds."""
        return [
            parameter.grad
            for name, parameter in trainable(self.groups).items()
            if parameter.grad is not None and (name in self.shards.parts) == sharded
        ]

    def _gradient_norm(self) -> Tensor:
        """The length of all gradients together."""
        norm: Tensor = nn.utils.get_total_norm(self._gradients_of(sharded=False))
        if not self.shards.parts:
            return norm
        parts: Tensor = (
            nn.utils.get_total_norm(self._gradients_of(sharded=True)).square().to(self.task.device)
        )
        self.task.ranks.add_up([parts])
        return (norm.square() + parts).sqrt()

    def _statistics(self, rows: int) -> AbstractContextManager[object]:
        """Where norms are trained by several ranks, their statistics are those of the whole batch."""
        if self.task.ranks.alone or not self._moving_statistics:
            return nullcontext()
        return SharedStatistics(self.task.ranks, rows)

    def _refuse_unused_grafts(self) -> None:
        """A graft that the forward pass goes around would stay as it is, and nobody would notice."""
        for name, parameter in trainable(self.groups).items():
            if is_graft(name) and parameter.grad is None:
                raise UnfreezeError(
                    f"The graft {name!r} is not used by the network's forward pass, so that it cannot be trained: "
                    "choose other layers with --targets, or another --strategy."
                )

    def _pull(self) -> Tensor | float:
        """L2-SP: half the squared distance of the backbone's trainable weights from where they started."""
        distance: Tensor | float = 0.0
        if self.plan.pull:
            for group in self.groups:
                for name, parameter in group.parameters if group.stage is not None else ():
                    distance = distance + (parameter - self.start[name].to(parameter.device)).square().sum()
        return 0.5 * self.plan.pull * distance

    def _average(self) -> None:
        if self.plan.ema is None:
            return
        done = self.standing.position.done
        # The average starts at the phase's first weights, which a short phase would never leave: it is shorter first.
        decay = min(self.plan.ema, (1 + done) / (10 + done))
        live = trainable(self.groups)
        torch._foreach_lerp_(
            [self.standing.ema[name] for name in live], [live[name].detach() for name in live], 1 - decay
        )


def build_optimizer(groups: Sequence[Group], device: torch.device) -> torch.optim.Optimizer:
    """AdamW over the groups, fused where there is such a kernel (Lite0 on one core: 4 ms a step, without it 12)."""
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
        fused=device.type in FUSED,
    )
