"""Texts are tokenised once, whoever reads them, and give what they gave."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from unfreeze.data import tokens as module
from unfreeze.data.tokens import TokenRows, Tokens
from unfreeze.runtime.preprocess import TextPreprocess
from unfreeze.runtime.tokenize import TextEncoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{index}" for index in range(200))]


def tokenizer():
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made.to_str().encode()


FILE = tokenizer()


def preprocess(max_length=8, truncation="head"):
    return TextPreprocess(max_length, 0, hashlib.sha256(FILE).hexdigest(), truncation)


def texts_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[4:], rng.integers(0, 12))) + f" w{row % 200}" for row in range(count)]


@pytest.mark.parametrize("recent", [1, 7, 2**16])
@pytest.mark.parametrize("truncation", ["head", "head+tail"])
def test_each_text_is_tokenised_once_and_gives_what_the_tokenizer_gives(
    monkeypatch, tokenised, recent, truncation
):
    monkeypatch.setattr(module, "RECENT", recent)
    kept = Tokens().of(preprocess(truncation=truncation), FILE)
    texts = [*texts_of(40), "", "w1", "w1", "\ud800 w2", "unknown"]
    plain = TextEncoder(preprocess(truncation=truncation), FILE)
    for start in (0, 20, 30, 0):
        some = texts[start : start + 15]
        ids, lengths = kept.encode_with_lengths(some)
        before = len(tokenised)
        wanted, whole = plain.encode_with_lengths(some)
        del tokenised[before:]
        assert [row.tolist() for row in ids] == [row.tolist() for row in wanted]
        assert {row.dtype for row in ids} == {np.dtype(np.int64)}
        assert lengths.tolist() == whole.tolist() == kept.lengths(some).tolist()
    assert kept.max_length == plain.max_length
    assert sorted(tokenised) == sorted(set(tokenised)) == sorted({*texts[:15], *texts[20:45]})


def test_ways_of_preparing_texts_are_kept_apart(tokenised):
    tokens, text = Tokens(), " ".join(WORDS[4:30])
    short, long = (
        tokens.of(preprocess(length), FILE).encode_with_lengths([text])[0][0] for length in (8, 16)
    )
    assert (len(short), len(long)) == (8, 16)
    assert tokens.of(preprocess(8), FILE).encode_with_lengths([text])[0][0].tolist() == short.tolist()
    assert tokenised == [text, text]


def test_rows_are_read_where_they_are_kept_and_stay_when_more_are_added():
    kept = Tokens().of(preprocess(), FILE)
    texts = texts_of(30)
    rows = TokenRows(kept, kept.places(texts))
    kept.places(texts_of(500, seed=1))
    wanted, _ = TextEncoder(preprocess(), FILE).encode_with_lengths(texts)
    assert len(rows) == 30
    assert [ids.tolist() for ids in rows] == [ids.tolist() for ids in wanted]
    chosen = rows.select(np.array([7, 0, 7]))
    assert [ids.tolist() for ids in chosen] == [wanted[row].tolist() for row in (7, 0, 7)]
    assert chosen.lengths.tolist() == [len(wanted[row]) for row in (7, 0, 7)]


@pytest.mark.parametrize("ask", ["lengths", "encode_with_lengths"])
def test_texts_that_are_new_when_their_lengths_are_asked_for_are_counted(ask):
    kept = Tokens().of(preprocess(), FILE)
    texts, plain = texts_of(40), TextEncoder(preprocess(), FILE)
    for end in (5, 12, 40):
        found = getattr(kept, ask)(texts[:end])
        lengths = found if ask == "lengths" else found[1]
        np.testing.assert_array_equal(lengths, plain.lengths(texts[:end]))


def test_ids_beyond_the_first_piece_lie_in_files(monkeypatch):
    monkeypatch.setattr(module, "PIECE_IDS", 100)
    kept = Tokens().of(preprocess(), FILE)
    texts = texts_of(64)
    places = [kept.places(texts[start : start + 8]) for start in range(0, 64, 8)]
    wanted, _ = TextEncoder(preprocess(), FILE).encode_with_lengths(texts)
    assert [ids.tolist() for ids in TokenRows(kept, np.concatenate(places))] == [
        ids.tolist() for ids in wanted
    ]
    # All but the first, and one that is of more texts than a piece is for.
    kept.places(texts_of(40, seed=1))
    mapped = [isinstance(piece, np.memmap) for piece in kept._pieces]
    assert mapped == [False] + [True] * (len(mapped) - 1)
    assert len(mapped) >= 4
    assert len(kept._pieces[-1]) > 100


def test_a_text_that_is_kept_takes_little_beside_its_ids(monkeypatch):
    monkeypatch.setattr(module, "RECENT", 256)
    kept = Tokens().of(preprocess(), FILE)
    texts = [f"w1 {row}" for row in range(20_000)]
    # The first piece, too, which takes no memory until it is written to.
    kept.places(texts[:256])
    tracemalloc.start()
    try:
        for start in range(256, len(texts), 256):
            kept.places(texts[start : start + 256])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 36 bytes, twice for what is doubled; what is sorted takes 24 more. A dictionary would take 150.
    assert held / len(texts) < 2 * 36 + 24 + 16
