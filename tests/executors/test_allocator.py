"""Freed memory is used again instead of being mapped anew: page faults tell, in a process of its own."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from unfreeze.executors import allocator

FAULTS = """
import ctypes, resource, sys
import torch
from unfreeze.executors.allocator import give_back_freed_memory, keep_freed_memory

# PR_SET_THP_DISABLE: where the system gives huge pages to everyone, a fault brings 2 MB instead of 4 kB.
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def twenty_blocks():
    # 40 MB each, more than glibc ever learns to keep by itself.
    for _ in range(20):
        torch.ones(10_000_000)
# Where the heap ends up cut by what Python itself allocates differs from process to process; it settles.
twenty_blocks()
def resident():
    return int(open("/proc/self/statm").read().split()[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
twenty_blocks()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
give_back_freed_memory()
print(faults, held - resident())
"""


def faults(kind: str) -> tuple[int, int]:
    """Page faults of twenty blocks that are freed at once, and the pages that came back in the end."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, kind], check=True, capture_output=True, text=True, timeout=120
    )
    counted, returned = map(int, done.stdout.split())
    return counted, returned


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc here")
def test_a_freed_block_is_the_next_one() -> None:
    kept, returned = faults("kept")
    anew, _ = faults("as it is")
    pages = 40_000_000 // resource.getpagesize()
    assert 15 * pages < anew
    assert kept < anew / 2
    # What was kept is the system's again when a training is over.
    assert returned > 0.8 * pages


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory.__wrapped__() is False
    allocator.give_back_freed_memory()
