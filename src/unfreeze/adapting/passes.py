"""Both domains through the run's network: features at every depth, varied views, and the target's own statistics."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.moments import Features
from unfreeze.backbones import rehash
from unfreeze.choose.settings import Decisions
from unfreeze.config import TrainRequest
from unfreeze.contracts import Backbone, Executor, State
from unfreeze.data.chance import order
from unfreeze.data.dataset import Dataset
from unfreeze.engine.batches import golden_batch
from unfreeze.engine.choice import ERROR_ROWS_OF_TRAINED, choose_executor, executor_of_trained, spread
from unfreeze.engine.frozen_pass import Features as Passed
from unfreeze.engine.frozen_pass import FeatureStore, compute_features, open_store
from unfreeze.plan import Phase, Plan
from unfreeze.progress import Progress
from unfreeze.training.material import Material
from unfreeze.training.prepare import boundaries_of

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm

# Rows that running statistics are estimated from: their error is a few hundredths of a deviation by then.
STATISTICS_ROWS = 512
STATISTICS_BATCH = 64
# Inner tokens that a strongly varied text loses.
TOKEN_DROPOUT = 0.1
BATCH = 32


@dataclass(frozen=True, eq=False)
class Passes:
    """The network of a run, with what runs it and where its features are kept."""

    backbone: Backbone
    executor: Executor
    store: FeatureStore | None
    seed: int
    progress: Progress

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        dataset: Dataset,
        rows: NDArray[np.intp],
        *,
        device: str,
        seed: int,
        progress: Progress,
    ) -> Passes:
        """What runs the network, chosen as for a training, with its error measured on some of these rows.

        In fp32: small gains must not drown in a lower precision. Engines within that error share what is stored.
        """
        boundaries = boundaries_of(backbone)
        choice = choose_executor(
            backbone, dataset, boundaries=boundaries, device=device, precision="fp32", rows=rows
        )
        progress.say(f"Executor {choice.name}: {choice.reason}")
        store = open_store(backbone, choice.executor, boundaries, progress=progress)
        return cls(backbone, choice.executor, store, seed, progress)

    def features(self, dataset: Dataset, rows: NDArray[np.intp], what: str) -> Passed:
        """The rows at every depth, from the store as far as it has them."""
        return compute_features(
            dataset,
            self.backbone,
            executor=self.executor,
            store=self.store,
            rows=rows,
            boundaries=self.executor.boundaries,
            batch_size=BATCH,
            progress=lambda done, total: self.progress.count(f"Frozen pass, {what}", done, total),
        )

    def material(self, dataset: Dataset, passed: Passed) -> Material:
        """The rows of a pass, which are decoded or tokenised once for all that varies them."""
        decisions = Decisions(TrainRequest(data=dataset.source, seed=self.seed))
        return Material(dataset, self.backbone, passed, self.executor, decisions, self.progress)

    def strong(self, material: Material, what: str) -> Features:
        """One strongly varied view of each row: a crop, colours, blur; of a text some tokens are left out."""
        modality = material.dataset.modality
        views = Plan(
            strategy="views",
            phases=(Phase(name="views", epochs=1),),
            augment="strong" if modality == "image" else "none",
            token_dropout=TOKEN_DROPOUT if modality == "text" else 0.0,
        )
        inputs = material.inputs(views)
        found = {boundary: np.empty_like(block) for boundary, block in material.features.arrays.items()}
        done = 0
        for rows in inputs.batches(self.seed, 0, BATCH):
            summaries = self.executor(inputs.batch(rows, 0)).summaries
            for boundary, summary in zip(self.executor.boundaries, summaries, strict=True):
                found[boundary][rows] = summary.numpy()
            done += len(rows)
            self.progress.count(f"Varied views, {what}", done, len(inputs))
        return found

    def restated(self, material: Material, rows: NDArray[np.intp]) -> Backbone:
        """A copy of the network with running statistics of these rows, by their positions in the material."""
        inputs = material.inputs()
        changed = copy.deepcopy(self.backbone)
        some = rows[order(self.seed, 0, len(rows))[:STATISTICS_ROWS]]
        restate(changed, [inputs.batch(part, None) for part in _cut(some)], device=self.executor.device)
        return rehash(changed)

    def features_in(
        self,
        changed: Backbone,
        boundaries: tuple[int, ...],
        dataset: Dataset,
        rows: NDArray[np.intp],
        what: str,
    ) -> Features:
        """The rows in a changed copy of the network; nothing of them is stored."""
        some = spread(rows, ERROR_ROWS_OF_TRAINED)
        executor = executor_of_trained(
            changed, boundaries, like=self.executor, batch=lambda: golden_batch(dataset, self.backbone, some)
        ).executor
        return compute_features(
            dataset,
            changed,
            executor=executor,
            rows=rows,
            boundaries=boundaries,
            batch_size=BATCH,
            progress=lambda done, total: self.progress.count(f"Frozen pass, {what}", done, total),
        ).arrays


def has_statistics(backbone: Backbone) -> bool:
    """Whether the network keeps running statistics that can be estimated anew."""
    return bool(_running(backbone))


def restate(backbone: Backbone, batches: list[State], *, device: str) -> None:
    """Replace the running statistics by those of the batches, in place; weights stay as they are."""
    import torch

    layers = _running(backbone)
    momenta = [layer.momentum for layer in layers]
    backbone.module.to(device)
    for layer in layers:
        layer.reset_running_stats()
        # None averages over all batches alike.
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for batch in batches:
            backbone.run(batch, 0, None)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    backbone.module.eval()
    backbone.module.to("cpu")


def _running(backbone: Backbone) -> list[_BatchNorm]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return [
        module
        for module in backbone.module.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def _cut(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Batches of at least two rows: one row has no spread."""
    count = max(1, len(rows) // STATISTICS_BATCH)
    return np.array_split(rows, count)
