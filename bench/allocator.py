"""What keeping freed memory is worth: training steps on the processor with glibc's own habits and with ours.

    python bench/allocator.py

Every figure comes from a process of its own, since a process cannot take its settings back; the two sides take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor, nn

from unfreeze.backbones import load_backbone
from unfreeze.contracts import Backbone, State
from unfreeze.engine import suffix
from unfreeze.executors.allocator import keep_freed_memory

ROWS, WARM, STEPS = 32, 2, 5
CASES = ("efficientnet-lite0", "minilm-l6")


def batch_for(backbone: Backbone) -> State:
    chance = torch.Generator().manual_seed(0)
    if backbone.modality == "image":
        return State(torch.randint(0, 256, (ROWS, 224, 224, 3), dtype=torch.uint8, generator=chance))
    ids = torch.randint(1000, 2000, (ROWS, 128), generator=chance)
    return State(ids, torch.ones_like(ids))


def plain_loop(batch: Tensor) -> tuple[nn.Module, Tensor]:
    """The loop of timm's documentation: the model as it is created, a normalised batch."""
    import timm

    model = timm.create_model("efficientnet_lite0", num_classes=0).train()
    return model, batch.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def one(case: str, kind: str) -> None:
    """Print the median milliseconds a row, forward and backward, and the process's highest memory."""
    backbone = load_backbone(case, modality="text" if case == CASES[1] else "image")
    batch = batch_for(backbone)
    if kind == "plain":
        model, pixels = plain_loop(batch.h)

        def step() -> None:
            model(pixels).square().mean().backward()
    else:
        if kind == "mapped anew":
            suffix.keep_freed_memory = lambda: False
        else:
            assert keep_freed_memory(), "This system's C library has no such settings."
        backbone.module.train().requires_grad_(True)
        trained = suffix.Suffix(backbone, 0, torch.device("cpu"), "fp32", steps=STEPS)

        def step() -> None:
            trained(batch).square().mean().backward()

    seconds = []
    for _ in range(WARM + STEPS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps([1000 * statistics.median(seconds[WARM:]) / ROWS, highest]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    print("| training step | ms a row | highest memory, GiB |\n|---|---|---|")
    for case in CASES:
        kinds = (*(("plain",) if case == CASES[0] else ()), "mapped anew", "kept")
        found: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
        for _ in range(arguments.rounds):
            for kind in kinds:
                said = subprocess.run(
                    [sys.executable, __file__, "--one", case, kind],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                found[kind].append(json.loads(said.stdout.splitlines()[-1]))
        for kind, figures in found.items():
            pace, memory = (statistics.median(column) for column in zip(*figures, strict=True))
            print(f"| {case}, {kind} | {pace:.1f} | {memory:.1f} |", flush=True)


if __name__ == "__main__":
    main()
