"""What weighing classes alike is worth on rows of which two thirds are of one class.

    python bench/uneven.py --texts MAILS

The features of a probe on 100 solar cells (EfficientNet-Lite0, 128 pixels) and on 100 mails (MiniLM, 128 tokens), of
all cells and of as many mails. Then scikit-learn's logistic regression on a few rows of them, drawn by seed and
stratified, with classes weighed alike and without, its penalty found by cross-validation: accuracy and balanced
accuracy on 1,000 other rows, as means over the draws, and the standard error of the difference in accuracy.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import unfreeze
from chooser import Material, mails, solar

SIZES, DRAWS, DRAWS_OF_MANY = (24, 32, 64, 100, 250, 500), 12, 5
TEST_ROWS, MOST_ROWS = 1000, 2624
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def features_of(material: Material) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The features of up to ``MOST_ROWS`` rows (rows, width), in a mixed order, and their classes."""
    rows = np.random.default_rng(0).permutation(len(material.labels))[:MOST_ROWS]
    first = rows[:100]
    with tempfile.TemporaryDirectory() as folder:
        run = unfreeze.train(
            ([material.inputs[row] for row in first], [material.labels[row] for row in first]),
            strategy="feature-extraction",
            output_dir=Path(folder) / "run",
            **material.settings,
        )
        found = unfreeze.load(run.folder).features([material.inputs[row] for row in rows])
    _, y = np.unique([material.labels[row] for row in rows], return_inverse=True)
    return np.asarray(found), y


def fitted(x: NDArray[np.float32], y: NDArray[np.intp], *, balanced: bool) -> Pipeline:
    weight = "balanced" if balanced else None
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, class_weight=weight))
    folds = StratifiedKFold(min(5, int(np.bincount(y).min())), shuffle=True, random_state=0)
    grid = {"logisticregression__C": PENALTIES}
    found = GridSearchCV(model, grid, cv=folds, scoring="neg_log_loss").fit(x, y)
    best: Pipeline = found.best_estimator_
    return best


def measure(name: str, material: Material) -> None:
    x, y = features_of(material)
    test, rest = slice(0, TEST_ROWS), slice(TEST_ROWS, None)
    print(f"\n{name}, {y.mean():.0%} of the second class\n")
    print(
        "| rows | draws | accuracy, weighed alike | without | difference, points | balanced accuracy, weighed alike "
        "| without |"
    )
    print("|---|---|---|---|---|---|---|")
    for rows in SIZES:
        right: dict[bool, list[float]] = {True: [], False: []}
        even: dict[bool, list[float]] = {True: [], False: []}
        draws = DRAWS if rows <= 100 else DRAWS_OF_MANY
        for seed in range(draws):
            drawn, _ = train_test_split(
                np.arange(len(y[rest])), train_size=rows, random_state=seed, stratify=y[rest]
            )
            for balanced in (True, False):
                answers = fitted(x[rest][drawn], y[rest][drawn], balanced=balanced).predict(x[test])
                right[balanced].append(float((answers == y[test]).mean()))
                even[balanced].append(balanced_accuracy_score(y[test], answers))
        gain = 100 * (np.array(right[True]) - np.array(right[False]))
        shown = [f"{np.mean(values):.3f}" for values in (right[True], right[False], even[True], even[False])]
        print(
            f"| {rows} | {draws} | {shown[0]} | {shown[1]} | {gain.mean():+.1f} ± "
            f"{gain.std(ddof=1) / draws**0.5:.1f} | {shown[2]} | {shown[3]} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, help="Parquet file with the columns text and label")
    parser.set_defaults(image_size=128, max_length=128)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("UNFREEZE_CACHE", cache)
        measure("Solar cells", solar(arguments))
        if arguments.texts is not None:
            measure("Mails", mails(arguments))


if __name__ == "__main__":
    main()
