"""What a user of SetFit would write: SetFitModel and its Trainer at their defaults, on a few texts.

    .venv-peers/setfit/bin/python bench/peers/setfit_few.py TRAIN.parquet TEST.parquet MODEL_FOLDER

The tables have the columns text and label. ``--steps``: most steps of the contrastive part (batches of 16 pairs); the
default is one epoch over every pair, which grows with the square of the texts. Prints one JSON object. Uses nothing of
this program.
"""

import argparse
import json
import tempfile
import time

import numpy as np
import pyarrow.parquet as parquet
import setfit
import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("model")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    start = time.perf_counter()
    train, test = (parquet.read_table(path) for path in (arguments.train, arguments.test))
    labels = sorted(set(train.column("label").to_pylist()))
    rows = {
        "text": train.column("text").to_pylist(),
        "label": [labels.index(label) for label in train.column("label").to_pylist()],
    }
    model = SetFitModel.from_pretrained(arguments.model, device=arguments.device)
    model.model_body.max_seq_length = arguments.max_length
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=arguments.steps,
                seed=arguments.seed,
                report_to="none",
                save_strategy="no",
                show_progress_bar=False,
            ),
            train_dataset=Dataset.from_dict(rows),
        )
        trainer.train()
    found = np.asarray(model.predict(test.column("text").to_pylist()))
    y = np.array([labels.index(label) for label in test.column("label").to_pylist()])
    result = {
        "accuracy": float((found == y).mean()),
        "n": len(y),
        "curve": [],
        "seconds": time.perf_counter() - start,
        "versions": f"torch {torch.__version__}, setfit {setfit.__version__}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
