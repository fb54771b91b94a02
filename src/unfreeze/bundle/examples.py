"""Examples: rows of the training data that a run carries, so that an answer can be shown beside what it resembles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.folder import EXAMPLES
from unfreeze.bundle.schema import BundleFile
from unfreeze.errors import RequestError
from unfreeze.runtime.files import file_hash


@dataclass(frozen=True, eq=False)
class Examples:
    """Training rows by position.

    ``features``: fp16 (rows, width), what the head reads, each of length 1. ``labels``: int32 (rows,), indices of the
    run's labels. ``names``: what a person calls them. ``shown``: a small JPEG of each, or the beginning of its text.
    """

    features: NDArray[np.float16]
    labels: NDArray[np.int32]
    names: tuple[str, ...]
    shown: tuple[bytes | str, ...]

    def nearest(self, features: NDArray[np.float32], count: int) -> list[list[tuple[int, float]]]:
        """For each row of ``features`` (rows, width) up to ``count`` examples, the most similar first.

        An example is its position and the cosine between the two. Equal ones keep their order. A row that is no number
        throughout is like none.
        """
        known = np.asarray(np.isfinite(features).all(axis=1))
        similar = unit(np.where(known[:, None], features, 0.0)) @ self.features.astype(np.float32).T
        order = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        return [
            [(int(place), float(np.clip(row[place], -1.0, 1.0))) for place in places] if finite else []
            for row, places, finite in zip(similar, order, known, strict=True)
        ]


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows of (rows, width) at length 1; zeros stay."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.where(length > 0, length, 1.0), dtype=np.float32)


def write_examples(examples: Examples) -> bytes:
    """The file of the examples, for ``save``."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[np.generic]] = {"features": examples.features, "labels": examples.labels}
    for kind, items in (
        ("names", [name.encode("utf-8", errors="replace") for name in examples.names]),
        (
            "text" if any(isinstance(item, str) for item in examples.shown) else "jpeg",
            [
                item if isinstance(item, bytes) else item.encode("utf-8", errors="replace")
                for item in examples.shown
            ],
        ),
    ):
        tensors[kind] = np.frombuffer(b"".join(items), dtype=np.uint8)
        tensors[f"{kind}.ends"] = np.cumsum([len(item) for item in items], dtype=np.int64)
    return bytes(save(tensors))


def carries_examples(folder: Path, bundle: BundleFile) -> bool:
    """Whether a run has examples, and they were not removed from its folder since."""
    return EXAMPLES in bundle.files and (folder / EXAMPLES).is_file()


def read_examples(folder: Path, bundle: BundleFile) -> Examples | None:
    """The examples of a run, None where it carries none; RequestError when they were changed since it was saved."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not carries_examples(folder, bundle):
        return None
    path = folder / EXAMPLES
    try:
        if file_hash(path) != bundle.files[EXAMPLES]:
            raise ValueError("its hash does not match")
        tensors = load_file(path)
        features, labels = tensors["features"], tensors["labels"]
        kind = "text" if "text" in tensors else "jpeg"
        names, shown = (_split(tensors[name], tensors[f"{name}.ends"]) for name in ("names", kind))
        if not len(features) == len(labels) == len(names) == len(shown):
            raise ValueError("its parts differ in length")
        if features.ndim != 2 or labels.ndim != 1 or not np.isfinite(features).all():
            raise ValueError("its features or labels are none")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(bundle.labels):
            raise ValueError("it names labels that the run has not")
    except (OSError, LookupError, TypeError, ValueError, SafetensorError) as problem:
        raise RequestError(f"{path} cannot be used: {problem}. Restore it, or remove it.") from None
    return Examples(
        features=features.astype(np.float16),
        labels=labels.astype(np.int32),
        names=tuple(name.decode("utf-8", errors="replace") for name in names),
        shown=tuple(item.decode("utf-8", errors="replace") if kind == "text" else item for item in shown),
    )


def _split(joined: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[bytes]:
    if ends.dtype.kind not in "iu":
        raise ValueError("its parts end at no whole numbers")
    # Differences of unsigned numbers are never below zero.
    data, ends = joined.tobytes(), ends.astype(np.int64)
    if len(ends) and (ends[-1] != len(data) or (np.diff(ends, prepend=0) < 0).any()):
        raise ValueError("its parts do not fit together")
    starts = [0, *ends[:-1].tolist()]
    return [data[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]
