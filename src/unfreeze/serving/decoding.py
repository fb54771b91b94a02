"""Raw inputs to what a network reads, in as many threads as there are cores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from unfreeze.executors.processor import available_cores
from unfreeze.runtime.decode import BadImage, BadInput, inspect_image
from unfreeze.serving.hosting import Host
from unfreeze.serving.limits import Limits

# A transparent picture of 50 million pixels takes 1 GB on its way to 224 x 224: such ones go one at a time.
LARGE = 12_000_000

# What the network reads and whether a text was cut for that, or why the input cannot be read.
Prepared = tuple[NDArray[Any], bool] | str


class Decoder:
    """Prepares the inputs of requests. More threads than cores would decode no faster, and each keeps memory.

    Large pictures have a thread of their own, and requests take turns: none waits for all inputs of another.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._cores = available_cores()
        self._pool = ThreadPoolExecutor(self._cores, thread_name_prefix="decode")
        self._alone = ThreadPoolExecutor(1, thread_name_prefix="decode-large")

    async def prepare(self, host: Host, raws: Sequence[bytes | str]) -> list[Prepared]:
        """What the network of ``host`` reads of each, or why it cannot be read.

        Raises TimeoutError after the seconds that an answer may take; what has not begun by then is never begun.
        """
        loop = asyncio.get_running_loop()
        turns, large_turns = asyncio.Semaphore(self._cores), asyncio.Semaphore(1)

        async def one(raw: bytes | str) -> Prepared:
            async with turns:
                found = await loop.run_in_executor(self._pool, self._prepare, host, raw)
            if found is not None:
                return found
            async with large_turns:
                return await loop.run_in_executor(self._alone, _decode, host, raw)

        async with asyncio.timeout(self._limits.seconds):
            return list(await asyncio.gather(*map(one, raws)))

    def close(self) -> None:
        """Finish what is being decoded, and stop."""
        for pool in (self._pool, self._alone):
            pool.shutdown(cancel_futures=True)

    def _prepare(self, host: Host, raw: bytes | str) -> Prepared | None:
        """The same of one; None for a large picture, which is not for these threads."""
        if isinstance(raw, str):
            return _decode(host, raw)
        try:
            info = inspect_image(raw)
        except BadImage as problem:
            return str(problem)
        pixels = info.width * info.height
        if pixels > self._limits.pixels:
            return (
                f"has {info.width:,} x {info.height:,} pixels; the server takes up to {self._limits.pixels:,}"
            )
        return _decode(host, raw) if pixels <= LARGE else None


def _decode(host: Host, raw: bytes | str) -> Prepared:
    try:
        return host.prepare(raw)
    except BadInput as problem:
        return str(problem)
