"""Backbones beside each other: cross-validated probes on the same rows, size, and speed on this machine."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import RootModel

from unfreeze.choose.settings import Decisions
from unfreeze.comparing.cells import FAILED, FINISHED
from unfreeze.comparing.intervals import Gain, Moves, over_seeds, paired_to_best
from unfreeze.comparing.records import AS_WRITTEN, HASH_LENGTH, are_amounts, are_shares, is_mean, read_as
from unfreeze.comparing.rows import are_keys, key_groups, key_rows, read_keys
from unfreeze.config import FLOOR, TrainRequest
from unfreeze.contracts import Backbone, Executor, State
from unfreeze.engine.frozen_pass import golden_batch
from unfreeze.errors import UnfreezeError
from unfreeze.progress import Progress
from unfreeze.report.content import Estimate
from unfreeze.runtime.files import write_atomically
from unfreeze.training.prepare import frozen_pass, open_backbone, pick_executor, read_data
from unfreeze.training.probing import fit_rows, probe_features

# Rows of the batch whose speed is given, what --batch-size is by default.
SPEED_ROWS = 32
# Repetitions within a second or two are enough for a median.
REPETITIONS, SPEED_SECONDS = 9, 2.0
# The fields that say something of every row.
BY_ROW = ("right", "rows_hash", "rows", "groups")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A backbone: the accuracy of its probe out of fold over the rows that are not test, and what it costs.

    ``right``: for each seed, "1" or "0" a held-out row, in an order that ``rows_hash`` stands for; ``rows``: their
    keys, and ``groups``: those of their groups, where the data have any. ``to_best``: accuracy less that of the first
    on the same rows, as a share in -1..1; its interval holds for all backbones at once. ``bytes``: of its weights as
    they are saved. ``latency_seconds`` and ``rows_per_second``: of the network alone, for one row and for 32, on
    ``executor``; decoding comes on top.
    """

    backbone: str
    state: str
    sentence: str = ""
    right: tuple[str, ...] = ()
    rows_hash: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    accuracy: Estimate | None = None
    to_best: Estimate | None = None
    log_loss: float | None = None
    parameters: int | None = None
    width: int | None = None
    bytes: int | None = None
    latency_seconds: float | None = None
    rows_per_second: float | None = None
    executor: str = ""

    @property
    def mean(self) -> float:
        """The mean accuracy; below every other where it failed."""
        return -1.0 if self.accuracy is None else self.accuracy.value

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form, without the single rows."""
        return {name: value for name, value in asdict(self).items() if name not in BY_ROW}


def probe_backbone(name: str, base: TrainRequest, seeds: Sequence[int], *, progress: Progress) -> Ranked:
    """What a probe of this backbone reaches on the data of ``base`` under each seed, and its size and speed.

    A backbone that cannot be used gives an entry that says why.
    """
    try:
        return _probed(name, base, seeds, progress)
    except Exception as problem:
        said = " ".join(str(problem).split())
        known = isinstance(problem, UnfreezeError)
        return Ranked(
            backbone=name, state=FAILED, sentence=said if known else f"{type(problem).__name__}: {said}"
        )


def rank(entries: Sequence[Ranked]) -> tuple[Ranked, ...]:
    """The entries, the most accurate first, each with its difference to the first on the same rows."""
    order = sorted(entries, key=lambda entry: -entry.mean)
    gains = [_gains(entry, order[0]) for entry in order[1:]]
    found = iter(paired_to_best([some for some in gains if some]))
    others = zip(order[1:], gains, strict=True)
    return (order[0], *(replace(entry, to_best=next(found)) if some else entry for entry, some in others))


def write_ranked(entry: Ranked, path: Path) -> None:
    """Keep an entry in a file of its own."""
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(asdict(entry), ensure_ascii=False) + "\n")


class _Record(RootModel[Ranked]):
    """What the file of an entry holds."""

    model_config = AS_WRITTEN


def finished_ranking(path: Path, *, backbone: str, seeds: int) -> Ranked | None:
    """An entry that was kept for this backbone and so many seeds, or None when there is none that finished."""
    record = read_as(path, _Record)
    if record is None or record.root.backbone != backbone or not _is_sound(record.root, seeds):
        return None
    return replace(record.root, to_best=None)


def _is_sound(entry: Ranked, seeds: int) -> bool:
    """Whether an entry has finished, and its numbers are such as probes give and fit each other."""
    reached = entry.accuracy
    if entry.state != FINISHED or reached is None:
        return False
    kept = (entry.right, entry.rows_hash, entry.rows or entry.right, entry.groups or entry.right)
    if any(len(one) != seeds for one in kept):
        return False
    if not all(text and set(text) <= {"0", "1"} for text in entry.right):
        return False
    keys = zip(entry.rows, entry.right, strict=False)
    groups = zip(entry.groups, entry.right, strict=False)
    sizes = (entry.log_loss, entry.parameters, entry.width, entry.bytes)
    speeds = (entry.latency_seconds, entry.rows_per_second)
    return (
        is_mean(reached.value, [text.count("1") / len(text) for text in entry.right])
        and are_shares(reached.low, reached.high)
        and are_amounts(*sizes, *speeds)
        and all(speed is None or speed > 0 for speed in speeds)
        and all(len(text) <= HASH_LENGTH for text in (*entry.rows_hash, entry.executor))
        and all(text and are_keys(text, len(hits)) for text, hits in keys)
        and all(text and are_keys(text, len(hits), distinct=False) for text, hits in groups)
    )


def _probed(name: str, base: TrainRequest, seeds: Sequence[int], progress: Progress) -> Ranked:
    backbone: Backbone | None = None
    right, hashes, keys, groups, accuracies, losses, moves = [], [], [], [], [], [], []
    for seed in seeds:
        request = replace(base, backbone=name, strategy=FLOOR, seed=seed)
        dataset, decisions = read_data(request), Decisions(request)
        if backbone is None:
            backbone = open_backbone(dataset, decisions, progress)
            _, executor = pick_executor(backbone, dataset, decisions, progress)
        features = frozen_pass(backbone, dataset, executor, decisions, progress)
        probe = probe_features(dataset, features, backbone, decisions, progress).probe
        rows = features.rows[fit_rows(dataset, features)][probe.held_out]
        hits = probe.oof_logits[probe.held_out].argmax(axis=1) == dataset.label[rows]
        right.append("".join("1" if hit else "0" for hit in hits))
        names = [f"{dataset.samples.name(int(row))}\0{dataset.label[row]}" for row in rows]
        hashes.append(_hash_rows(names))
        keys.append(key_rows(names))
        if (codes := dataset.groups_of(rows)) is not None:
            groups.append(key_groups(codes.tolist()))
        drawn = (groups or keys)[-1]
        moves.append(Moves.of_mean(read_keys(drawn, rows_hash="", count=len(hits)), hits))
        accuracies.append(probe.accuracy)
        losses.append(probe.log_loss)
    assert backbone is not None
    latency, speed = _speed(golden_batch(dataset, backbone, features.rows[:SPEED_ROWS]), executor)
    single = Estimate(accuracies[0], *probe.interval)
    return Ranked(
        backbone=name,
        state=FINISHED,
        right=tuple(right),
        rows_hash=tuple(hashes),
        rows=tuple(keys),
        groups=tuple(groups),
        accuracy=over_seeds(accuracies, moves) if len(seeds) > 1 else single,
        log_loss=statistics.mean(losses),
        parameters=sum(parameter.numel() for parameter in backbone.module.parameters()),
        width=backbone.dim,
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in backbone.module.state_dict().values()),
        latency_seconds=latency,
        rows_per_second=speed,
        executor=executor.name,
    )


def _gains(entry: Ranked, best: Ranked) -> list[Gain]:
    """What an entry gains over the best, for each seed that both finished on the same rows."""
    found = []
    for place, (mine, its) in enumerate(zip(entry.right, best.right, strict=False)):
        rows_hash = entry.rows_hash[place]
        if rows_hash == best.rows_hash[place] and len(mine) == len(its):
            kept = (entry.groups or entry.rows)[place] if entry.rows else ""
            keys = read_keys(kept, rows_hash=rows_hash, count=len(mine))
            found.append(Gain(keys, _digits(mine) - _digits(its)))
    return found


def _digits(text: str) -> Any:
    return np.frombuffer(text.encode("ascii"), dtype=np.int8)


def _hash_rows(names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _speed(batch: State, executor: Executor) -> tuple[float, float]:
    """Seconds for one row, and rows a second of a whole batch: medians after a first, unmeasured pass."""
    one = batch.rows(slice(1))
    return _median_seconds(executor, one), len(batch.h) / _median_seconds(executor, batch)


def _median_seconds(executor: Executor, batch: State) -> float:
    executor(batch)
    taken: list[float] = []
    while len(taken) < REPETITIONS and sum(taken) < SPEED_SECONDS:
        start = time.perf_counter()
        executor(batch)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
