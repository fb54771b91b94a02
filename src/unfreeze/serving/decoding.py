"""Raw inputs to what a network reads, in as many threads as there are cores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from unfreeze.executors.processor import available_cores
from unfreeze.runtime.decode import BadImage, inspect_image
from unfreeze.serving.hosting import Host
from unfreeze.serving.limits import Limits

# A transparent picture of 50 million pixels takes 1 GB on its way to 224 x 224: such ones go one at a time.
LARGE = 12_000_000

Prepared = NDArray[Any] | str


class Decoder:
    """Prepares the inputs of requests. More threads than cores would decode no faster, and each keeps memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="decode")
        self._large = threading.Lock()

    async def prepare(self, host: Host, raws: Sequence[bytes | str]) -> list[Prepared]:
        """What the network of ``host`` reads of each, or why it cannot be read."""
        loop = asyncio.get_running_loop()
        return list(
            await asyncio.gather(
                *(loop.run_in_executor(self._pool, self._prepare, host, raw) for raw in raws)
            )
        )

    def close(self) -> None:
        """Finish what is being decoded, and stop."""
        self._pool.shutdown(cancel_futures=True)

    def _prepare(self, host: Host, raw: bytes | str) -> Prepared:
        try:
            if isinstance(raw, str):
                return host.prepare(raw)
            info = inspect_image(raw)
            pixels = info.width * info.height
            if pixels > self._limits.pixels:
                return f"has {info.width:,} x {info.height:,} pixels; the server takes up to {self._limits.pixels:,}"
            if pixels <= LARGE:
                return host.prepare(raw)
            with self._large:
                return host.prepare(raw)
        except BadImage as problem:
            return str(problem)
