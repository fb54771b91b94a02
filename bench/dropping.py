"""What drawing dropout by itself is worth: training steps of MiniLM with PyTorch's dropout and with the engine's.

    python bench/dropping.py [--length 256]

The two sides take turns in one process, on the same batch. "none" is the same network without any dropout: the bound.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext

import torch
from torch import nn

from unfreeze.backbones import load_backbone
from unfreeze.contracts import State
from unfreeze.engine import suffix
from unfreeze.engine.devices import Precision, precisions
from unfreeze.engine.kernels import ProcessorKernels
from unfreeze.engine.suffix import Suffix
from unfreeze.executors.processor import available_cores, processor_name

ROWS, WARM, STEPS = 16, 1, 7
SIDES = ("PyTorch's", "the engine's", "none")


def measure(precision: Precision, length: int) -> dict[str, float]:
    """Median seconds of a step, forward and backward, by side."""
    backbone = load_backbone("minilm-l6", modality="text")
    backbone.module.train().requires_grad_(True)
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 2000, (ROWS, length), generator=chance)
    mask = torch.ones_like(ids)
    # Texts of a batch are about as long as each other, and seldom equally long.
    mask[::2, length * 7 // 8 :] = 0
    run = Suffix(backbone, 0, torch.device("cpu"), precision, steps=STEPS)
    dropouts = [module for module in backbone.module.modules() if isinstance(module, nn.Dropout)]
    kept = [module.p for module in dropouts]
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for attempt in range(WARM + STEPS):
        for side in SIDES:
            suffix.ProcessorKernels = nullcontext if side == SIDES[0] else ProcessorKernels
            for module, p in zip(dropouts, kept, strict=True):
                module.p = 0.0 if side == SIDES[2] else p
            began = time.perf_counter()
            run(State(ids, mask)).square().mean().backward()
            backbone.module.zero_grad(set_to_none=True)
            if attempt >= WARM:
                seconds[side].append(time.perf_counter() - began)
    return {side: statistics.median(times) for side, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=256, help="tokens of a text")
    length = parser.parse_args().length
    torch.set_num_threads(available_cores())
    print(
        f"{processor_name()} ({available_cores()} cores), torch {torch.__version__}: {ROWS} texts of {length}"
    )
    print(f"| precision | {' | '.join(SIDES)} | times faster |\n|---|---|---|---|---|")
    for precision in precisions(torch.device("cpu"), "auto"):
        found = measure(precision, length)
        cells = [f"{found[side]:.3f} s" for side in SIDES]
        print(f"| {precision} | {' | '.join(cells)} | {found[SIDES[0]] / found[SIDES[1]]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
