"""How many threads read and decode beside an executor."""

from __future__ import annotations

from unfreeze.executors.processor import available_cores

# More decoders than this only wait for each other's files.
MOST_READERS = 16


def reading_threads(device: str | None, cores: int | None = None) -> int:
    """Threads that decode while an executor runs on ``device``, of ``cores`` (default: those of this process).

    An executor on the processor uses every core itself, so that decoders get half as many threads as there are
    cores and, a few batches ahead, sleep. Beside an accelerator they get all cores but the one that feeds it, and all
    of them where none runs (None).
    """
    cores = available_cores() if cores is None else cores
    if device is None:
        return min(cores, MOST_READERS)
    share = cores // 2 if device.partition(":")[0] == "cpu" else cores - 1
    return max(1, min(share, MOST_READERS))
