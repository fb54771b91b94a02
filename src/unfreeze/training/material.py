"""What trainings and trials are made of: the rows that are not test, decoded or tokenised once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from unfreeze.arrays import allocate
from unfreeze.choose.settings import Decisions
from unfreeze.config import bytes_of
from unfreeze.contracts import Backbone, Executor
from unfreeze.data.dataset import Dataset, Part
from unfreeze.data.reading import content_hash, read_images, read_raw
from unfreeze.data.tokens import TokenRows, Tokens
from unfreeze.engine.batches import CHUNK_TEXTS, blank_sample
from unfreeze.engine.choice import (
    ERROR_ROWS_OF_TRAINED,
    ExecutorChoice,
    executor_of_trained,
    spread,
)
from unfreeze.engine.frozen_pass import Features
from unfreeze.engine.ranks import ALONE, Ranks
from unfreeze.engine.threads import reading_threads
from unfreeze.errors import DataError
from unfreeze.executors import build_executor
from unfreeze.grafts import attach, refuse_broken
from unfreeze.heads.folds import held_together
from unfreeze.plan import Plan
from unfreeze.progress import Progress
from unfreeze.runtime.decode import Quarantined
from unfreeze.runtime.files import cache_root
from unfreeze.runtime.preprocess import ImagePreprocess, TextPreprocess
from unfreeze.runtime.texts import as_text

if TYPE_CHECKING:
    import torch

    from unfreeze.engine.estimate import Use
    from unfreeze.engine.inputs import ImageInputs, TextInputs
    from unfreeze.engine.storing import StoringMaker
    from unfreeze.engine.task import Rows, Task


@dataclass(frozen=True, eq=False)
class Material:
    """The readable rows that are not test, with all that a training of any of them needs.

    Rows are positions in the data set, as ``features.rows`` are. ``ranks``: the processes that run plans on
    it together.
    """

    dataset: Dataset
    backbone: Backbone
    features: Features
    executor: Executor
    decisions: Decisions
    progress: Progress
    ranks: Ranks = ALONE

    @property
    def device(self) -> torch.device:
        """Where trainings run: beside the frozen pass."""
        import torch

        return torch.device(self.executor.device)

    def part(self, part: Part) -> NDArray[np.intp]:
        """The readable rows of a part."""
        readable = self.features.rows
        return readable[np.isin(readable, self.dataset.rows(part))]

    def grafted(self, plan: Plan) -> Backbone:
        """A copy of the backbone to train, with the plan's graft; RequestError where it does not run with it."""
        trained = copy.deepcopy(self.backbone)
        if plan.graft is None:
            return trained
        trained = attach(trained, plan.graft, seed=self.decisions.number("seed"))
        refuse_broken(trained, plan.graft, blank_sample(trained.preprocess))
        return trained

    def task(
        self, plan: Plan, train: NDArray[np.intp], val: NDArray[np.intp] | None, *, seed: int | None = None
    ) -> Task:
        """Training and validation rows for the plan; ``seed``: another one than the run's."""
        from unfreeze.engine.devices import precisions
        from unfreeze.engine.task import Task

        return Task(
            train=self._rows(plan, train),
            val=None if val is None else self._rows(plan, val),
            seed=self.decisions.number("seed") if seed is None else seed,
            device=self.device,
            class_weight=self._class_weight(train),
            precisions=precisions(self.device, self.decisions.text("precision")),
        )

    def maker(
        self, trained: Backbone, plan: Plan, task: Task, should_stop: Callable[[], bool] = lambda: False
    ) -> StoringMaker:
        """What decides for each phase whether its frozen prefix is stored."""
        from unfreeze.engine.storing import StoringMaker

        engine = self.executor.name.partition("-")[0]
        return StoringMaker(
            backbone=trained,
            task=task,
            phases=plan.phases,
            views=plan.views,
            batch_size=plan.batch_size,
            use=cast("Use", self.decisions.text("store")),
            budget=bytes_of(self.decisions.text("store_budget")),
            build=lambda keep: build_executor(
                f"{engine}-fp32", trained, boundaries=(), keep=keep, device=str(self.device)
            ),
            folder=cache_root() / "prefix",
            augmented=plan.augment != "none" or plan.token_dropout > 0,
            should_stop=should_stop,
        )

    def exact_executor(self, network: Backbone, rows: NDArray[np.intp]) -> ExecutorChoice:
        """An fp32 executor for measuring a network whose weights are new at its end; some of ``rows`` prove it."""
        some = self.places(spread(rows, ERROR_ROWS_OF_TRAINED))
        return executor_of_trained(
            network,
            (len(network.stages),),
            like=self.executor,
            # Decoded already: a file that is gone by now must not cost the training.
            batch=lambda: self.inputs().batch(some, None),
        )

    def places(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Where these rows stand among the features."""
        return np.searchsorted(self.features.rows, rows)

    def together(self, rows: NDArray[np.intp]) -> NDArray[np.intp] | None:
        """Codes of what of these rows must be held out together; None where each stands for itself."""
        return held_together(self.keys(rows), self.dataset.groups_of(rows))

    def keys(self, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
        """A number for what each of these rows holds, equal where they hold the same."""
        return self.features.keys[self.places(rows)]

    def _rows(self, plan: Plan, rows: NDArray[np.intp]) -> Rows:
        from unfreeze.engine.task import Rows

        return Rows(self.inputs(plan).select(self.places(rows)), self.dataset.label[rows].astype(np.int64))

    def inputs(self, plan: Plan | None = None) -> ImageInputs | TextInputs:
        """All rows, in the order of the features, varied as the plan says; without one, as they are."""
        from unfreeze.engine.inputs import TextInputs

        if isinstance(self.backbone.preprocess, TextPreprocess):
            pad, seed = self.backbone.preprocess.pad_id, self.decisions.number("seed")
            dropout = plan.token_dropout if plan else 0.0
            return TextInputs(self._tokens, self.features.keys, pad, seed, self.device, dropout)
        return self._images.varied(plan.augment if plan else "none")

    @cached_property
    def _images(self) -> ImageInputs:
        """The squares of all rows, of which the inputs of every part and trial are made."""
        from unfreeze.engine.inputs import ImageInputs

        return ImageInputs(
            self._squares, self.features.keys, "none", self.decisions.number("seed"), self.device
        )

    @cached_property
    def _readable(self) -> Dataset:
        return self.dataset.select(self.features.rows)

    @cached_property
    def _squares(self) -> NDArray[np.uint8]:
        """Pixels of all rows, uint8 (rows, height, width, 3). DataError for a file that has vanished or changed."""
        preprocess, count = self.backbone.preprocess, len(self._readable)
        assert isinstance(preprocess, ImagePreprocess)
        squares = allocate((count, preprocess.height, preprocess.width, 3), np.uint8)
        samples = self._readable.samples
        read = read_images(samples, np.arange(count), preprocess, threads=reading_threads(None))
        for row, picture, digest in read:
            if isinstance(picture, Quarantined):
                raise _vanished(picture)
            self._check_same(row, digest)
            squares[row] = picture
            self.progress.count("Decoded for training", row + 1, count)
        return squares

    @cached_property
    def _tokens(self) -> TokenRows:
        """Token ids of all rows. DataError for a text that has vanished or changed."""
        preprocess, samples = self.backbone.preprocess, self._readable.samples
        assert isinstance(preprocess, TextPreprocess)
        kept = (self.dataset.tokens or Tokens()).of(preprocess, self.backbone.assets["tokenizer.json"])
        places = [np.zeros(0, dtype=np.intp)]
        for start in range(0, len(samples), CHUNK_TEXTS):
            texts: list[str] = []
            for row in range(start, min(start + CHUNK_TEXTS, len(samples))):
                raw = read_raw(samples, row)
                if isinstance(raw, Quarantined):
                    raise _vanished(raw)
                self._check_same(row, content_hash(raw))
                texts.append(as_text(raw))
            places.append(kept.places(texts))
        return TokenRows(kept, np.concatenate(places))

    def _check_same(self, row: int, digest: bytes) -> None:
        """Features and keys were made of what a row held then, by the first process of several."""
        if digest != self.features.digests[row].tobytes():
            before = "it was when this training began" if self.ranks.leads else "the first process has read"
            raise DataError(
                f"{self._readable.samples.name(row)} is not what {before}: nothing may change the data while they are "
                "trained on, and all processes need the same."
            )

    def _class_weight(self, rows: NDArray[np.intp]) -> NDArray[np.float32] | None:
        if self.decisions.text("class_weight") != "balanced":
            return None
        counts = np.bincount(self.dataset.label[rows], minlength=len(self.dataset.labels))
        return (len(rows) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def _vanished(row: Quarantined) -> DataError:
    return DataError(f"{row.name} could be read before and now cannot: {row.reason}.")
