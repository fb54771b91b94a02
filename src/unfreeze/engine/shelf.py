"""Activations that one pass has stored at several boundaries, and the prefixes that read them."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import filelock
import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.contracts import Executor, State
from unfreeze.engine.activations import (
    Activations,
    ActivationWriter,
    HalfOverflowError,
    Held,
    Readable,
    Written,
)
from unfreeze.engine.devices import Precision, has_room
from unfreeze.engine.inputs import Inputs
from unfreeze.engine.ranks import ALONE, Ranks
from unfreeze.engine.shelving import PREFIX, claim_shelf, let_go, sweep_shelves
from unfreeze.errors import StoppedError

# What a process says of its part of a pass that it was asked to leave.
_LEFT = "The training was asked to stop while the frozen part was run."


class UnstoredError(Exception):
    """Activations that could not be stored; the message says why."""


@dataclass(eq=False)
class Shelf:
    """``train``: boundary to the views of the training rows; ``val``: boundary to the validation rows.

    ``passed``: the boundaries that the executor kept, in its order. ``readers``: phases still to read from here.
    ``lock``: what this process holds as long as it fills and reads the shelf (see ``shelving``).
    """

    folder: Path
    passed: tuple[int, ...]
    readers: int
    train: dict[int, list[Activations]] = field(default_factory=dict)
    val: dict[int, Activations] = field(default_factory=dict)
    lock: filelock.BaseFileLock | None = None

    def release(self) -> None:
        """One reader is done; after the last one the files go."""
        self.readers -= 1
        if self.readers <= 0:
            self.remove()

    def remove(self) -> None:
        """Remove the mapped files."""
        self.train, self.val = {}, {}
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.lock is not None:
            let_go(self.lock)
            self.lock = None


@dataclass(eq=False)
class StoredPrefix:
    """Reads the first ``views`` views of a shelf at ``boundary``, from the device's memory where that has room."""

    shelf: Shelf
    views: int
    device: torch.device
    boundary: int
    reason: str
    precision: Precision = "fp32"
    # Memory has ended beside what was held, whose room would be found free again.
    _cramped: bool = field(default=False, init=False)

    @property
    def stored(self) -> tuple[int, ...]:
        """See ``Prefix``."""
        return self.shelf.passed

    @cached_property
    def _read(self) -> tuple[Sequence[Readable], Readable | None]:
        """The views of the training rows, and the validation rows."""
        train, val = self.shelf.train[self.boundary][: self.views], self.shelf.val.get(self.boundary)
        nbytes = sum(part.nbytes for part in (*train, val) if part is not None)
        if self._cramped or not has_room(self.device, nbytes):
            return train, val
        held = [part.held_on(self.device) for part in train]
        return held, None if val is None else val.held_on(self.device)

    def train_batch(self, rows: NDArray[np.intp], round_: int) -> State:
        """See ``Prefix``; round r reads view r modulo the number of views."""
        train, _ = self._read
        return train[round_ % self.views].read(rows, self.device)

    def val_batches(self, rows: NDArray[np.intp], batch_size: int) -> Iterator[State]:
        """See ``Prefix``."""
        _, val = self._read
        assert val is not None
        for start in range(0, len(rows), batch_size):
            yield val.read(rows[start : start + batch_size], self.device)

    def give_room(self) -> bool:
        """See ``Prefix``; the same bits are read from the files from then on."""
        views, _ = self.__dict__.get("_read", ((), None))
        if not any(isinstance(view, Held) for view in views):
            return False
        self._cramped = True
        del self._read
        return True

    def close(self) -> None:
        """See ``Prefix``."""
        self.__dict__.pop("_read", None)
        self.shelf.release()


def fill_shelf(
    root: Path,
    executor: Executor,
    passed: tuple[int, ...],
    *,
    train: Inputs,
    val: Inputs | None,
    views: Mapping[int, int],
    varied: bool,
    batch_size: int,
    half: bool,
    readers: int,
    ranks: Ranks = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
) -> Shelf:
    """Run all rows through ``executor``, which keeps the states at ``passed``; ``views``: how many each boundary gets.

    The processes of a machine share the work, and what it gives. Raises UnstoredError when one of them could not do
    its part, and StoppedError when ``should_stop`` said so; nothing is left behind then. What processes that were
    killed have left in ``root`` goes first.
    """
    shelf = Shelf(root / ranks.lead(lambda: f"{PREFIX}{uuid.uuid4().hex}"), passed, readers)
    if ranks.local == 0:
        sweep_shelves(root, but=shelf.folder)

    def run(inputs: Inputs, view: int | None, wanted: list[int], name: str) -> dict[int, Written]:
        with ExitStack() as stack:
            writers = {
                boundary: stack.enter_context(
                    ActivationWriter(
                        shelf.folder / f"{name}-{boundary}-{ranks.local}", rows=len(inputs), half=half
                    )
                )
                for boundary in wanted
            }
            # An epoch's batches are those of least padding, so the fill uses them too.
            for rows in inputs.batches(0, 0, batch_size)[ranks.local :: ranks.local_count]:
                if should_stop():
                    raise StoppedError(_LEFT)
                for boundary, state in zip(passed, executor(inputs.batch(rows, view)).states, strict=True):
                    if boundary in writers:
                        writers[boundary].add(rows, state)
        return {boundary: writer.index() for boundary, writer in writers.items()}

    def fill() -> dict[str, dict[int, Written]]:
        shelf.lock = claim_shelf(shelf.folder, ranks.rank)
        shelf.folder.mkdir(exist_ok=True)
        written = {}
        for view in range(max(views.values())):
            wanted = [boundary for boundary, count in views.items() if count > view]
            written[f"train{view}"] = run(train, view if varied else None, wanted, f"train{view}")
        if val is not None:
            written["val"] = run(val, None, list(views), "val")
        return written

    try:
        mine: dict[str, dict[int, Written]] | str = fill()
    except StoppedError:
        mine = _LEFT
    except HalfOverflowError:
        mine = "An activation does not fit into half precision"
    except OSError as problem:
        mine = f"The store could not be written ({problem.strerror or problem})"
    except BaseException:
        shelf.remove()
        raise
    found = ranks.every(mine)
    why = [part for part in found if isinstance(part, str)]
    if why:
        shelf.remove()
        raise StoppedError(_LEFT) if _LEFT in why else UnstoredError(why[0])
    first = ranks.rank - ranks.local
    here = [part for part in found[first : first + ranks.local_count] if not isinstance(part, str)]
    for name in here[0]:
        for boundary in here[0][name]:
            whole = Activations.joined([part[name][boundary].mapped() for part in here])
            if name == "val":
                shelf.val[boundary] = whole
            else:
                shelf.train.setdefault(boundary, []).append(whole)
    return shelf
