"""What a user of sentence-transformers would write: its embeddings, then scikit-learn's logistic regression.

    .venv-peers/setfit/bin/python bench/peers/st_sklearn.py TRAIN.parquet TEST.parquet MODEL_FOLDER

The tables have the columns text and label. Prints one JSON object. Uses nothing of this program.
"""

import argparse
import json
import time

import numpy as np
import pyarrow.parquet as parquet
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("model")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    start = time.perf_counter()
    train, test = (parquet.read_table(path) for path in (arguments.train, arguments.test))
    model = SentenceTransformer(arguments.model, device=arguments.device)
    model.max_seq_length = arguments.max_length
    x, x_test = (model.encode(table.column("text").to_pylist()) for table in (train, test))
    y, y_test = (np.array(table.column("label").to_pylist()) for table in (train, test))
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": np.logspace(-5, 2, 8)},
        cv=5,
    )
    grid.fit(x, y)
    known = [time.perf_counter() - start, float(grid.best_score_)]
    result = {
        "accuracy": float(grid.score(x_test, y_test)),
        "n": len(y_test),
        "curve": [known],
        "seconds": time.perf_counter() - start,
        "versions": f"torch {torch.__version__}, sentence-transformers {sentence_transformers.__version__}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
