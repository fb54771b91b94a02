"""Tiny backbones: an image network of three stages and a text encoder of three stages, written out by hand."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unfreeze.contracts import Stage, State
from unfreeze.data.dataset import PARTS, Dataset
from unfreeze.runtime.labels import Labels
from unfreeze.runtime.preprocess import ImagePreprocess, TextPreprocess

WORDS = ("[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz")
SIDE = 16


def named(module, *prefixes):
    return tuple(
        Stage(prefix, tuple(name for name in module.state_dict() if name.startswith(prefix)))
        for prefix in prefixes
    )


@dataclass(frozen=True, eq=False)
class ToyImages:
    module: nn.Module
    preprocess: ImagePreprocess
    weights_hash: str
    name: str = "toy-images"
    family: str = "resnet"
    modality: str = "image"
    dim: int = 6
    recipe: dict = field(default_factory=lambda: {"toy": "images"})
    assets: dict = field(default_factory=dict)
    notes: tuple = ()

    @property
    def stages(self):
        return named(self.module, "stem", "block", "pool")

    def run(self, state, start=0, stop=None):
        h = state.h
        for stage in range(start, 3 if stop is None else stop):
            if stage == 0:
                h = self.module.stem(h.permute(0, 3, 1, 2).float() / 255 - 0.5)
            elif stage == 1:
                h = torch.relu(self.module.block(h))
            else:
                h = h.mean(dim=(2, 3)).float()
        return State(h)

    def summary(self, state, boundary):
        return state.h.float() if boundary == 3 else state.h.mean(dim=(2, 3)).float()


@dataclass(frozen=True, eq=False)
class ToyTexts:
    module: nn.Module
    preprocess: TextPreprocess
    weights_hash: str
    assets: dict
    name: str = "toy-texts"
    family: str = "encoder"
    modality: str = "text"
    dim: int = 8
    recipe: dict = field(default_factory=lambda: {"toy": "texts"})
    notes: tuple = ()

    @property
    def stages(self):
        return named(self.module, "embed", "mix", "pool")

    def run(self, state, start=0, stop=None):
        h, mask = state.h, state.mask
        stop = 3 if stop is None else stop
        for stage in range(start, stop):
            if stage == 0:
                h = self.module.embed(h)
            elif stage == 1:
                # Every token sees the mean of the real ones, so that a wrong mask shows.
                h = h + torch.tanh(self.module.mix(h + mean(h, mask).unsqueeze(1)))
            else:
                h = mean(h, mask)
        return State(h, None if stop == 3 else mask)

    def summary(self, state, boundary):
        return state.h.float() if boundary == 3 else mean(state.h, state.mask)


def mean(h, mask):
    weights = mask.unsqueeze(-1).float()
    return (h.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def toy_images(seed=0):
    torch.manual_seed(seed)
    module = nn.Module()
    module.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
    module.block = nn.Conv2d(4, 6, 3, padding=1)
    module.stem[1].running_mean.uniform_(-0.1, 0.1)
    preprocess = ImagePreprocess(SIDE, SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return ToyImages(module.eval(), preprocess, f"images-{seed}")


def toy_texts(seed=0):
    torch.manual_seed(seed)
    module = nn.Module()
    module.embed = nn.Embedding(len(WORDS), 8)
    module.mix = nn.Linear(8, 8)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(WORDS)},
            "unk_token": "[UNK]",
        },
    }
    data = json.dumps(tokenizer).encode()
    preprocess = TextPreprocess(24, 0, hashlib.sha256(data).hexdigest())
    return ToyTexts(module.eval(), preprocess, f"texts-{seed}", {"tokenizer.json": data})


def image_batch(rows, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, SIDE, SIDE, 3), dtype=np.uint8)
    return State(torch.from_numpy(pixels))


def text_batch(rows, seed=0, longest=16):
    rng = np.random.default_rng(seed)
    h = np.zeros((rows, longest), dtype=np.int64)
    mask = np.zeros((rows, longest), dtype=bool)
    for row in range(rows):
        length = rng.integers(1, longest + 1)
        h[row, :length] = rng.integers(1, len(WORDS), length)
        mask[row, :length] = True
    return State(torch.from_numpy(h), torch.from_numpy(mask))


@dataclass
class ToySamples:
    """Contents in memory that count how often each was read."""

    contents: list
    reads: list = field(default_factory=list)

    def __len__(self):
        return len(self.contents)

    def name(self, row):
        return f"row-{row}"

    def read(self, row):
        self.reads.append(row)
        content = self.contents[row]
        if content is None:
            raise FileNotFoundError(2, "No such file or directory")
        return content

    def select(self, rows):
        return ToySamplesView(self, np.asarray(rows))


@dataclass
class ToySamplesView:
    whole: ToySamples
    rows: np.ndarray

    def __len__(self):
        return len(self.rows)

    def name(self, row):
        return self.whole.name(int(self.rows[row]))

    def read(self, row):
        return self.whole.read(int(self.rows[row]))

    def select(self, rows):
        return replace(self, rows=self.rows[rows])


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def dataset_of(contents, modality, label=None):
    rows = len(contents)
    return Dataset(
        source="toy",
        modality=modality,
        labels=Labels(("no", "yes")),
        samples=ToySamples(list(contents)),
        label=np.arange(rows, dtype=np.int32) % 2 if label is None else label,
        part=np.full(rows, PARTS.index("train"), dtype=np.int8),
    )


class Toys:
    """What the tests of these two rooms build from."""

    images = staticmethod(toy_images)
    texts = staticmethod(toy_texts)
    image_batch = staticmethod(image_batch)
    text_batch = staticmethod(text_batch)
    picture = staticmethod(picture)
    dataset = staticmethod(dataset_of)


@pytest.fixture(scope="session")
def toys():
    return Toys
