"""What both models are worth on the target's own labels, which are opened when all is decided and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.opening import open_truth
from unfreeze.adapting.request import AdaptRequest
from unfreeze.data.dataset import Dataset
from unfreeze.data.digests import as_keys
from unfreeze.data.reading import content_hashes
from unfreeze.engine.threads import reading_threads
from unfreeze.errors import DataError
from unfreeze.evaluation import score_model
from unfreeze.model import load
from unfreeze.progress import Progress


@dataclass(frozen=True)
class Truth:
    """``scores``: accuracy, balanced accuracy and macro F1 by the name of the model.

    ``left_out``: how many rows of the target are not scored, since they hold what a given label was learnt from.
    """

    scores: Mapping[str, Mapping[str, float]]
    left_out: int


def look_up(request: AdaptRequest, folder: Path, named: Dataset | None, progress: Progress) -> Truth:
    """The scores of the source's model and of the one in ``folder``, on the same rows: none of the ``named`` ones.

    Raises RequestError or DataError where the target has no labels that can be read, or none but the given ones.
    """
    models = {"source model": load(request.run), "this model": load(folder)}
    own = open_truth(request, models["this model"].classifier)
    rows = _not_taught(own, named)
    if not len(rows):
        raise DataError(f"The labels of all {len(own):,} rows of {own.source} were learnt from.")
    progress.say(f"{len(rows):,} rows to score.")
    chosen, scores = own.select(rows), {}
    for name, model in models.items():
        found, _ = score_model(model, chosen)
        scores[name] = {
            "accuracy": found.accuracy,
            "balanced_accuracy": found.balanced_accuracy,
            "macro_f1": found.macro_f1,
        }
    return Truth(scores, len(own) - len(rows))


def _not_taught(own: Dataset, named: Dataset | None) -> NDArray[np.intp]:
    """The rows that hold nothing of what was named: a model knows by heart what it has learnt from."""
    if named is None:
        return np.arange(len(own))
    here, taught = (content_hashes(one.samples, threads=reading_threads(None))[0] for one in (own, named))
    # A row that cannot be read has no hash.
    known = np.isin(as_keys(here), as_keys(taught)) & here.any(axis=1)
    return np.flatnonzero(~known)
