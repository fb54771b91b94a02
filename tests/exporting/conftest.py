"""Exports that are made once, small runs that other libraries can hold, files decoded in ways of their own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FEW = {"epochs": 1, "views": 1, "batch_size": 8, "precision": "fp32", "device": "cpu"}
VOCABULARY = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "meeting",
    "report",
    "Monday",
    "election",
    "storm",
    "prize",
    "cash",
)


@dataclass(frozen=True)
class Shared:
    """A run, the folder that it was exported to, in which format, and where its base lies if it needs one."""

    run: object
    folder: Path
    format: str
    base: Path | None = None


@pytest.fixture(scope="session")
def vit_weights(tiny_vit):
    """The file of the tiny vision transformer's weights."""
    return Path(tiny_vit.partition("@")[2])


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A tiny random BERT with its pooler, and a tokenizer of the mails' words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    from unfreeze.backbones.hf_loading import quiet_transformers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=len(VOCABULARY),
        max_position_embeddings=40,
    )
    with quiet_transformers():
        BertModel(config).save_pretrained(folder)
    words = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return folder


@pytest.fixture(scope="session")
def few_mails(tmp_path_factory):
    """Thirty texts of the mails' words in three classes."""
    path = tmp_path_factory.mktemp("data") / "few.csv"
    classes = {"ham": ("meeting", "report"), "news": ("election", "storm"), "spam": ("prize", "cash")}
    chance = np.random.default_rng(2)
    rows = [
        f"{' '.join(chance.choice(words, 3))} {number},{name}"
        for number in range(10)
        for name, words in classes.items()
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(photos, mails, vit_weights, bert_folder, tmp_path_factory):
    """Four runs by name: LoRA on images, on texts read in two ways, and a thawed Lite0."""
    import unfreeze

    vit, bert = f"timm:test_vit@{vit_weights}", str(bert_folder)
    wanted = {
        "vit": (photos, {"strategy": "lora", "backbone": vit, "image_size": 32}),
        "lite0": (photos, {"strategy": "partial", "backbone": "efficientnet-lite0", "image_size": 64}),
        "bert": (mails, {"strategy": "lora", "backbone": bert, "max_length": 8, "pooling": "native"}),
        "mean": (mails, {"strategy": "lora", "backbone": bert, "max_length": 8, "pooling": "mean"}),
    }
    runs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        for name, (data, settings) in wanted.items():
            folder = tmp_path_factory.mktemp(name)
            patch.setenv("UNFREEZE_CACHE", str(folder / "cache"))
            runs[name] = unfreeze.train(str(data), output_dir=folder / "run", **FEW, **settings)
    return runs


@pytest.fixture(scope="session")
def shared(trained, vit_weights, bert_folder, tmp_path_factory):
    """Each of the runs in the formats that can hold it."""
    from unfreeze.exporting.run import export

    wanted = (
        ("lite0", "timm", None),
        ("vit", "transformers", None),
        ("vit", "peft", vit_weights),
        ("bert", "transformers", None),
        ("bert", "peft", bert_folder),
        ("mean", "peft", bert_folder),
    )
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        for name, format, base in wanted:
            folder = tmp_path_factory.mktemp("shared") / f"{name}-{format}"
            export(trained[name].folder, format=format, output=folder)
            made[name, format] = Shared(trained[name], folder, format, base)
    return made


@pytest.fixture(scope="session")
def text_onnx(text_run, tmp_path_factory):
    """The mails' run as ONNX."""
    from unfreeze.exporting.run import export

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        return export(text_run.run.folder, output=tmp_path_factory.mktemp("onnx") / "text")


@pytest.fixture(scope="session")
def job_of():
    """What ``alone`` is asked for a folder with a card: the card's own code on each picture, or on each text."""
    from unfreeze.bundle.loading import load

    def job(made, pictures, texts=("storm election", "meeting " * 30)):
        card = (made.folder / "README.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        inputs = list(texts) if "one text" in card else [str(path) for path in pictures]
        code = code.replace("FOLDER", str(made.folder))
        if made.base is not None:
            code = code.replace(f'"{made.base.name}"', repr(str(made.base)))
            code = code.replace(f"'{made.base.name}'", repr(str(made.base)))
        word = "one text" if "one text" in card else "photo.jpg"
        labels = list(load(made.run.folder).classifier.labels.names)
        return {"codes": [code.replace(word, one) for one in inputs], "inputs": inputs, "labels": labels}

    return job


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """Probabilities (inputs, classes) of each job, its columns in the order of its labels, by one fresh process."""

    def answer(jobs):
        file = tmp_path_factory.mktemp("alone") / "jobs.json"
        file.write_text(json.dumps(jobs))
        command = [sys.executable, str(Path(__file__).with_name("alone.py")), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        return [
            np.array([[row[label] for label in job["labels"]] for row in rows])
            for job, rows in zip(jobs, answers, strict=True)
        ]

    return answer


@pytest.fixture
def quick_onnx(image_onnx, monkeypatch):
    """Exports to ONNX take the network that was written once."""

    from unfreeze.exporting.formats import Written
    from unfreeze.exporting.run import CHOICES

    def write(classifier, folder):
        return Written(shutil.copy(image_onnx.file, folder / "model.onnx"), {})

    monkeypatch.setitem(CHOICES, "onnx", replace(CHOICES["onnx"], write=write))


@pytest.fixture
def raw_files(tmp_path):
    """Files whose bytes are decoded in ways of their own."""
    folder = tmp_path / "raw"
    folder.mkdir()
    chance = np.random.default_rng(3)

    def picture(height, width):
        return Image.fromarray(chance.integers(0, 255, (height, width, 3)).astype(np.uint8))

    exif = Image.Exif()
    exif[0x0112] = 6
    picture(40, 60).save(folder / "rotated.jpg", exif=exif)
    picture(50, 50).convert("CMYK").save(folder / "cmyk.jpg")
    picture(50, 50).quantize(16).save(folder / "palette.png")
    Image.fromarray(chance.integers(0, 65535, (40, 40)).astype(np.uint16)).save(folder / "deep.png")
    picture(8, 8).save(folder / "tiny.png")
    picture(6, 900).save(folder / "long.png")
    return sorted(folder.iterdir())
