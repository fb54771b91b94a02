"""A classifier of images and texts with scikit-learn's manners."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from unfreeze.config import AUTO, FIXED_BY_CLASSIC, FLOOR, STRATEGIES, TrainRequest, reads
from unfreeze.progress import Progress, Silent
from unfreeze.sklearn.inputs import describe_inputs, read_items
from unfreeze.sklearn.refusals import SETTINGS, as_value_errors

if TYPE_CHECKING:
    from unfreeze.model import Model

PREDICT_BATCH = 32


class TransferClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A pretrained network with a head, fitted to labelled images or texts by one of Unfreeze's strategies.

    The parameters are the settings of ``unfreeze train``, but for those of its columns, its test rows and its run
    folder (``unfreeze train --help`` says what each means; None takes its default). Three have other names:
    ``image_fit`` is ``--fit``, ``random_state`` is ``--seed`` (None is 0, so that a fit can be repeated), and
    ``validation_fraction`` is the share of the rows that strategies which thaw set apart to choose the epoch by
    (0.15). A setting that the strategy does not read, or that ``recipe="classic"`` fixes, is ignored, so that a grid
    may be a product. ``strategy="auto"`` tries several within ``time_limit`` in every fit, so what it finds depends
    on the speed of the machine too; all others give the same bits for the same seed. ``verbose`` prints what a fit
    says.

    X holds one input a row: a list, array or Series of image paths, PIL images, uint8 arrays (height, width, 3) or
    texts; a data frame or array with one column of those; or one uint8 array (rows, height, width, 3). All rows are
    learned from: holding some out is left to ``cross_val_score`` and its like.

    Attributes: ``classes_`` as ``np.unique(y)`` gives them; ``model_``, what ``unfreeze.load`` gives;
    ``n_features_in_`` (1) and ``feature_names_in_`` where X has a column.

    Features are computed once per content and kept on disk below ``$UNFREEZE_CACHE``, whatever fold or grid asks
    next. A pickle holds the files of a run folder, and loading one checks them as ``unfreeze.load`` does; that of a
    ``lora`` or ``adapters`` fit needs the backbone at hand again.
    """

    def __init__(
        self,
        *,
        strategy: str = FLOOR,
        recipe: str | None = None,
        backbone: str | Path | None = None,
        head: str | None = None,
        epochs: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        image_size: int | None = None,
        image_fit: str | None = None,
        max_length: int | None = None,
        truncation: str | None = None,
        pooling: str | None = None,
        freeze: int | None = None,
        layer_decay: float | None = None,
        bn: str | None = None,
        augment: str | None = None,
        views: int | None = None,
        pull_to_start: float | None = None,
        schedule: str | None = None,
        patience: int | None = None,
        label_smoothing: float | None = None,
        mixup: float | None = None,
        token_dropout: float | None = None,
        ema: float | None = None,
        interpolate: bool | None = None,
        rank: int | None = None,
        alpha: float | None = None,
        lora_dropout: float | None = None,
        targets: str | None = None,
        lora_blocks: int | None = None,
        reduction: int | None = None,
        validation_fraction: float | None = None,
        precision_target: float | None = None,
        time_limit: str | None = None,
        store: str | None = None,
        store_budget: str | None = None,
        precision: str | None = None,
        device: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.strategy = strategy
        self.recipe = recipe
        self.backbone = backbone
        self.head = head
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.image_size = image_size
        self.image_fit = image_fit
        self.max_length = max_length
        self.truncation = truncation
        self.pooling = pooling
        self.freeze = freeze
        self.layer_decay = layer_decay
        self.bn = bn
        self.augment = augment
        self.views = views
        self.pull_to_start = pull_to_start
        self.schedule = schedule
        self.patience = patience
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.token_dropout = token_dropout
        self.ema = ema
        self.interpolate = interpolate
        self.rank = rank
        self.alpha = alpha
        self.lora_dropout = lora_dropout
        self.targets = targets
        self.lora_blocks = lora_blocks
        self.reduction = reduction
        self.validation_fraction = validation_fraction
        self.precision_target = precision_target
        self.time_limit = time_limit
        self.store = store
        self.store_budget = store_budget
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """This estimator, fitted on all rows of X and their classes y.

        Nothing is written but features, into the cache folder. Raises ValueError when a setting or the data cannot
        be used.
        """
        y = validate_data(self, y=y)
        check_classification_targets(y)
        with as_value_errors():
            items = read_items(self, X, reset=True)
            check_consistent_length(items, y)
            request = self._request()
            request.check()
            from unfreeze.sklearn.fitting import learn, spell

            classes, codes = np.unique(y, return_inverse=True)
            labels = spell(classes)
            names = [labels.names[code] for code in codes]
            self._learned = learn(items, names, labels, request, self._progress())
        self.classes_ = classes
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row, of the type that y had. Raises ValueError for an unreadable row."""
        chances = self.predict_proba(X)
        return np.asarray(self.classes_[chances.argmax(axis=1)])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities (rows, classes) in the order of ``classes_``.

        Raises ValueError for a row that cannot be read, NotFittedError before ``fit``.
        """
        model = self.model_
        with as_value_errors():
            items = read_items(self, X, reset=False)
            # Every row has a class here, and one blank text must not fail a whole cross-validation.
            return model.predict_proba(items, batch_size=self.batch_size or PREDICT_BATCH, blank=True)

    @property
    def model_(self) -> Model:
        """The fitted model, with ``predict`` (top classes, abstention), ``features`` and ``labels``."""
        check_is_fitted(self, "classes_")
        from unfreeze.model import Model

        return Model(self._learned.classifier)

    @property
    def choice_(self) -> Mapping[str, Any] | None:
        """How ``strategy="auto"`` chose: floor, facts, candidates, trials and verdict; None where one was named."""
        check_is_fitted(self, "classes_")
        return self._learned.choice

    def save(self, folder: str | Path) -> Path:
        """The folder, written as a run that ``unfreeze.load``, ``predict`` and ``evaluate`` read.

        Raises ValueError when it is taken, NotFittedError before ``fit``.
        """
        check_is_fitted(self, "classes_")
        from unfreeze.bundle.claim import claimed

        with as_value_errors(), claimed(Path(folder)):
            self._learned.write(Path(folder))
        return Path(folder)

    def __sklearn_tags__(self) -> Any:
        return describe_inputs(super().__sklearn_tags__())

    def _request(self) -> TrainRequest:
        values = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        values["random_state"] = _seed(self.random_state)
        del values["verbose"]
        known = {SETTINGS.get(name, name): value for name, value in values.items()}
        read = {name: value for name, value in known.items() if _reads(self.strategy, self.recipe, name)}
        # Weights that are not taken would be measured for nothing: an estimator has no place for them.
        return TrainRequest(data=None, keep_both=False, **read)

    def _progress(self) -> Progress:
        return Printing() if self.verbose else Silent()


class Printing:
    """Prints sentences as they come."""

    def say(self, sentence: str) -> None:
        """Print the sentence."""
        print(sentence, flush=True)

    def count(self, what: str, done: int, total: int) -> None:
        """Drop the count: lines in a notebook stay there."""


def _reads(strategy: str, recipe: str | None, setting: str) -> bool:
    """Whether the strategy looks at a setting; one that is unknown reads all, and is refused for its name."""
    if recipe == "classic":
        return setting != "time_limit" and setting not in FIXED_BY_CLASSIC
    if setting == "time_limit":
        return strategy == AUTO
    return strategy not in (AUTO, *STRATEGIES) or reads(strategy, setting)


def _plain(value: Any) -> Any:
    """The value as settings know it: grids hold numpy's numbers, and a backbone may be a path."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _seed(random_state: Any) -> int:
    """The seed of a ``random_state``: a number itself, 0 for None, else a draw."""
    if random_state is None:
        return 0
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))
