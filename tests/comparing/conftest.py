"""Made-up cells, and a training that costs nothing."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from unfreeze.bundle.claim import UNFINISHED
from unfreeze.comparing.cells import CellResult

ROWS = 200


@pytest.fixture
def make_cell():
    """Builds a finished cell that answers ``right`` of its test rows (a list of booleans) rightly."""

    def make(strategy="feature-extraction", right=(), *, seed=0, size=None, truth=None, **changes):
        right = np.asarray(right, dtype=bool)
        truth = np.arange(len(right)) % 2 if truth is None else np.asarray(truth)
        answers = np.where(right, truth, (truth + 1) % 2)
        share = float(right.mean())
        given = {
            "strategy": strategy,
            "seed": seed,
            "size": size,
            "backbone": "toy",
            "state": "finished",
            "accuracy": share,
            "accuracy_low": share - 0.03,
            "accuracy_high": share + 0.03,
            "balanced_accuracy": share,
            "balanced_accuracy_low": share - 0.04,
            "balanced_accuracy_high": share + 0.04,
            "labels": ("cat", "dog"),
            "truth": tuple(truth.tolist()),
            "answers": tuple(answers.tolist()),
            "rows_hash": f"rows of seed {seed}",
            "learned_from": size or 500,
            "trained": 1_000,
            "parameters": 100_000,
            "seconds": 10.0,
            "peak_bytes": 900_000_000,
        }
        return CellResult(**(given | changes))

    return make


@pytest.fixture
def share_right():
    """Booleans of which the first ``count`` of 200 are true, moved on by ``start``."""

    def make(count, start=0, rows=ROWS):
        return np.roll(np.arange(rows) < count, start)

    return make


@dataclass
class Trainer:
    """Stands for ``train``: copies a finished run, and keeps what it was asked for.

    ``raises`` holds what the training of a (strategy, seed) raises; ``before`` is called first.
    """

    source: object
    asked: list = field(default_factory=list)
    raises: dict = field(default_factory=dict)
    before: object = lambda request: None

    def __call__(self, request, *, progress=None, command=None):
        self.asked.append(request)
        self.before(request)
        problem = self.raises.get((request.strategy, request.seed))
        folder = Path(request.output_dir)
        if problem is not None:
            (folder / "checkpoints").mkdir(parents=True)
            (folder / UNFINISHED).touch()
            raise problem
        (folder / UNFINISHED).unlink(missing_ok=True)
        # A resumed run's folder is there already.
        shutil.copytree(self.source.folder, folder, copy_function=os.link, dirs_exist_ok=True)
        return replace(self.source, folder=folder, strategy=request.strategy)

    @property
    def cells(self):
        return [(request.strategy, request.seed) for request in self.asked]


@pytest.fixture(scope="session")
def loaded():
    """Backbones by name and size: loading one costs more than everything else here."""
    return {}


@pytest.fixture
def opened_once(loaded, monkeypatch):
    """No backbone is loaded twice."""
    from unfreeze.training.prepare import open_backbone

    def open_once(dataset, decisions, progress):
        key = (decisions.request.backbone, decisions.request.image_size)
        if key not in loaded:
            loaded[key] = open_backbone(dataset, decisions, progress)
        return loaded[key]

    for room in ("run", "ranking"):
        monkeypatch.setattr(f"unfreeze.comparing.{room}.open_backbone", open_once)


@pytest.fixture
def trainer(image_run, opened_once, monkeypatch):
    made = Trainer(image_run.run)
    monkeypatch.setattr("unfreeze.comparing.cells.train", made)
    monkeypatch.setattr("unfreeze.comparing.meter._give_back", lambda: None)
    return made
