"""Token ids of a data set's texts, each text tokenised once for all that reads them.

A training reads a text for its features, for its steps, for what it is measured by and for the report, and a tokenizer
takes as long for a long mail as a processor for hashing it two hundred times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.arrays import allocate
from unfreeze.data.digests import SortedDigests
from unfreeze.data.reading import HASH_BYTES, content_hash

if TYPE_CHECKING:
    from unfreeze.runtime.preprocess import TextPreprocess
    from unfreeze.runtime.tokenize import TextEncoder

# Texts that a dictionary finds until all are sorted anew: with one of a million, the index would take 150 MB.
RECENT = 2**16
# 128 MB: a million mails of 128 tokens are four pieces.
PIECE_IDS = 2**25


class Tokens:
    """What the texts of a data set have been tokenised to, for each way of preparing them."""

    def __init__(self) -> None:
        self._kept: dict[TextPreprocess, KeptTokens] = {}

    def of(self, preprocess: TextPreprocess, tokenizer_json: bytes) -> KeptTokens:
        """Those of one tokenizer and length; raises what ``TextEncoder`` does."""
        if preprocess not in self._kept:
            from unfreeze.runtime.tokenize import TextEncoder

            self._kept[preprocess] = KeptTokens(TextEncoder(preprocess, tokenizer_json))
        return self._kept[preprocess]


class KeptTokens:
    """Gives what a ``TextEncoder`` does, and tokenises no text twice.

    Ids lie end to end in pieces, of which all but the first are mapped from a file: what memory holds of a text beyond
    it is where its ids lie.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._count, self._end = 0, 0
        self._pieces: list[NDArray[np.int32]] = []
        self._digests = np.zeros((0, HASH_BYTES), dtype=np.uint8)
        # The piece that holds a text's ids, where they begin in it, how many they are, and how many the text has.
        self._piece, self._starts = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64)
        self._kept, self._whole = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
        self._sorted = SortedDigests(self._digests)
        self._recent: dict[bytes, int] = {}

    @property
    def max_length(self) -> int:
        """See ``TextEncoder``."""
        return self._encoder.max_length

    def encode_with_lengths(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """See ``TextEncoder``."""
        places = self.places(texts)
        return [self.ids(place) for place in places], self._whole[places].astype(np.int64)

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """See ``TextEncoder``."""
        # Before the array is looked at, which new texts may replace by a larger one.
        places = self.places(texts)
        return self._whole[places].astype(np.int64)

    def ids(self, place: int | np.intp) -> NDArray[np.int64]:
        """The ids of one text that is kept."""
        start = self._starts[place]
        ids: NDArray[np.int64] = self._pieces[self._piece[place]][start : start + self._kept[place]].astype(
            np.int64
        )
        return ids

    def kept(self, places: NDArray[np.intp]) -> NDArray[np.int64]:
        """How many ids each of these has."""
        return self._kept[places].astype(np.int64)

    def places(self, texts: Sequence[str]) -> NDArray[np.intp]:
        """Where each text is kept, after those that were not have been tokenised."""
        digests = [content_hash(text) for text in texts]
        found = self._find(digests)
        new = {digests[position]: texts[position] for position in np.flatnonzero(found < 0).tolist()}
        if new:
            self._add(list(new), *self._encoder.encode_with_lengths(list(new.values())))
            found = self._find(digests)
        return found

    def _find(self, digests: Sequence[bytes]) -> NDArray[np.intp]:
        """Where each content is kept, -1 where it is not."""
        found = self._sorted.find(_joined(digests))
        for position in np.flatnonzero(found < 0).tolist():
            found[position] = self._recent.get(digests[position], -1)
        return found

    def _add(
        self, digests: Sequence[bytes], ids: Sequence[NDArray[np.int64]], whole: NDArray[np.int64]
    ) -> None:
        sizes = np.array([len(row) for row in ids], dtype=np.int64)
        first, count, more = self._count, self._count + len(digests), int(sizes.sum())
        if not self._pieces or self._end + more > len(self._pieces[-1]):
            size = max(more, PIECE_IDS)
            # Memory is taken only of what is written to.
            most = 0 if self._pieces else PIECE_IDS * 4
            self._pieces.append(allocate((size,), np.int32, most=most))
            self._end = 0
        self._pieces[-1][self._end : self._end + more] = np.concatenate(ids)
        self._digests = _put(self._digests, first, _joined(digests))
        self._piece = _put(self._piece, first, np.full(len(sizes), len(self._pieces) - 1))
        self._starts = _put(self._starts, first, self._end + np.cumsum(sizes) - sizes)
        self._kept, self._whole = _put(self._kept, first, sizes), _put(self._whole, first, whole)
        self._count, self._end = count, self._end + more
        self._recent.update(zip(digests, range(first, count), strict=True))
        if len(self._recent) >= RECENT:
            self._sorted = SortedDigests(self._digests[:count])
            self._recent.clear()


@dataclass(frozen=True, eq=False)
class TokenRows(Sequence[NDArray[np.int64]]):
    """The token ids of some rows, by the ``places`` (rows,) where they are kept."""

    tokens: KeptTokens
    places: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: Any) -> Any:
        """The ids of a row, int64 (tokens,)."""
        return self.tokens.ids(self.places[row])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return self.tokens.kept(self.places)

    def select(self, rows: NDArray[np.intp]) -> TokenRows:
        """These rows in this order; the ids are shared."""
        return replace(self, places=self.places[rows])


def _put(array: NDArray[Any], first: int, values: NDArray[Any]) -> NDArray[Any]:
    """The array with these values from place ``first`` on, or a larger one where it has no room for them."""
    end = first + len(values)
    if end > len(array):
        larger = allocate((max(end, 2 * len(array)), *array.shape[1:]), array.dtype)
        larger[:first] = array[:first]
        array = larger
    array[first:end] = values
    return array


def _joined(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    """Hashes, one a row, as uint8 (rows, 16)."""
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, HASH_BYTES)
