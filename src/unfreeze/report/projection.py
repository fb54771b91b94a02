"""Features of many dimensions as points of a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 50
# With the settings below t-SNE takes about 0.6 s for 600 points and 1.3 s for 1,000 on one core (1,280
# features); nobody should wait longer for a picture.
POINTS = 600
MOST_FOR_TSNE = 1_000
FEWEST_FOR_TSNE = 30
ITERATIONS = 250
PERPLEXITY = 15.0
# With so few steps the usual exaggeration of 12 would never end; 4 throughout separates neighbourhoods well
# (Böhm, Berens and Kobak 2022, "Attraction-repulsion spectrum in neighbor embeddings").
EXAGGERATION = 4.0


@dataclass(frozen=True, eq=False)
class Projection:
    """The rows shown (points,), ascending; their places (points, 2) in -1..1; and what they were found by."""

    rows: NDArray[np.intp]
    xy: NDArray[np.float64]
    method: Literal["t-SNE", "PCA"]


def project(features: NDArray[np.floating[Any]], seed: int, *, limit: int = POINTS) -> Projection:
    """At most ``limit`` rows of the features (rows, width) in two dimensions.

    PCA to 50 dimensions, then t-SNE; PCA alone below 30 points, above 1,000, and when all rows are equal.
    The same features and seed give the same places. Rows that are not finite are left out.
    """
    usable = np.flatnonzero(np.isfinite(features).all(axis=1))
    chosen = usable
    if len(usable) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(usable, size=limit, replace=False))
    if not len(chosen):
        return Projection(chosen, np.zeros((0, 2)), "PCA")
    reduced = _principal_components(np.asarray(features[chosen], dtype=np.float64))
    if FEWEST_FOR_TSNE <= len(chosen) <= MOST_FOR_TSNE and np.ptp(reduced, axis=0).max() > 0:
        return Projection(chosen, _into_square(_neighbours(reduced, seed)), "t-SNE")
    return Projection(chosen, _into_square(reduced[:, :2]), "PCA")


def _principal_components(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates (rows, 2 to 50) along the directions of largest variance, signs fixed."""
    centred = values - values.mean(axis=0)
    rows, width = centred.shape
    # The eigenvectors of the smaller product give the same coordinates at a fraction of the cost of an SVD.
    if rows <= width:
        strengths, vectors = np.linalg.eigh(centred @ centred.T)
        places = (vectors * np.sqrt(np.maximum(strengths, 0.0)))[:, ::-1][:, :COMPONENTS]
    else:
        _, vectors = np.linalg.eigh(centred.T @ centred)
        places = centred @ vectors[:, ::-1][:, :COMPONENTS]
    # An eigenvector's sign is arbitrary: the entry furthest from zero is made positive, so pictures agree.
    furthest = places[np.abs(places).argmax(axis=0), np.arange(places.shape[1])]
    places = places * np.where(furthest < 0, -1.0, 1.0)
    return np.pad(places, ((0, 0), (0, max(2 - places.shape[1], 0))))


def _neighbours(places: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # More threads cost more in waiting for each other than they bring at this size.
    with threadpool_limits(limits=1):
        method = TSNE(
            n_components=2,
            perplexity=min(PERPLEXITY, (len(places) - 1) / 3),
            early_exaggeration=EXAGGERATION,
            max_iter=ITERATIONS,
            init="pca",
            angle=0.7,
            random_state=seed,
        )
        return np.asarray(method.fit_transform(places), dtype=np.float64)


def _into_square(places: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = places.min(axis=0), places.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return np.asarray((places - (low + high) / 2) / span * 2, dtype=np.float64)
