"""The processes of one training: who takes which rows, and what they agree on.

Every process (rank) holds all weights, unless FSDP cuts those in training (``engine.sharding``). A batch is the same
for any number of ranks; each computes its share of the rows, and gradients are added up before the step. The loss of
a row is divided by the weight of the whole batch, so that sums over ranks are exact however unequal the shares are,
and a rank may have none. That is why no wrapper such as DistributedDataParallel stands around the network: it
averages over ranks, wants every parameter used in every pass, and would have to be made anew whenever a phase thaws
more; what is summed here are the optimizer's own parameters.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unfreeze.errors import StoppedError, UnfreezeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Value = TypeVar("Value")

DISMISSING_SECONDS = 10.0
# How the libraries that carry tensors begin to say that the other end is gone.
CARRIERS = ("gloo", "NCCL")


class PeerLostError(StoppedError):
    """Another process of the training has ended before its time."""


class LedError(UnfreezeError):
    """The first process has failed at what all were waiting for; it says why."""


@dataclass(frozen=True)
class Sharding:
    """That weights in training are cut over ranks; ``reshard``: put together anew for the backward pass too."""

    reshard: bool = True


@dataclass(frozen=True)
class Ranks:
    """This process among ``count``; ``local_count`` of them run on its machine, of which it is number ``local``.

    ``objects``: the group through which values travel that are no tensors of the device; None when it is alone.
    ``sharding``: how weights are cut while they are trained; None where each rank holds all of them.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1
    objects: Any = field(default=None, repr=False)
    sharding: Sharding | None = None

    @property
    def leads(self) -> bool:
        """Whether this process decides, writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    def share(self, rows: int) -> slice:
        """This rank's part of so many rows; the parts differ by one row at most, and may be empty."""
        return _part(rows, self.rank, self.count)

    def local_share(self, rows: int) -> slice:
        """The same among the processes of this machine."""
        return _part(rows, self.local, self.local_count)

    def loaded(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """The rows that this rank runs: its share, and the first one, which counts nothing, where others have one more.

        So all ranks run as many rows, in as many parts, and meet each other in what is exchanged on the way.
        """
        share = self.share(len(rows))
        lacking = -(-len(rows) // self.count) - (share.stop - share.start)
        return np.concatenate([rows[share], rows[:lacking]])

    def lead(self, work: Callable[[], Value]) -> Value:
        """What ``work`` gives in the first process, in all of them.

        What it raises is raised there; LedError in the others.
        """
        if self.alone:
            return work()
        value, problem = None, None
        if self.leads:
            try:
                value = work()
            except BaseException as raised:
                problem = raised
        given: list[Any] = [value, problem is not None]
        self._broadcast(given)
        if problem is not None:
            raise problem
        if given[1]:
            raise LedError("The first process has ended this training; its message says why.")
        answer: Value = given[0]
        return answer

    def every(self, value: Value) -> list[Value]:
        """The values of all ranks, by rank, everywhere."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        with _reaching():
            dist.all_gather_object(found, value, group=self.objects)
        return found

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any rank."""
        if self.alone:
            return flag
        import torch

        raised = torch.tensor([float(flag)])
        self._sum(raised, self.objects)
        return bool(raised.item())

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place; they travel together."""
        if self.alone:
            return
        import torch

        by_kind: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_kind.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            self._sum(flat, None)
            for tensor, summed in zip(
                alike, torch.split(flat, [tensor.numel() for tensor in alike]), strict=True
            ):
                tensor.copy_(summed.view_as(tensor))

    def joined(self, mine: Tensor, rows: int) -> Tensor:
        """All rows (rows, ...) from each rank's share ``mine``, with the way back for gradients.

        Each rank is expected to go on with the same work: gradients that arrive are those of its copy alone, and are
        added up.
        """
        if self.alone:
            return mine
        import torch

        whole = mine.new_zeros((rows, *mine.shape[1:]))
        share = self.share(rows)
        whole = torch.cat([whole[: share.start], mine, whole[share.stop :]])
        return self.summed(whole)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, with the way back for gradients, which are added up too."""
        from unfreeze.engine.summing import Sum

        summed: Tensor = Sum.apply(tensor, self._sum)
        return summed

    def check_alike(self, what: str, value: str) -> None:
        """Raise UnfreezeError when ``value`` is not the same in all ranks."""
        found = self.every(value)
        differing = next((rank for rank, other in enumerate(found) if other != found[0]), None)
        if differing is not None:
            raise UnfreezeError(
                f"{what} of process {differing} are not those of process 0: all machines need the same data, weights "
                "and versions."
            )

    def wait(self) -> None:
        """Return when all ranks have come here."""
        self.every(None)

    def send(self, job: object) -> None:
        """Give all other ranks, which wait in ``receive``, something to do."""
        if not self.alone:
            self._broadcast([job])

    def dismiss(self) -> None:
        """Let the other ranks go, without waiting for one that hears nothing any more."""
        if self.alone:
            return

        def tell() -> None:
            with suppress(PeerLostError):
                self.send(None)

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        teller.join(DISMISSING_SECONDS)

    def receive(self) -> Any:
        """What the first process sends next; None when it is done."""
        given = [None]
        self._broadcast(given)
        return given[0]

    def _broadcast(self, values: list[Any]) -> None:
        import torch.distributed as dist

        with _reaching():
            dist.broadcast_object_list(values, src=0, group=self.objects)

    def _sum(self, tensor: Tensor, group: Any = None) -> None:
        import torch.distributed as dist

        with _reaching():
            dist.all_reduce(tensor, group=group)


ALONE = Ranks()


def _part(rows: int, place: int, count: int) -> slice:
    return slice(rows * place // count, rows * (place + 1) // count)


@contextmanager
def carried() -> Iterator[None]:
    """Within it PyTorch itself may exchange tensors: what says that another process is gone becomes PeerLostError."""
    try:
        yield
    except RuntimeError as problem:
        if any(name in str(problem) for name in CARRIERS):
            raise _lost() from problem
        raise


def _lost() -> PeerLostError:
    return PeerLostError(
        "Another process of this training has ended. Continue with the same command and --resume."
    )


@contextmanager
def _reaching() -> Iterator[None]:
    """A connection that is closed means that the process at its other end is gone."""
    try:
        yield
    except RuntimeError as problem:
        raise _lost() from problem
