"""From raw inputs to what a network reads, one by one and as a batch: exported and served models alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.runtime.decode import BadImage, decode_image
from unfreeze.runtime.padding import pad_ids
from unfreeze.runtime.preprocess import Preprocess, TextPreprocess
from unfreeze.runtime.texts import full_text
from unfreeze.runtime.tokenize import TextEncoder

Raw = bytes | str
Arrays = dict[str, NDArray[Any]]


class Reader:
    """Prepares inputs as ``preprocess`` says; texts need the bytes of their ``tokenizer.json``."""

    def __init__(self, preprocess: Preprocess, tokenizer: bytes | None) -> None:
        self._preprocess = preprocess
        # Texts that were longer than what is read, of those that ``prepare`` was given.
        self.cut = 0
        self._encoder: TextEncoder | None = None
        if isinstance(preprocess, TextPreprocess):
            if tokenizer is None:
                raise ValueError("texts cannot be read without a tokenizer")
            self._encoder = TextEncoder(preprocess, tokenizer)

    def prepare(self, raw: Raw) -> NDArray[Any]:
        """What the network reads of one input: uint8 (height, width, 3), or token ids (tokens,). Raises BadInput."""
        prepared, cut = self.read(raw)
        self.cut += cut
        return prepared

    def read(self, raw: Raw) -> tuple[NDArray[Any], bool]:
        """The same, uncounted, and whether it is a text that was longer than what is read. Raises BadInput."""
        if self._encoder is not None:
            (ids,), lengths = self._encoder.encode_with_lengths([full_text(raw)])
            return ids, bool(lengths[0] > self._encoder.max_length)
        assert not isinstance(self._preprocess, TextPreprocess)
        if isinstance(raw, str):
            raise BadImage("a text where an image was expected")
        return decode_image(raw, self._preprocess), False

    def batch(self, prepared: Sequence[NDArray[Any]]) -> Arrays:
        """The arrays of a batch: ``images``, or ``ids`` and ``mask``."""
        return batch_arrays(self._preprocess, prepared)


def told_of_cut(preprocess: Preprocess, cut: int, rows: int) -> tuple[str, ...]:
    """A sentence on the texts among so many that were longer than what is read; none where there are none."""
    if not cut or not isinstance(preprocess, TextPreprocess):
        return ()
    return (
        f"{cut:,} of {rows:,} texts ({cut / rows:.1%}) are longer than the {preprocess.max_length:,} tokens that are "
        "read of each, and were cut.",
    )


def batch_arrays(preprocess: Preprocess, prepared: Sequence[NDArray[Any]]) -> Arrays:
    """See ``Reader.batch``."""
    if not isinstance(preprocess, TextPreprocess):
        return {"images": np.stack(prepared)}
    ids, mask = pad_ids(prepared, preprocess.pad_id, most=preprocess.max_length)
    return {"ids": ids, "mask": mask}
