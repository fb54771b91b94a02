"""Raw batches of any rows, read ahead of what runs them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from unfreeze.contracts import Backbone, State
from unfreeze.data.dataset import Dataset
from unfreeze.data.reading import HASH_BYTES, content_hash, read_images, read_raw
from unfreeze.errors import UnfreezeError
from unfreeze.runtime.decode import Quarantined
from unfreeze.runtime.padding import pad_ids
from unfreeze.runtime.preprocess import ImagePreprocess, TextPreprocess
from unfreeze.runtime.texts import as_text

if TYPE_CHECKING:
    from unfreeze.data.tokens import KeptTokens
    from unfreeze.runtime.tokenize import TextEncoder

# Batches that wait for the executor: one would be enough if decoding took the same time for every batch.
BATCHES_AHEAD = 2
# Texts that are tokenised and sorted by length at a time: padding is as small as with all of them at once, and
# memory does not grow with the data.
CHUNK_TEXTS = 8192
CHANGED = "it was changed while it was being read"

Item = TypeVar("Item")


@dataclass(frozen=True)
class BadRow:
    """A row of the data set whose input cannot be used: its name, and why."""

    row: int
    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Batch:
    """A raw batch; ``positions`` (batch,) count within the rows that were asked for.

    ``digests``: the content hashes of its inputs, uint8 (batch, 16). ``cut``: how many are texts that are longer than
    what is read.
    """

    positions: NDArray[np.intp]
    state: State
    digests: NDArray[np.uint8]
    cut: int = 0


def read_batches(
    dataset: Dataset,
    backbone: Backbone,
    rows: NDArray[np.intp],
    *,
    batch_size: int,
    threads: int,
    bad: list[BadRow],
    expected: NDArray[np.uint8] | None = None,
) -> Iterator[Batch]:
    """Batches of all readable ``rows``; the others are added to ``bad``.

    Images come in order, decoded by ``threads`` threads; texts sorted by length within chunks. ``expected``:
    content hashes (rows, 16); an image whose content is no longer that one is bad.
    """
    if backbone.modality == "image":
        return _image_batches(
            dataset, backbone, rows, batch_size=batch_size, threads=threads, bad=bad, expected=expected
        )
    return _text_batches(dataset, backbone, rows, batch_size=batch_size, bad=bad, expected=expected)


def encoder_of(dataset: Dataset, backbone: Backbone) -> TextEncoder | KeptTokens:
    """What tokenises the data set's texts for a backbone, each once where the data set keeps what it gives."""
    from unfreeze.runtime.tokenize import TextEncoder

    preprocess, tokenizer = _text_preprocess(backbone), backbone.assets["tokenizer.json"]
    if dataset.tokens is None:
        return TextEncoder(preprocess, tokenizer)
    return dataset.tokens.of(preprocess, tokenizer)


def golden_batch(dataset: Dataset, backbone: Backbone, rows: Sequence[int] | NDArray[np.intp]) -> State:
    """These rows as one raw batch, in their order. Raises UnfreezeError when one cannot be read."""
    bad: list[BadRow] = []
    wanted = np.asarray(rows, dtype=np.intp)
    batches = list(
        read_batches(dataset, backbone, wanted, batch_size=max(1, len(wanted)), threads=1, bad=bad)
    )
    if bad or len(batches) != 1:
        raise UnfreezeError(
            f"{bad[0].name} cannot be read: {bad[0].reason}." if bad else "There is no row to read."
        )
    order = np.argsort(batches[0].positions)
    return batches[0].state.rows(order)


def pad_texts(ids: Sequence[NDArray[np.int64]], pad_id: int, *, most: int) -> State:
    """Token ids (texts, tokens) padded on the right to the longest text, rounded up, and their mask.

    ``most``: how many tokens a text can have at all.
    """
    import torch

    h, mask = pad_ids(ids, pad_id, most=most)
    return State(torch.from_numpy(h), torch.from_numpy(mask), full=bool(mask.all()))


def blank_sample(preprocess: ImagePreprocess | TextPreprocess) -> State:
    """One input without content: a black picture, or a text of two tokens."""
    import torch

    if isinstance(preprocess, ImagePreprocess):
        return State(torch.zeros((1, preprocess.height, preprocess.width, 3), dtype=torch.uint8))
    return pad_texts([np.zeros(2, dtype=np.int64)], preprocess.pad_id, most=preprocess.max_length)


