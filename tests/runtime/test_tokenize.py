"""Tokenizing: whole texts, cut as the value says, by the very file that was recorded."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from unfreeze.errors import RequestError
from unfreeze.runtime import tokenize
from unfreeze.runtime.preprocess import TextPreprocess
from unfreeze.runtime.tokenize import TextEncoder

WORDS = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, **{f"w{n}": 10 + n for n in range(20)}}


def tokenizer_file(*, special: bool = True, limits: bool = False) -> bytes:
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if special:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    if limits:
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=12)
    return tokenizer.to_str().encode()


def encoder(max_length: int, *, file: bytes | None = None, truncation="head") -> TextEncoder:
    file = tokenizer_file() if file is None else file
    value = TextPreprocess(max_length, 0, hashlib.sha256(file).hexdigest(), truncation)
    return TextEncoder(value, file)


def text(count: int) -> str:
    return " ".join(f"w{n}" for n in range(count))


def test_short_texts_keep_all_tokens_and_specials():
    first, second = encoder(8).encode(["w0 w1", "w5 nothing"])
    assert first.dtype == np.int64
    assert first.tolist() == [1, 10, 11, 2]
    assert second.tolist() == [1, 15, 3, 2]


def test_texts_are_cut_up_a_few_at_a_time_and_come_out_the_same(monkeypatch):
    texts = ["w0 w1", "", text(9), "w5", text(3), text(12), "w2 w3"]
    whole, lengths = encoder(6).encode(texts), encoder(6).lengths(texts).tolist()
    held = []
    pieces = tokenize._pieces

    def noted(texts, characters):
        for some in pieces(texts, characters=characters):
            held.append([len(one) for one in some])
            yield some

    monkeypatch.setattr(tokenize, "_pieces", noted)
    monkeypatch.setattr(tokenize, "PIECE_CHARACTERS", 20)
    assert [row.tolist() for row in encoder(6).encode(texts)] == [row.tolist() for row in whole]
    assert all(sum(some) <= 20 or len(some) == 1 for some in held)
    assert sum(map(len, held)) == len(texts)
    assert len(held) > 3
    assert encoder(6).lengths(texts).tolist() == lengths
    assert encoder(6).encode([]) == []


def test_head_keeps_the_beginning_between_the_specials():
    assert encoder(6).encode([text(9)])[0].tolist() == [1, 10, 11, 12, 13, 2]


def test_head_and_tail_keep_both_ends():
    assert encoder(6, truncation="head+tail").encode([text(9)])[0].tolist() == [1, 10, 11, 17, 18, 2]
    assert encoder(7, truncation="head+tail").encode([text(9)])[0].tolist() == [1, 10, 11, 12, 17, 18, 2]


def test_encoding_tells_the_lengths_of_the_whole_texts():
    texts = [text(9), "", text(4), text(5)]
    ids, lengths = encoder(6).encode_with_lengths(texts)
    assert [row.tolist() for row in ids] == [row.tolist() for row in encoder(6).encode(texts)]
    assert lengths.tolist() == encoder(6).lengths(texts).tolist() == [11, 2, 6, 7]


def test_a_text_that_just_fits_is_whole():
    assert len(encoder(11).encode([text(9)])[0]) == 11
    assert encoder(11).encode([text(9)])[0].tolist() == [1, *range(10, 19), 2]


def test_lengths_are_untruncated():
    lengths = encoder(4).lengths([text(9), "", text(1)])
    assert lengths.tolist() == [11, 2, 3]


def test_limits_inside_the_file_are_ignored():
    limited = encoder(30, file=tokenizer_file(limits=True))
    assert limited.encode([text(9)])[0].tolist() == [1, *range(10, 19), 2]
    assert limited.lengths([text(9)]).tolist() == [11]


def test_a_text_without_tokens_is_one_pad_token():
    assert encoder(4, file=tokenizer_file(special=False)).encode([" "])[0].tolist() == [0]


def test_strings_without_a_utf8_form_do_not_crash():
    assert encoder(8).encode(["w1 \ud83d"])[0].tolist() == [1, 11, 3, 2]


def test_another_file_is_refused():
    file = tokenizer_file()
    changed = json.dumps({**json.loads(file), "version": "1.0", "x": 1}).encode()
    with pytest.raises(RequestError, match=r"tokenizer\.json has the hash"):
        TextEncoder(TextPreprocess(8, 0, hashlib.sha256(file).hexdigest()), changed)


def test_a_length_without_room_for_content_is_refused():
    with pytest.raises(RequestError, match="at least 3"):
        encoder(2)
