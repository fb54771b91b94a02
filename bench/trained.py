"""Small runs that benches measure with where none is given: they are trained first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import unfreeze
from unfreeze.demo import Cell, solar_cells, write_table

EVERY_CELL = 8
TEXTS, WORDS = 300, ("meeting agenda report", "election minister border", "prize winner cash")
FILLERS = (
    "the",
    "of",
    "to",
    "and",
    "in",
    "is",
    "that",
    "was",
    "for",
    "on",
    "are",
    "with",
    "they",
    "at",
    "be",
    "this",
)


def few_cells() -> list[Cell]:
    """The solar cells that a run of images is trained on."""
    return solar_cells()[::EVERY_CELL]


def train_images(folder: Path) -> Path:
    write_table(few_cells(), folder / "cells.csv")
    return train(folder / "cells.csv", folder / "lite0", backbone="efficientnet-lite0")


def train_texts(folder: Path) -> Path:
    random = np.random.default_rng(0)
    lines = ["text,label"]
    for number in range(TEXTS):
        kind = WORDS[number % len(WORDS)]
        words = list(random.choice(FILLERS, random.integers(20, 90)))
        words[int(random.integers(len(words)))] = random.choice(kind.split())
        lines.append(f"{' '.join(words)},{kind.split()[0]}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    return train(folder / "texts.csv", folder / "minilm", backbone="all-minilm-l6-v2")


def train(table: Path, folder: Path, *, backbone: str) -> Path:
    unfreeze.train(str(table), output_dir=folder, backbone=backbone, strategy="feature-extraction")
    return folder
