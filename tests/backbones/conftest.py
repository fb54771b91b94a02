"""A model folder as transformers writes it: two layers, a tokenizer of a few words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "sat")
Writer = Callable[..., Path]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small wait for threads longer than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write_model(tmp_path: Path) -> Writer:
    """Writes a random model of this type and its tokenizer; returns the folder."""

    def write(
        model_type: str = "bert", *, pooler: bool = True, sentence: str | None = None, **settings: Any
    ) -> Path:
        import torch
        from transformers import AutoConfig, AutoModel

        from unfreeze.backbones.hf_loading import quiet_transformers

        torch.manual_seed(0)
        folder = tmp_path / model_type
        config = AutoConfig.for_model(
            model_type,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            vocab_size=len(WORDS),
            max_position_embeddings=40,
            pad_token_id=0,
            **settings,
        )
        with quiet_transformers():
            model = AutoModel.from_config(config)
            if not pooler:
                model.pooler = None
            model.save_pretrained(folder)
        write_tokenizer(folder)
        if sentence is not None:
            (folder / "1_Pooling").mkdir()
            (folder / "1_Pooling" / "config.json").write_text(json.dumps({sentence: True}))
            (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
        return folder

    return write


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=6)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "[PAD]", "model_max_length": 10**30}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
