"""Many rows: seconds and memory of each part of a training by the number of rows.

    python bench/scale.py --rows 10000,100000,1000000
    python bench/scale.py --rows 10000,100000 --strategy full --epochs 1

A Parquet table of short made-up texts with a text encoder of two narrow layers and random weights, so that what is
measured is everything but the network: reading, splitting, hashing, tokenising, storing, fitting, scoring, saving,
reporting, and with a strategy that thaws the loop. Every number of rows is trained in a process of its own, with
nothing stored before. Linear time is the same microseconds a row in each column.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from processes import run_json
from unfreeze.executors.processor import available_cores, processor_name

WORDS, WIDTH = 2_000, 32
LABELS = ("autumn", "spring", "summer", "winter")
TRAIN = """
import json, sys
from pathlib import Path
from unfreeze.config import TrainRequest
from unfreeze.run import train
run = train(TrainRequest(data=sys.argv[1], output_dir=Path(sys.argv[2]), backbone=sys.argv[3],
                         strategy=sys.argv[4], epochs=int(sys.argv[5]) or None, max_length=16))
print(json.dumps({"accuracy": run.test.accuracy, "seconds": run.seconds,
                  "timing": {entry.part: entry.seconds for entry in run.report.timing}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--strategy", default="feature-extraction")
    parser.add_argument("--epochs", type=int, default=0, help="of a strategy that thaws; 0: its own")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.rows.split(",")]
    print(f"{processor_name()}, {available_cores()} cores", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_encoder(folder / "encoder")
        how = (arguments.strategy, str(arguments.epochs))
        found = {rows: measure(rows, folder, how) for rows in sizes}
    print_table(found)


def write_encoder(folder: Path) -> None:
    """A BERT of two layers with random weights and a word for each number."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = special + [f"w{number}" for number in range(WORDS)]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * WIDTH, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def write_rows(path: Path, rows: int) -> None:
    """Six words each, of which a quarter of the vocabulary is likelier under each label."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, len(LABELS), rows)
    own = rng.random((rows, 6)) < 0.4
    quarter = WORDS // len(LABELS)
    words = np.where(
        own, label[:, None] * quarter + rng.integers(0, quarter, (rows, 6)), rng.integers(0, WORDS, (rows, 6))
    )
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    parquet.write_table(pa.table({"text": texts, "label": [LABELS[place] for place in label]}), path)


def measure(rows: int, folder: Path, how: tuple[str, str]) -> dict[str, object]:
    """``how``: the strategy, and its epochs."""
    table, out = folder / f"{rows}.parquet", folder / f"run{rows}"
    write_rows(table, rows)
    given = (str(table), str(out), str(folder / "encoder"), *how)
    command = [sys.executable, "-W", "ignore", "-c", TRAIN, *given]
    result = run_json(command, {"UNFREEZE_CACHE": str(folder / f"cache{rows}")})
    result["disk_bytes"] = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(json.dumps({"rows": rows} | result), flush=True)
    return result


def print_table(found: dict[int, dict[str, object]]) -> None:
    print("\n| | " + " | ".join(f"{rows:,} rows" for rows in found) + " |")
    print("|---|" + "---|" * len(found))
    parts = list(dict.fromkeys(part for result in found.values() for part in result["timing"]))
    for part in parts:
        cells = (
            f"{result['timing'].get(part, 0.0):.1f} s, {1e6 * result['timing'].get(part, 0.0) / rows:,.0f} µs"
            for rows, result in found.items()
        )
        print(f"| {part} | " + " | ".join(cells) + " |")
    for title, key, scale, unit in (
        ("whole command", "command_seconds", 1, "s"),
        ("peak memory", "peak_bytes", 1e9, "GB"),
        ("run folder", "disk_bytes", 1e6, "MB"),
    ):
        print(
            f"| {title} | "
            + " | ".join(f"{result[key] / scale:.1f} {unit}" for result in found.values())
            + " |"
        )


if __name__ == "__main__":
    main()
