"""What this machine's processor can do and how much of it this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# Instructions that multiply bfloat16 numbers natively: x86 AVX-512 and AMX, and 64-bit Arm.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
# The variable that bounds the cores of one process among many on a machine.
CORES = "UNFREEZE_CORES"


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 natively; False where the system does not tell."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags: set[str] = set()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags.update(value.split())
    return bool(flags & BF16_FLAGS)


def available_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores this process may use, at least 1: its affinity, its control group's quota, UNFREEZE_CORES.

    Processes that were started to train together (torchrun's LOCAL_WORLD_SIZE) share them.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        if allowed != "max":
            cores = min(cores, max(1, int(allowed) // int(period)))
    except (OSError, ValueError):
        pass
    told = os.environ.get(CORES, "")
    cores = min(cores, int(told)) if told.isdecimal() else cores
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor is called, as far as the system tells."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
