"""Features of a pretrained network as a step before other estimators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from unfreeze.config import TrainRequest
from unfreeze.errors import DataError, RequestError
from unfreeze.progress import Silent
from unfreeze.sklearn.inputs import describe_inputs, read_items
from unfreeze.sklearn.refusals import as_value_errors

if TYPE_CHECKING:
    from unfreeze.contracts import Backbone, Modality
    from unfreeze.data.dataset import Dataset

# As in training.
BATCH = 32


class TransferFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The pooled features of images or texts from a network that stays as it is; nothing is learned from X or y.

    It stands before any estimator, and beside others in a ``ColumnTransformer``. ``backbone`` is a pretrained network
    or the folder of a finished run, whose features were tuned: on other rows, which is the point. Features tuned on
    the very rows that the next estimator is fitted on look better to it than they are for new rows, so
    ``TransferClassifier`` has no ``transform``.

    The parameters are settings of ``unfreeze train``; ``image_fit`` is its ``--fit``. X is what ``TransferClassifier``
    takes. Features are computed once per content and kept on disk, as float16, below ``$UNFREEZE_CACHE``
    (``store="off"``: neither). A pickle holds the name and the hash of the network, not its weights.

    Attributes: ``executor_`` and ``device_``, what computes; ``weights_hash_``; ``n_features_in_`` (1) and
    ``feature_names_in_`` where X has a column.
    """

    def __init__(
        self,
        *,
        backbone: str | Path | None = None,
        image_size: int | None = None,
        image_fit: str | None = None,
        max_length: int | None = None,
        truncation: str | None = None,
        pooling: str | None = None,
        batch_size: int | None = None,
        store: str | None = None,
        precision: str | None = None,
        device: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.image_size = image_size
        self.image_fit = image_fit
        self.max_length = max_length
        self.truncation = truncation
        self.pooling = pooling
        self.batch_size = batch_size
        self.store = store
        self.precision = precision
        self.device = device

    def fit(self, X: Any, y: Any = None) -> Self:
        """This transformer, with its network loaded and what runs it chosen on up to 32 rows of X.

        Raises ValueError when a setting or X cannot be used.
        """
        with as_value_errors():
            items = read_items(self, X, reset=True)
            self._request().check()
            from unfreeze.data.memory import read_pair
            from unfreeze.data.rows import Columns
            from unfreeze.engine.choice import choose_executor
            from unfreeze.training.prepare import boundaries_of

            self._modality: Modality = read_pair((items, ["any"] * len(items)), Columns()).modality
            self._opened = self._open()
            dataset = self._dataset(items)
            choice = choose_executor(
                self._opened,
                dataset,
                boundaries=boundaries_of(self._opened),
                device=self.device or "auto",
                precision=self.precision or "auto",
                rows=np.arange(len(dataset)),
            )
        self.weights_hash_ = self._opened.weights_hash
        self.executor_, self.device_ = choice.name, choice.executor.device
        self._n_features_out = self._opened.dim
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Features, float32 (rows, width of the network). Raises ValueError for a row that cannot be read."""
        check_is_fitted(self, "weights_hash_")
        with as_value_errors():
            dataset = self._dataset(read_items(self, X, reset=False))
            from unfreeze.engine.choice import LazyExecutor
            from unfreeze.engine.frozen_pass import compute_features, open_store
            from unfreeze.executors import build_executor
            from unfreeze.runtime.files import cache_root
            from unfreeze.training.prepare import boundaries_of

            backbone = self._network()
            # All of them, as in training: rows that it has stored serve here, and the other way round.
            boundaries = boundaries_of(backbone)
            executor = LazyExecutor(
                self.executor_,
                boundaries,
                self.device_,
                lambda: build_executor(
                    self.executor_,
                    backbone,
                    boundaries=boundaries,
                    cache_dir=cache_root() / "executors",
                    device=self.device_,
                ),
            )
            passed = compute_features(
                dataset,
                backbone,
                executor=executor,
                rows=np.arange(len(dataset)),
                boundaries=boundaries[-1:],
                store=open_store(backbone, executor, boundaries, use=self.store or "auto"),
                batch_size=self.batch_size or BATCH,
            )
            if passed.quarantined:
                bad = passed.quarantined[0]
                raise DataError(f"{bad.name} cannot be read: {bad.reason}.")
        return passed.arrays[boundaries[-1]]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_opened"}

    def __sklearn_tags__(self) -> Any:
        tags = describe_inputs(super().__sklearn_tags__())
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _request(self) -> TrainRequest:
        backbone = None if self.backbone is None else str(self.backbone)
        return TrainRequest(
            data=None,
            backbone=backbone,
            image_size=self.image_size,
            fit=self.image_fit,
            max_length=self.max_length,
            truncation=self.truncation,
            pooling=self.pooling,
            batch_size=self.batch_size,
            store=self.store,
            precision=self.precision,
            device=self.device,
        )

    def _dataset(self, items: list[Any]) -> Dataset:
        from unfreeze.data.inputs import open_items, unlabelled
        from unfreeze.runtime.labels import Labels

        # A blank text has features too: a pipeline must not end at one empty cell of a column.
        samples = open_items(items, modality=self._modality, blank=True)
        return unlabelled(samples, modality=self._modality, labels=Labels(()))

    def _open(self) -> Backbone:
        from unfreeze.choose.settings import Decisions
        from unfreeze.training.prepare import open_backbone

        return open_backbone(self._dataset([""]), Decisions(self._request()), Silent())

    def _network(self) -> Backbone:
        """The network that was fitted with, loaded again where this came out of a pickle."""
        if "_opened" not in vars(self):
            opened = self._open()
            if opened.weights_hash != self.weights_hash_:
                raise RequestError(
                    f"{opened.name} has other weights here than where this was fitted: fit it again."
                )
            self._opened = opened
        return self._opened