def ahead(items: Iterator[Item], *, depth: int = BATCHES_AHEAD) -> Generator[Item]:
    """The same items, produced by a thread of their own that stays at most ``depth`` of them ahead.

    An exception of the producer is raised here; closing this generator ends the producer.
    """
    ready: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(more: bool, value: Item | BaseException | None) -> bool:
        while not closed.is_set():
            try:
                ready.put((more, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as error:
            put(False, error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    producer = threading.Thread(target=produce, name="unfreeze-ahead", daemon=True)
    producer.start()
    try:
        while True:
            more, value = ready.get()
            if not more:
                if isinstance(value, BaseException):
                    raise value
                return
            yield value  # type: ignore[misc]
    finally:
        closed.set()
        producer.join()


def _image_batches(
    dataset: Dataset,
    backbone: Backbone,
    rows: NDArray[np.intp],
    *,
    batch_size: int,
    threads: int,
    bad: list[BadRow],
    expected: NDArray[np.uint8] | None,
) -> Iterator[Batch]:
    preprocess = backbone.preprocess
    if not isinstance(preprocess, ImagePreprocess):
        raise TypeError(f"{backbone.name} reads images but prepares texts")
    positions: list[int] = []
    pictures: list[NDArray[np.uint8]] = []
    digests: list[bytes] = []
    for position, (row, picture, digest) in enumerate(
        read_images(dataset.samples, rows, preprocess, threads=threads)
    ):
        if isinstance(picture, Quarantined):
            bad.append(BadRow(row, picture.name, picture.reason))
        elif expected is not None and expected[position].tobytes() != digest:
            bad.append(BadRow(row, dataset.samples.name(row), CHANGED))
        else:
            positions.append(position)
            pictures.append(picture)
            digests.append(digest)
        if len(pictures) == batch_size:
            yield _stack(positions, pictures, digests)
            positions, pictures, digests = [], [], []
    if pictures:
        yield _stack(positions, pictures, digests)


def _stack(positions: list[int], pictures: list[NDArray[np.uint8]], digests: list[bytes]) -> Batch:
    import torch

    state = State(torch.from_numpy(np.stack(pictures)))
    return Batch(np.array(positions, dtype=np.intp), state, _joined(digests))


def _joined(digests: list[bytes]) -> NDArray[np.uint8]:
    """Hashes, one a row, as uint8 (rows, 16)."""
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, HASH_BYTES)


def _text_batches(
    dataset: Dataset,
    backbone: Backbone,
    rows: NDArray[np.intp],
    *,
    batch_size: int,
    bad: list[BadRow],
    expected: NDArray[np.uint8] | None,
) -> Iterator[Batch]:
    preprocess = _text_preprocess(backbone)
    encoder = encoder_of(dataset, backbone)
    for start in range(0, len(rows), CHUNK_TEXTS):
        positions: list[int] = []
        texts: list[str] = []
        digests: list[bytes] = []
        for position in range(start, min(start + CHUNK_TEXTS, len(rows))):
            row = int(rows[position])
            raw = read_raw(dataset.samples, row)
            if isinstance(raw, Quarantined):
                bad.append(BadRow(row, raw.name, raw.reason))
            else:
                digest = content_hash(raw)
                if expected is not None and expected[position].tobytes() != digest:
                    bad.append(BadRow(row, dataset.samples.name(row), CHANGED))
                    continue
                positions.append(position)
                texts.append(as_text(raw))
                digests.append(digest)
        ids, lengths = encoder.encode_with_lengths(texts)
        cut = lengths > preprocess.max_length
        # Longest first: what does not fit into memory fails at once, and the rate only gets better.
        order = np.argsort([-len(row) for row in ids], kind="stable")
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            state = pad_texts([ids[index] for index in chosen], preprocess.pad_id, most=preprocess.max_length)
            yield Batch(
                np.array([positions[index] for index in chosen], dtype=np.intp),
                state,
                _joined([digests[index] for index in chosen]),
                int(cut[chosen].sum()),
            )


def _text_preprocess(backbone: Backbone) -> TextPreprocess:
    if not isinstance(backbone.preprocess, TextPreprocess):
        raise TypeError(f"{backbone.name} reads texts but prepares images")
    return backbone.preprocess
