"""Facts gathered: the data, the machine, and what the untouched network makes of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unfreeze.choose.facts import Counts, Distance, Facts, ImageSizes, Machine, Shift, TextLengths
from unfreeze.choose.likeness import count_pairs, evenly, neighbours_right
from unfreeze.choose.paired import paired_error
from unfreeze.contracts import Backbone
from unfreeze.data.audit import audit
from unfreeze.engine.devices import free_on, hardware_name
from unfreeze.executors.processor import available_cores
from unfreeze.heads.folds import ALWAYS_TRAINED, assign_folds, stratified_sample
from unfreeze.heads.probe import PROBE_FOLDS, ProbeResult
from unfreeze.runtime.decode import inspect_image
from unfreeze.runtime.preprocess import TextPreprocess
from unfreeze.training.material import Material
from unfreeze.training.probing import fit_rows
from unfreeze.training.turning import measure_turning

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from unfreeze.contracts import State

# Rows whose files or texts are looked at for their size.
SIZED_ROWS = 1_000
# Rows whose neighbours are asked: 5,000 by 1,280 features take a second on two cores.
NEIGHBOUR_ROWS = 5_000
SHIFT_ROWS, SHIFT_BATCH_ROWS = 64, 32


def gather_facts(material: Material, probe: ProbeResult) -> Facts:
    """The facts of the rows that are not test; ``probe`` was fitted on their features. Nothing is trained."""
    from unfreeze.engine.batches import golden_batch

    dataset, features = material.dataset, material.features
    rows = features.rows
    y, last = dataset.label[rows], max(features.arrays)
    per_class = np.bincount(y, minlength=len(dataset.labels))
    counts = Counts(
        modality=dataset.modality,
        train=len(material.part("train")),
        val=len(material.part("val")),
        test=len(dataset.rows("test")),
        per_class=dict(zip(dataset.labels.names, map(int, per_class), strict=True)),
    )
    chosen = rows[evenly(len(rows), SHIFT_ROWS)]
    raw = [
        golden_batch(dataset, material.backbone, chosen[start : start + SHIFT_BATCH_ROWS])
        for start in range(0, len(chosen), SHIFT_BATCH_ROWS)
    ]
    return Facts(
        counts=counts,
        sizes=_sizes(material),
        duplicates=count_pairs(features.arrays[last], dataset.part[rows]),
        machine=_machine(material),
        distance=_distance(material, probe, measure_shift(material.backbone, raw)),
        turning=measure_turning(material, probe.pooled),
    )


def measure_shift(backbone: Backbone, batches: Sequence[State]) -> Shift | None:
    """How far these raw batches lie from the running statistics of the backbone's norms; None where it has none.

    A layer's shift is the mean over channels of |mean of the data − running mean| / running standard deviation, of
    what reaches it in evaluation mode. The backbone is left as it was.
    """
    import torch

    norms = [module for module in backbone.module.modules() if _statistics(module) is not None]
    if not norms:
        return None
    seen: dict[int, _Mean] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault(id(module), _Mean(module)).add(inputs[0])

    training = [module for module in backbone.module.modules() if module.training]
    hooks = [module.register_forward_pre_hook(look) for module in norms]
    try:
        backbone.module.eval()
        with torch.no_grad():
            for batch in batches:
                backbone.run(batch, 0, None)
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    # In the order in which they were met, which is from the input to the output.
    shifts = [entry.shift() for entry in seen.values()]
    third = max(1, len(shifts) // 3)
    return Shift(
        early=float(np.mean(shifts[:third])),
        late=float(np.mean(shifts[-third:])),
        norms=len(shifts),
        rows=sum(len(batch.h) for batch in batches),
    )


class _Mean:
    """The mean of each channel that reaches a norm, in double precision."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._count = module, 0
        self._sum: Tensor | float = 0.0

    def add(self, h: Tensor) -> None:
        channels = h.double().movedim(1, -1).flatten(0, -2)
        self._sum, self._count = self._sum + channels.sum(dim=0), self._count + len(channels)

    def shift(self) -> float:
        found = _statistics(self._module)
        assert found is not None
        mean, deviation = found
        return float(((self._sum / self._count - mean).abs() / deviation).mean())


