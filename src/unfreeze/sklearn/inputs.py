"""From X as scikit-learn hands it around to a list of raw inputs."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import validate_data

from unfreeze.errors import DataError

KINDS = "image paths, PIL images, uint8 arrays or texts"


def read_items(estimator: Any, X: Any, *, reset: bool) -> list[Any]:
    """The raw inputs of X, one a row; notes (``reset``) or checks the column's name where X has columns.

    X: a list, array or Series of image paths, PIL images, uint8 arrays or texts; a data frame or array with one
    column of those; or one uint8 array (rows, height, width[, channels]). Raises DataError for anything else.
    """
    if X is None or isinstance(X, str | bytes | PathLike | dict) or hasattr(X, "convert"):
        raise DataError(f"X is a single {type(X).__name__}: give a list of {KINDS}, even of one.")
    if issparse(X):
        raise DataError(f"Sparse input is not supported: X must hold {KINDS}.")
    if reset:
        for name in ("n_features_in_", "feature_names_in_"):
            vars(estimator).pop(name, None)
    items = _unpack(X)
    if not items:
        raise DataError(f"X has 0 sample(s): give at least one of {KINDS}.")
    if len(getattr(X, "shape", ())) == 2:
        # Rows without columns have no names to compare.
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    return items


def describe_inputs(tags: Any) -> Any:
    """The estimator tags of what ``read_items`` reads; a two-dimensional X has one column."""
    tags.input_tags.one_d_array = True
    tags.input_tags.two_d_array = True
    tags.input_tags.three_d_array = True
    tags.input_tags.string = True
    return tags


def _unpack(X: Any) -> list[Any]:
    if isinstance(X, list | tuple):
        if X and all(isinstance(item, list | tuple) for item in X):
            return _one_column(np.array(X, dtype=object))
        return list(X)
    # Data frames and Series of any library know this; what else is like an array is made one.
    array = X.to_numpy() if hasattr(X, "to_numpy") else np.asarray(X)
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        return list(array)
    if array.dtype.kind in "OUT":
        return _one_column(array)
    raise DataError(
        f"X is an array of {array.dtype} with shape {array.shape}, and no image or text is read from numbers in "
        f"columns: give {KINDS}. Pictures in one array are uint8 of shape (rows, height, width, 3)."
    )


def _one_column(array: Any) -> list[Any]:
    """The values of an array of objects or strings with one column at most."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"X has the shape {array.shape}: give one column that holds {KINDS}, such as frame[['photo']]."
        )
    return list(array.tolist())
