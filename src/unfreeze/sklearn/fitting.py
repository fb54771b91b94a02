"""From a request and rows in memory to a classifier, without a test part: whoever calls ``fit`` holds that out."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.folder import Story, save
from unfreeze.bundle.loading import load
from unfreeze.choose.settings import Decisions
from unfreeze.config import Resolved, TrainRequest
from unfreeze.contracts import State
from unfreeze.data.dataset import Dataset
from unfreeze.data.load import FRACTIONS, load_dataset
from unfreeze.engine.frozen_pass import Features, golden_batch
from unfreeze.errors import DataError, StoppedError
from unfreeze.progress import Clock, Progress
from unfreeze.runtime.labels import Labels
from unfreeze.training.choosing import write_choice
from unfreeze.training.learning import learn as learn_from_probe
from unfreeze.training.probed import probe_data
from unfreeze.training.probing import Fitted, calibrate_probe
from unfreeze.training.saving import save_settings, tell_story

GOLDEN_ROWS = 4
MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class Learned:
    """A fitted classifier with what its run folder says beside the weights; pickled as the files of that folder.

    ``settings``: what every setting came to. ``choice``: how ``auto`` came to it, as ``choice.json`` has it; None where
    a strategy was named.
    """

    classifier: Classifier
    story: Story
    golden: State
    settings: tuple[Resolved, ...]
    choice: Mapping[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Write the run folder, without the pages and numbers of a run that was tested."""
        if self.choice is not None:
            write_choice(self.choice, folder)
        save_settings(folder, self.settings)
        save(self.classifier, folder, story=self.story, golden=self.golden)

    def __reduce__(self) -> tuple[Any, ...]:
        with tempfile.TemporaryDirectory() as place:
            self.write(Path(place))
            files = {
                path.relative_to(place).as_posix(): path.read_bytes()
                for path in sorted(Path(place).rglob("*"))
                if path.is_file()
            }
        h, mask = self.golden.h, self.golden.mask
        golden = h.numpy(), None if mask is None else mask.numpy()
        return _restore, (files, self.story, *golden, self.settings, self.choice)


def _restore(
    files: dict[str, bytes],
    story: Story,
    h: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    settings: tuple[Resolved, ...],
    choice: Mapping[str, Any] | None,
) -> Learned:
    """The classifier from the files of its run folder, which are checked as ``unfreeze.load`` does."""
    import torch

    with tempfile.TemporaryDirectory() as place:
        for name, content in files.items():
            path = Path(place) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        classifier = load(Path(place)).classifier
    # Copies: joblib may have mapped them from a file that cannot be written.
    golden = State(torch.tensor(h), None if mask is None else torch.tensor(mask))
    return Learned(classifier, story, golden, settings, choice)


def learn(
    items: list[Any], names: Sequence[str], labels: Labels, request: TrainRequest, progress: Progress
) -> Learned:
    """The classifier that the request asks for, fitted on all rows; class i is name i of ``labels``.

    Strategies that thaw set validation rows apart to choose the epoch and the calibration; a probe takes both from
    its cross-validation. Rows that cannot be read are named in a warning. Raises RequestError and DataError.
    """
    clock, decisions = Clock(), Decisions(request)
    share = (FRACTIONS[1] if request.val is None else float(request.val)) if decisions.thaws else 0.0
    dataset = load_dataset(
        (items, list(names)),
        seed=decisions.number("seed"),
        fractions=(1.0 - share, share, 0.0),
        labels=labels,
    )
    probed = probe_data(dataset, decisions, clock, progress)
    material, probe = probed.material, probed.probe
    _warn_of_missing(dataset, material.features)
    floor = calibrate_probe(dataset, material.features, probe.probe, material.backbone, decisions)
    with _folder_of_a_run() as folder:
        learned = learn_from_probe(folder, material, probe, floor, probed.plan, clock)
    choice = None if learned.choice is None else learned.choice.to_dict()
    return _keep(learned.fitted, dataset, material.features, decisions, choice)


@contextmanager
def _folder_of_a_run() -> Iterator[Path]:
    """A folder for what a run writes, such as checkpoints; gone afterwards.

    A fit that was stopped ends in KeyboardInterrupt: what tries one fit after another must stop too, and not count
    this one as failed.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            yield Path(place)
        except StoppedError as problem:
            raise KeyboardInterrupt from problem


def _keep(
    fitted: Fitted,
    dataset: Dataset,
    features: Features,
    decisions: Decisions,
    choice: Mapping[str, Any] | None,
) -> Learned:
    story = tell_story(fitted, dataset, decisions)
    golden = golden_batch(dataset, fitted.classifier.backbone, features.rows[:GOLDEN_ROWS])
    return Learned(fitted.classifier, story, golden, decisions.resolved(), choice)


def _warn_of_missing(dataset: Dataset, features: Features) -> None:
    missing = [(bad.name, bad.reason) for bad in features.quarantined]
    missing += [(entry.name, entry.reason) for entry in dataset.ignored]
    if missing:
        named = "; ".join(f"{name}: {reason}" for name, reason in missing[:MOST_NAMED])
        more = "" if len(missing) <= MOST_NAMED else f"; and {len(missing) - MOST_NAMED:,} more"
        warnings.warn(f"{len(missing):,} rows were left out of the fit ({named}{more}).", stacklevel=4)


def spell(classes: NDArray[Any]) -> Labels:
    """The classes as names that stay apart: plain where that is possible, else quoted.

    Raises DataError for a single class.
    """
    if len(classes) < 2:
        raise DataError(f"y has one class only ({classes[0]!r}): a classifier needs two.")
    values = [value.item() if isinstance(value, np.generic) else value for value in classes]
    plain = [str(value).strip() for value in values]
    if "" in plain or len(set(plain)) < len(plain):
        plain = [repr(value) for value in values]
    return Labels(tuple(plain))
