"""What tasks add to their networks: the last used in memory, the others on disk until they are asked again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

from unfreeze.bundle.parts import Part, fitting, read_part
from unfreeze.bundle.schema import BundleFile
from unfreeze.contracts import Backbone
from unfreeze.errors import RequestError
from unfreeze.grafts import unpack
from unfreeze.grafts.rowwise import Updates
from unfreeze.heads.head import Head


@dataclass(frozen=True, eq=False)
class Weights:
    """A head, and what a graft adds to each layer; empty for a task that reads the network as it is."""

    head: Head
    updates: Updates

    @property
    def size(self) -> int:
        """Bytes in memory."""
        tensors = [tensor for update in self.updates.values() for tensor in update.tensors]
        return sum(array.nbytes for array in self.head.tensors.values()) + sum(
            tensor.nbytes for tensor in tensors
        )


def unpack_part(part: Part, backbone: Backbone, folder: Path) -> Weights:
    """The weights of a part of ``folder`` for this bare network; RequestError where they do not fit it."""
    with fitting(folder):
        return Weights(part.head, unpack(backbone, part.adapter) if part.adapter else {})


@dataclass(frozen=True, eq=False)
class Source:
    """Where the weights of a task lie. ``digest``: that of the part when its golden answers were checked.

    ``grafted``: the adapter is put onto the network row by row, where it has one.
    """

    folder: Path
    bundle: BundleFile
    digest: str
    grafted: bool

    def read(self, backbone: Backbone) -> Weights:
        """The very weights that were checked. RequestError when they are gone or others."""
        with fitting(self.folder):
            part = read_part(self.folder, self.bundle)
        part = part if self.grafted else Part(part.head)
        if part.digest != self.digest:
            raise RequestError(f"{self.folder} was changed after it was loaded: load it again or restore it.")
        return unpack_part(part, backbone, self.folder)


class WeightCache:
    """Keeps up to ``budget`` bytes of weights, those that were used last; safe for threads.

    What a batch computes with stays in memory until it is done, whatever the budget.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[Hashable, Weights] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes that are kept now."""
        return self._size

    def get(self, key: Hashable, read: Callable[[], Weights]) -> Weights:
        """The weights of ``key``, read where they are not in memory; what ``read`` raises is passed on."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        # Others need not wait for the disk.
        found = read()
        self.put(key, found)
        return found

    def put(self, key: Hashable, weights: Weights) -> None:
        """Keep weights as those used last, and let go of what is over the budget."""
        with self._lock:
            self._forget(key)
            self._kept[key] = weights
            self._size += weights.size
            while self._size > self._budget:
                self._forget(next(iter(self._kept)))

    def drop(self, key: Hashable) -> None:
        """Keep these weights no longer."""
        with self._lock:
            self._forget(key)

    def _forget(self, key: Hashable) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._size -= gone.size