def _statistics(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Running mean and standard deviation of a norm that carries them."""
    mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    if mean is None or variance is None:
        return None
    return mean.double(), (variance.double() + float(getattr(module, "eps", 1e-5))).sqrt()


def _sizes(material: Material) -> ImageSizes | TextLengths:
    from unfreeze.engine.batches import encoder_of

    preprocess, rows = material.backbone.preprocess, material.features.rows
    some = material.dataset.select(rows[evenly(len(rows), SIZED_ROWS)])
    if isinstance(preprocess, TextPreprocess):
        texts = audit(some, encoder=encoder_of(some, material.backbone)).texts
        assert texts is not None
        return TextLengths(
            median=texts.length.median,
            longest=texts.length.max,
            limit=preprocess.max_length,
            cut=texts.truncated or 0.0,
        )
    images = audit(some, inspect=inspect_image).images
    assert images is not None
    return ImageSizes(
        width=images.width.median,
        height=images.height.median,
        smallest=min(images.width.min, images.height.min),
        largest=max(images.width.max, images.height.max),
        side=preprocess.width,
    )


def _distance(material: Material, probe: ProbeResult, shift: Shift | None) -> Distance:
    """The probe of the pooled feature and the most similar rows, on the probe's folds and the same rows."""
    dataset, features, seed = material.dataset, material.features, material.decisions.number("seed")
    last = max(features.arrays)
    fitted = fit_rows(dataset, features)
    rows, pooled = features.rows[fitted], features.arrays[last][fitted]
    y = dataset.label[rows].astype(np.intp)
    together = material.together(rows)
    assigned = assign_folds(y, folds=PROBE_FOLDS, seed=seed, groups=together)
    some = stratified_sample(y, size=NEIGHBOUR_ROWS, seed=seed)
    held = assigned[some] != ALWAYS_TRAINED
    scored = some[held]
    alike = neighbours_right(pooled[some], y[some], assigned[some], classes=len(dataset.labels))[held]
    right = probe.pooled.oof_logits[scored].argmax(axis=1) == y[scored]
    head = probe.pooled.head
    return Distance(
        probe=float(right.mean()),
        neighbours=float(alike.mean()),
        error=paired_error(right, alike, None if together is None else together[scored]),
        learnt=float((head.logits(pooled[some]).argmax(axis=1) == y[some]).mean()),
        rows=len(scored),
        shift=shift,
    )


def _machine(material: Material) -> Machine:
    device = material.device
    return Machine(
        device=str(device),
        processor=hardware_name(device) or "unknown",
        cores=available_cores(),
        memory_bytes=free_memory(device),
    )


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on a device."""
    if device.type == "cuda":
        return free_on(device)
    return _free_memory()


def _free_memory(meminfo: Path = Path("/proc/meminfo"), control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still take: what the system has free, within its control group's limit."""
    import os

    free = int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))
    try:
        if (available := _figure(meminfo, "MemAvailable:")) is not None:
            free = available * 1024
        limit = (control_group / "memory.max").read_text(encoding="ascii").strip()
        used = int((control_group / "memory.current").read_text(encoding="ascii"))
        if limit != "max":
            free = min(free, max(0, int(limit) - used + _reclaimable(control_group)))
    except (OSError, ValueError):
        # No Linux, or no control group: what was found so far holds.
        pass
    return free


def _reclaimable(control_group: Path) -> int:
    """Bytes of files that stay in memory until it is wanted; they count as used."""
    try:
        return _figure(control_group / "memory.stat", "inactive_file") or 0
    except (OSError, ValueError):
        return 0


def _figure(path: Path, name: str) -> int | None:
    """The number behind a name at the beginning of a line; None where no line has it."""
    for line in path.read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    return None
