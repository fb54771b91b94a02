"""What needs no backbone: chance, the majority class, and words counted."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

# scikit-learn's C: from strongly to hardly regularised, on rows of length one.
TFIDF_CS = (1.0, 10.0, 100.0)
TFIDF_FOLDS = 3
# From this many rows on, the third held out first decides alone: C varies by factors of ten.
TFIDF_ONE_FOLD = 2000
# From this many texts on, a term that stands in one text only is left out.
TFIDF_RARE = 200
# At most this many features, the commonest, and fewer where many classes would make the weights large.
TFIDF_FEATURES = 50_000
TFIDF_WEIGHTS = 4_000_000
# The words that decide stand in the first pages; the tail of a long log or a mail with attachments costs
# minutes.
TFIDF_CHARACTERS = 20_000


@dataclass(frozen=True)
class Baseline:
    """A baseline's name, its accuracy in 0..1, and what it does."""

    name: str
    accuracy: float
    description: str


def chance_baseline(classes: int) -> Baseline:
    """Every class guessed equally often: right once in ``classes`` times."""
    return Baseline("chance", 1.0 / classes, f"every one of {classes} classes guessed equally often")


def majority_baseline(
    train_y: NDArray[np.integer], test_y: NDArray[np.integer], labels: tuple[str, ...]
) -> Baseline:
    """The most frequent class of the training rows, named for every test row."""
    winner = int(np.bincount(train_y, minlength=len(labels)).argmax())
    accuracy = float((np.asarray(test_y) == winner).mean())
    return Baseline(
        "majority", accuracy, f"always {labels[winner]!r}, the largest class of the training rows"
    )


def tfidf_baseline(
    train_texts: Sequence[str],
    train_y: NDArray[np.integer],
    test_texts: Iterable[Sequence[str]],
    *,
    classes: int,
    seed: int,
) -> NDArray[np.float64]:
    """Probabilities (test rows, classes) of logistic regression on TF-IDF of words and pairs of words.

    ``test_texts`` come in parts, so that no more than one of them is in memory.

    Term counts are damped by their logarithm; C is chosen by cross-validated log-loss. The vocabulary is
    that of all training texts, for every fold: it holds no labels. Only the first 20,000 characters of a
    text are read. Where there is one class, or no word, the probabilities are the classes' shares of the
    training rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    y = np.asarray(train_y, dtype=np.intp)
    seen = np.unique(y)
    if len(seen) == 1 or not any(_has_word(text) for text in train_texts):
        shares = np.bincount(y, minlength=classes) / len(y)
        return np.tile(shares, (sum(len(texts) for texts in test_texts), 1))
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        min_df=2 if len(train_texts) >= TFIDF_RARE else 1,
        token_pattern=r"(?u)\b\w+\b",
        dtype=np.float32,
    )
    cut = [text[:TFIDF_CHARACTERS] for text in train_texts]
    try:
        train = vectorizer.fit_transform(cut)
    except ValueError:
        # No term stands in two texts; there are words, as was seen above.
        train = vectorizer.set_params(min_df=1).fit_transform(cut)
    # The vectoriser's own limit sorts every pair of words ever seen, which takes longer than the fit.
    most = min(TFIDF_FEATURES, TFIDF_WEIGHTS // len(seen))
    kept = np.arange(train.shape[1])
    if train.shape[1] > most:
        common = np.bincount(train.indices, minlength=train.shape[1])
        kept = np.sort(np.argsort(-common, kind="stable")[:most])
        train = train[:, kept]
    fitted = _fit(train, y, _choose_c(train, y, seed=seed))
    parts = [np.zeros((0, classes))]
    for texts in test_texts:
        part = np.zeros((len(texts), classes))
        rows = vectorizer.transform([text[:TFIDF_CHARACTERS] for text in texts])
        part[:, seen] = fitted.predict_proba(rows[:, kept])
        parts.append(part)
    return np.concatenate(parts)


def _has_word(text: str) -> bool:
    return any(character.isalnum() or character == "_" for character in text[:TFIDF_CHARACTERS])


def _choose_c(rows: csr_matrix, y: NDArray[np.intp], *, seed: int) -> float:
    """The C with the lowest log-loss on rows held out; the middle one where nothing can be held out."""
    fold = np.empty(len(y), dtype=np.intp)
    random = np.random.default_rng(seed)
    for label in np.unique(y):
        own = random.permutation(np.flatnonzero(y == label))
        fold[own] = np.arange(len(own)) % TFIDF_FOLDS
    losses = np.zeros(len(TFIDF_CS))
    for held in range(TFIDF_FOLDS):
        train, test = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        known = np.unique(y[train])
        test = test[np.isin(y[test], known)]
        if len(known) < 2 or not len(test):
            continue
        column = np.searchsorted(known, y[test])
        for position, c in enumerate(TFIDF_CS):
            given = _fit(rows[train], y[train], c).predict_proba(rows[test])
            losses[position] -= np.log(np.maximum(given[np.arange(len(test)), column], 1e-15)).sum()
        if len(y) >= TFIDF_ONE_FOLD:
            break
    return TFIDF_CS[int(losses.argmin())] if losses.any() else TFIDF_CS[len(TFIDF_CS) // 2]


def _fit(rows: csr_matrix, y: NDArray[np.intp], c: float) -> LogisticRegression:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # The solver's vector sums are too short for threads: one is three to eight times faster than two.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Its last digits do not matter to a baseline.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        # It takes many classes of a few rows for numbers to be predicted.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        return LogisticRegression(C=c, tol=1e-3, max_iter=300).fit(rows, y)
