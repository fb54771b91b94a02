"""What a device computes in, when it is done, and how much memory it took."""

from __future__ import annotations

import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from unfreeze.executors.processor import has_bf16, processor_name

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]


def precisions(device: torch.device, wanted: str) -> tuple[Precision, ...]:
    """What a training may compute in on ``device``, the exact one first; ``wanted``: auto, or one of them.

    float16 is a candidate only for GPUs without bfloat16, which is as fast and needs no scaled loss.
    """
    import torch

    if wanted == "fp32":
        return ("fp32",)
    if wanted == "bf16":
        return ("bf16",)
    if wanted == "fp16":
        return ("fp16",)
    if device.type == "cuda":
        return ("fp32", "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")
    return ("fp32", "bf16") if device.type == "cpu" and has_bf16() else ("fp32",)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which ``device`` computes in this precision."""
    import torch

    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    # A graph must not read a cast weight that another pass has cached.
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)


def hardware_name(device: torch.device) -> str | None:
    """What computes there: the GPU's name, or the processor's; None where nobody tells."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def has_room(device: torch.device, nbytes: int) -> bool:
    """Whether an accelerator may hold so many bytes all through a training: a quarter of its free memory at most."""
    return device.type == "cuda" and nbytes <= free_on(device) / 4


def free_on(device: torch.device) -> int:
    """Bytes of an accelerator that this process may take: free ones, and what its allocator holds and does not use."""
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def peak_bytes(device: torch.device) -> int:
    """The most memory taken so far: of the device, or of this process where it is the processor.

    Of a GPU all that the allocator held, as of a process: what a captured graph works in is never allocated again when
    it is replayed, and a process beside this one cannot have it.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def seed_chance(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on this device draws from.

    ``torch.manual_seed`` also notes the whole call stack for every accelerator that is not in use: 3 ms each time.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
