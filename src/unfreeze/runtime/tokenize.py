"""From texts to token ids, with the tokenizer that belongs to the backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from unfreeze.errors import RequestError
from unfreeze.runtime.preprocess import TextPreprocess

# Of texts that are tokenised at a time. Encodings of whole texts take about 20 bytes a character (MiniLM's tokenizer,
# 400 texts of 10,000 words).
PIECE_CHARACTERS = 4_000_000


class TextEncoder:
    """Encodes texts as ``preprocess`` says.

    Raises RequestError when ``tokenizer_json`` is not the file whose hash ``preprocess`` holds.
    """

    def __init__(self, preprocess: TextPreprocess, tokenizer_json: bytes) -> None:
        found = hashlib.sha256(tokenizer_json).hexdigest()
        if found != preprocess.tokenizer_hash:
            raise RequestError(
                f"tokenizer.json has the hash {found[:12]}, but {preprocess.tokenizer_hash[:12]} was "
                "recorded: it was changed or belongs to another model. Restore it from where the model came."
            )
        self._preprocess = preprocess
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json.decode("utf-8"))
        except Exception as problem:  # the tokenizers library raises bare exceptions
            raise RequestError(
                f"tokenizer.json cannot be read ({str(problem)[:160]}): restore it from where the model came."
            ) from None
        # A file may carry its author's settings; length and padding are decided by ``preprocess`` alone.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        probe = self._tokenizer.encode("a")
        added = self._tokenizer.num_special_tokens_to_add(False)
        self._before = _leading_ones(probe.special_tokens_mask)
        self._after = added - self._before
        if preprocess.max_length <= added:
            raise RequestError(
                f"A maximum length of {preprocess.max_length} leaves no room beside {added} special tokens: "
                f"give at least {added + 1}."
            )

    @property
    def max_length(self) -> int:
        """Longest result of ``encode`` in tokens, special ones included."""
        return self._preprocess.max_length

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each text with its special tokens, int64 (tokens,), at most ``max_length`` long.

        "head" keeps the beginning of the content; "head+tail" keeps its beginning and its end, half each
        (the odd one goes to the beginning). A text without any token becomes one pad token, so that no row
        is empty.
        """
        return self.encode_with_lengths(texts)[0]

    def encode_with_lengths(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """What ``encode`` gives, and what ``lengths`` does: the texts that are longer than it were cut."""
        ids: list[NDArray[np.int64]] = []
        lengths = np.empty(len(texts), dtype=np.int64)
        for place, encoding in enumerate(self._encodings(texts)):
            ids.append(self._cut(encoding))
            lengths[place] = len(encoding)
        return ids, lengths

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each token of ``encode`` stands in the text: its first character and the one after its last.

        Special tokens stand nowhere: their two numbers are equal.
        """
        # The fast way keeps no offsets.
        encoding = self._tokenizer.encode(_clean(text))
        found: list[tuple[int, int]] = encoding.offsets or [(0, 0)]
        return [found[kept] for kept in self._kept(len(found))]

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Number of tokens of each whole text, special tokens included, int64 (texts,)."""
        return np.array([len(encoding) for encoding in self._encodings(texts)], dtype=np.int64)

    def _encodings(self, texts: Sequence[str]) -> Iterator[Encoding]:
        """All of them in order; what is cut of a text is held for a few texts at a time."""
        for some in _pieces(texts, characters=PIECE_CHARACTERS):
            yield from self._tokenizer.encode_batch_fast([_clean(text) for text in some])

    def _cut(self, encoding: Encoding) -> NDArray[np.int64]:
        ids = np.array(encoding.ids or [self._preprocess.pad_id], dtype=np.int64)
        return ids if len(ids) <= self._preprocess.max_length else ids[self._kept(len(ids))]

    def _kept(self, tokens: int) -> list[int]:
        """The positions that are kept of so many tokens."""
        excess = tokens - self._preprocess.max_length
        if excess <= 0:
            return list(range(tokens))
        content = tokens - self._before - self._after
        keep = content - excess
        first = keep if self._preprocess.truncation == "head" else (keep + 1) // 2
        start = self._before + first
        return [*range(start), *range(start + excess, tokens)]


def _pieces(texts: Sequence[str], *, characters: int) -> Iterator[Sequence[str]]:
    """The texts in runs of so many characters at most, or of one that is longer."""
    start = held = 0
    for end, text in enumerate(texts):
        if end > start and held + len(text) > characters:
            yield texts[start:end]
            start, held = end, 0
        held += len(text)
    if start < len(texts):
        yield texts[start:]


def _clean(text: str) -> str:
    """Lone surrogates have no UTF-8 form and would fail inside the tokenizer; the length stays."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _leading_ones(mask: list[int]) -> int:
    return next((position for position, bit in enumerate(mask) if not bit), len(mask))
