"""A trained classifier that predicts: what ``unfreeze.load`` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.loading import load as load_folder
from unfreeze.bundle.places import run_folder
from unfreeze.contracts import Executor
from unfreeze.data.dataset import Dataset, Samples
from unfreeze.data.inputs import open_inputs, open_items, unlabelled
from unfreeze.engine.batches import CHUNK_TEXTS
from unfreeze.engine.frozen_pass import compute_features
from unfreeze.errors import RequestError
from unfreeze.evaluate.calibration import softmax
from unfreeze.executors import build_executor
from unfreeze.runtime.predictions import Prediction
from unfreeze.runtime.reading import told_of_cut

# Rows that are read, run and answered together: bounds memory, and is far above any batch.
CHUNK_ROWS = 2048
# Compiling another executor takes seconds; below this many rows plain PyTorch has finished by then.
COMPILE_ROWS = 500


def load(path: str | Path) -> Model:
    """The model of a run folder or its URL, after checking that it is whole and still gives its golden answers.

    Raises RequestError when the folder is no finished run, was changed, or was made by a newer version.
    """
    return Model(load_folder(run_folder(path)).classifier)


class Model:
    """Predicts classes of raw inputs: image files, PIL images, arrays, or strings."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        # For few and for many rows; compiling one again for each chunk would cost more than a small chunk does.
        self._executors: dict[bool, Executor] = {}
        # Texts that were longer than what is read.
        self.cut = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names; column i of every array of probabilities belongs to name i."""
        return self.classifier.labels.names

    def predict(self, inputs: Any, *, top_k: int = 1, batch_size: int = 32) -> list[Prediction]:
        """One prediction for each input, in order; an input that cannot be read has an ``error`` and no label.

        ``inputs``: one input or a sequence of them. For an image model a string or a path names a file.
        """
        return list(self.iterate(self._samples(inputs), top_k=top_k, batch_size=batch_size))

    def predict_proba(self, inputs: Any, *, batch_size: int = 32, blank: bool = False) -> NDArray[np.float64]:
        """Calibrated probabilities (inputs, classes). Raises RequestError when an input cannot be read.

        ``blank``: a text of nothing but white space is answered as what it holds, no token, instead.
        """
        samples = open_items(inputs, modality=self.classifier.backbone.modality, blank=blank)
        probabilities, errors = self.probabilities(samples, batch_size=batch_size)
        if errors:
            row, reason = next(iter(errors.items()))
            raise RequestError(f"{samples.name(row)} cannot be read: {reason}.")
        return probabilities

    def features(self, inputs: Any, *, batch_size: int = 32) -> NDArray[np.float32]:
        """What the head reads, float32 (inputs, width). Raises RequestError when an input cannot be read."""
        samples = self._samples(inputs)
        features, errors = self._features(samples, batch_size=batch_size)
        if errors:
            row, reason = next(iter(errors.items()))
            raise RequestError(f"{samples.name(row)} cannot be read: {reason}.")
        return features

    def iterate(
        self, samples: Samples, *, top_k: int = 1, batch_size: int = 32, expected_rows: int | None = None
    ) -> Iterator[Prediction]:
        """Predictions in order, a chunk at a time, so that memory does not grow with the number of inputs.

        ``expected_rows``: of all samples that these are a part of; it decides what is worth compiling.
        """
        for start in range(0, len(samples), CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, len(samples)))
            chunk = samples.select(rows)
            probabilities, errors = self.probabilities(
                chunk, batch_size=batch_size, expected_rows=expected_rows or len(samples)
            )
            for row in range(len(chunk)):
                if row in errors:
                    yield Prediction.unread(chunk.name(row), errors[row])
                else:
                    yield self.answer(chunk.name(row), probabilities[row], top_k)

    def probabilities(
        self, samples: Samples, *, batch_size: int = 32, expected_rows: int | None = None
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        """Calibrated probabilities (rows, classes), NaN for unreadable rows, and why those cannot be read."""
        probabilities = np.empty((len(samples), len(self.labels)))
        errors: dict[int, str] = {}
        # Features of a million rows would take gigabytes. Texts are sorted by length within as many anyway, so that
        # the batches are those of all rows at once.
        for start in range(0, len(samples), CHUNK_TEXTS):
            rows = np.arange(start, min(start + CHUNK_TEXTS, len(samples)))
            features, bad = self._features(
                samples.select(rows), batch_size=batch_size, expected_rows=expected_rows or len(samples)
            )
            probabilities[rows] = softmax(self.classifier.head.logits(features), self.classifier.temperature)
            errors |= {start + row: reason for row, reason in bad.items()}
        return probabilities, errors

    def notes(self, rows: int) -> tuple[str, ...]:
        """What is to be known of the answers given so far, to so many rows, as sentences."""
        return told_of_cut(self.classifier.backbone.preprocess, self.cut, rows)

    def open_inputs(
        self,
        inputs: Sequence[str],
        *,
        lines: Sequence[str] | None = None,
        column: str | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Samples:
        """The inputs of a command line (files, folders, globs, tables, ``-``) as samples; see ``data.inputs``."""
        modality = self.classifier.backbone.modality
        return open_inputs(inputs, modality=modality, lines=lines, column=column, tell=tell)

    def _samples(self, inputs: Any) -> Samples:
        return open_items(inputs, modality=self.classifier.backbone.modality)

    def _features(
        self, samples: Samples, *, batch_size: int, expected_rows: int | None = None
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        backbone, boundaries = self.classifier.backbone, self.classifier.head.boundaries
        dataset = unlabelled(samples, modality=backbone.modality, labels=self.classifier.labels)
        executor = self._executor(dataset, expected_rows or len(samples))
        passed = compute_features(
            dataset,
            backbone,
            executor=executor,
            rows=np.arange(len(dataset)),
            boundaries=tuple(sorted(boundaries)),
            batch_size=batch_size,
        )
        self.cut += passed.cut
        joined = passed.joined(boundaries)
        features = np.full((len(dataset), joined.shape[1]), np.nan, dtype=np.float32)
        features[passed.rows] = joined
        return features, {bad.row: bad.reason for bad in passed.quarantined}

    def _executor(self, dataset: Dataset, rows: int) -> Executor:
        """PyTorch for a few rows; for many what is fastest, with its error measured on some of them, as in training."""
        backbone, boundaries = self.classifier.backbone, tuple(sorted(self.classifier.head.boundaries))
        many = rows >= COMPILE_ROWS
        if many not in self._executors:
            if many:
                from unfreeze.engine.choice import choose_executor

                every = np.arange(len(dataset))
                self._executors[many] = choose_executor(
                    backbone, dataset, boundaries=boundaries, device="cpu", precision="fp32", rows=every
                ).executor
            else:
                self._executors[many] = build_executor("torch-fp32", backbone, boundaries=boundaries)
        return self._executors[many]

    def answer(self, name: str, probabilities: NDArray[np.float64], top_k: int) -> Prediction:
        """The prediction that calibrated probabilities (classes,) of an input come to."""
        limit = self.classifier.threshold
        threshold = None if limit is None else limit.probability
        return Prediction.of(name, probabilities, self.labels, threshold=threshold, top_k=top_k)
