"""Reading rows: in parallel, in order, each file once, a bounded number in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unfreeze.data.dataset import Remembering, Samples
from unfreeze.runtime.decode import BadImage, Quarantined, decode_image
from unfreeze.runtime.preprocess import ImagePreprocess
from unfreeze.runtime.texts import BadText, as_text

HASH_BYTES = 16
# Enough to keep every thread busy while the consumer works on a batch; decoded squares are small.
IN_FLIGHT_PER_THREAD = 8

Item = TypeVar("Item")
Result = TypeVar("Result")
ReadImage = tuple[int, NDArray[np.uint8] | Quarantined, bytes]


def read_images(
    samples: Samples, rows: Sequence[int] | NDArray[np.intp], preprocess: ImagePreprocess, *, threads: int
) -> Iterator[ReadImage]:
    """For each of ``rows``, in that order: the row, its picture or why there is none, and its content hash.

    A picture is uint8 (height, width, 3). The hash is ``content_hash`` of the file's bytes; 16 zero bytes
    when the file could not be read at all. Each file is read once, at most ``8 * threads`` are in flight.
    """

    def read(row: int) -> ReadImage:
        raw = read_raw(samples, row)
        if isinstance(raw, Quarantined):
            return row, raw, bytes(HASH_BYTES)
        data = _as_bytes(raw)
        try:
            return row, decode_image(data, preprocess), content_hash(data)
        except BadImage as error:
            return row, Quarantined(samples.name(row), str(error)), content_hash(data)

    return in_order(read, (int(row) for row in rows), threads=threads)


def read_texts(samples: Samples, rows: Sequence[int] | NDArray[np.intp]) -> list[str]:
    """The texts of ``rows`` in that order. Raises OSError when one cannot be read."""
    return [as_text(samples.read(int(row))) for row in rows]


def content_hashes(
    samples: Samples, *, threads: int = 2
) -> tuple[NDArray[np.uint8], tuple[Quarantined, ...]]:
    """Content hashes, uint8 (rows, 16), and the rows that could not be read (their hash is zero)."""
    remembering = samples if isinstance(samples, Remembering) else None

    def digest(row: int) -> bytes | Quarantined:
        if remembering is not None and (known := remembering.known_hash(row)) is not None:
            return known
        raw = read_raw(samples, row)
        return raw if isinstance(raw, Quarantined) else content_hash(raw)

    hashes = np.zeros((len(samples), HASH_BYTES), dtype=np.uint8)
    bad: list[Quarantined] = []
    for row, result in enumerate(in_order(digest, range(len(samples)), threads=threads)):
        if isinstance(result, Quarantined):
            bad.append(result)
        else:
            hashes[row] = np.frombuffer(result, dtype=np.uint8)
    return hashes, tuple(bad)


def content_hash(content: bytes | str) -> bytes:
    """16 bytes of BLAKE2b over the raw content (texts as UTF-8): equal content has equal hashes."""
    return blake2b(_as_bytes(content), digest_size=HASH_BYTES).digest()


def read_raw(samples: Samples, row: int) -> bytes | str | Quarantined:
    """The raw input of a row, or why it cannot be read."""
    try:
        return samples.read(row)
    except OSError as error:
        return Quarantined(samples.name(row), f"cannot be read: {error.strerror or error}")
    except BadText as error:
        return Quarantined(samples.name(row), str(error))
    except ValueError as error:  # a path that no file system knows, such as one with a null byte
        return Quarantined(samples.name(row), f"cannot be read: {error}")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> Iterator[Result]:
    """Results of ``function`` for ``items`` in their order, from ``threads`` threads, few in flight.

    One thread means the caller's own. Closing the iterator drops what has not started yet.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="unfreeze-read")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= IN_FLIGHT_PER_THREAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _as_bytes(content: bytes | str) -> bytes:
    # Lone surrogates can arrive in strings made in Python; they have no UTF-8 form.
    return content.encode("utf-8", errors="replace") if isinstance(content, str) else content
