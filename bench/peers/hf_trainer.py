"""What a user of transformers would write: AutoModelForSequenceClassification and Trainer at its defaults.

    python bench/peers/hf_trainer.py TRAIN.parquet TEST.parquet MODEL_FOLDER --epochs 3

The tables have the columns text and label. Trainer's defaults: AdamW at 5e-5 falling linearly, batches of 8, three
epochs; texts cut at ``--max-length`` and padded batch by batch; 15 % of the rows for validation, and the best epoch is
tested. Prints one JSON object. Uses nothing of this program.
"""

import argparse
import json
import tempfile
import time

import numpy as np
import pyarrow.parquet as parquet
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Note(TrainerCallback):
    """Validation accuracy and seconds, epoch by epoch."""

    def __init__(self, start):
        self.start, self.curve = start, []

    def on_evaluate(self, args, state, control, metrics=None, **rest):
        self.curve.append([time.perf_counter() - self.start, metrics["eval_accuracy"]])


def main():
    arguments = parse()
    start = time.perf_counter()
    transformers.set_seed(arguments.seed)
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    train, test = (read(path) for path in (arguments.train, arguments.test))
    labels = sorted({label for _, label in train})
    rows = [encode(tokenizer, row, labels, arguments.max_length) for row in train]
    order = np.random.default_rng(arguments.seed).permutation(len(rows))
    held = round(0.15 * len(rows))
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=len(labels))
    note = Note(start)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=arguments.epochs,
                eval_strategy="epoch",
                save_strategy="epoch",
                load_best_model_at_end=True,
                report_to="none",
                disable_tqdm=True,
                seed=arguments.seed,
                use_cpu=arguments.device == "cpu",
            ),
            train_dataset=[rows[place] for place in order[held:]],
            eval_dataset=[rows[place] for place in order[:held]],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=right,
            callbacks=[note],
        )
        trainer.train()
        curve = list(note.curve)
        tested = [encode(tokenizer, row, labels, arguments.max_length) for row in test]
        found = trainer.predict(tested).metrics["test_accuracy"]
    result = {
        "accuracy": float(found),
        "n": len(test),
        "curve": curve,
        "seconds": time.perf_counter() - start,
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }
    print(json.dumps(result))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("model")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def read(path):
    table = parquet.read_table(path)
    return list(zip(table.column("text").to_pylist(), table.column("label").to_pylist(), strict=True))


def encode(tokenizer, row, labels, longest):
    text, label = row
    return {**tokenizer(text, truncation=True, max_length=longest), "labels": labels.index(label)}


def right(found):
    return {"accuracy": float((found.predictions.argmax(axis=1) == found.label_ids).mean())}


if __name__ == "__main__":
    main()
