"""Rows a second of every executor beside plain PyTorch, in one run on this machine.

    python bench/frozen_pass.py
    python bench/frozen_pass.py --weights vit_small_patch14_dinov2.safetensors --texts mails.parquet

The baseline is what one would write without this program: for images the timm model in eager float32 on
normalised (batch, 3, height, width) tensors; for texts the transformers model in eager float32 on batches in
random order, padded to their longest text. Decoding and tokenising are left out on both sides; normalising is
part of ours. All run in turns, `--repetitions` times; the median counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from unfreeze.backbones import load_backbone
from unfreeze.contracts import Backbone, Executor, State
from unfreeze.engine.batches import pad_texts
from unfreeze.executors import available_executors, build_executor, measure_error, unavailable_executors
from unfreeze.executors.processor import available_cores, processor_name
from unfreeze.runtime.decode import decode_image
from unfreeze.runtime.tokenize import TextEncoder

BATCH_SIZE = 32
MOST_TOKENS = 256
EXECUTORS = ("torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16")


@dataclass(frozen=True)
class Contender:
    name: str
    run: Callable[[], None]
    executor: Executor | None = None


@dataclass(frozen=True)
class Case:
    """One backbone: its baseline, its batches as an executor gets them, and how many rows they hold."""

    backbone: Backbone
    baseline: Contender
    batches: list[State]
    rows: int
    unit: str


def main() -> None:
    arguments = parse()
    torch.set_num_threads(available_cores())
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "transformers", "openvino"))
    print(f"{processor_name()}, {available_cores()} cores, {versions}")
    print(f"Batches of {BATCH_SIZE}, median of {arguments.repetitions} repetitions in turns.\n")
    print(f"{'backbone':26} {'executor':34} {'rows/s':>8} {'ratio':>6} {'error: median':>14} {'largest':>8}")
    pictures = solar_pictures(arguments.images)
    lite0 = load_backbone("efficientnet-lite0", modality="image")
    compare(image_case(lite0, pictures), arguments.repetitions)
    if arguments.weights is None or not arguments.weights.is_file():
        print("DINOv2 ViT-S: skipped, no file of weights (--weights, or $UNFREEZE_BENCH_WEIGHTS)")
    else:
        name = f"timm:vit_small_patch14_dinov2@{arguments.weights}"
        dinov2 = load_backbone(name, modality="image", image_size=224)
        compare(image_case(dinov2, pictures[: max(BATCH_SIZE, arguments.images // 4)]), arguments.repetitions)
    if arguments.texts is None or not arguments.texts.is_file():
        print("MiniLM-L6: skipped, no file of texts (--texts, or $UNFREEZE_BENCH_TEXTS)")
    else:
        minilm = load_backbone("minilm-l6", modality="text", max_length=MOST_TOKENS)
        compare(text_case(minilm, read_texts(arguments.texts, arguments.rows)), arguments.repetitions)


def parse() -> argparse.Namespace:
    weights, texts = os.environ.get("UNFREEZE_BENCH_WEIGHTS"), os.environ.get("UNFREEZE_BENCH_TEXTS")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=128, help="images (a quarter of them for DINOv2)")
    parser.add_argument("--rows", type=int, default=192, help="texts")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--weights", type=Path, default=weights and Path(weights))
    parser.add_argument(
        "--texts", type=Path, default=texts and Path(texts), help="Parquet with a column 'text'"
    )
    return parser.parse_args()


def solar_pictures(count: int) -> list[bytes]:
    from unfreeze.demo import solar_cells

    return [cell.image.read_bytes() for cell in solar_cells()[:count]]


def read_texts(path: Path, rows: int) -> list[str]:
    from pyarrow import parquet

    texts = parquet.read_table(path, columns=["text"])["text"].to_pylist()
    chosen = np.random.default_rng(0).permutation(len(texts))[:rows]
    return [texts[row] for row in chosen]


def image_case(backbone: Backbone, pictures: Sequence[bytes]) -> Case:
    pixels = torch.from_numpy(np.stack([decode_image(picture, backbone.preprocess) for picture in pictures]))
    mean = torch.tensor(backbone.preprocess.mean).view(1, 3, 1, 1)
    std = torch.tensor(backbone.preprocess.std).view(1, 3, 1, 1)
    normal = ((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()

    def plain() -> None:
        with torch.inference_mode():
            for batch in normal.split(BATCH_SIZE):
                backbone.module(batch)

    batches = [State(batch) for batch in pixels.split(BATCH_SIZE)]
    return Case(backbone, Contender("plain PyTorch fp32", plain), batches, len(pixels), "images")


def text_case(backbone: Backbone, texts: Sequence[str]) -> Case:
    ids = TextEncoder(backbone.preprocess, backbone.assets["tokenizer.json"]).encode(texts)
    pad = backbone.preprocess.pad_id
    at_random = [to_longest(ids[start : start + BATCH_SIZE], pad) for start in range(0, len(ids), BATCH_SIZE)]

    def plain() -> None:
        with torch.inference_mode():
            for h, mask in at_random:
                hidden = backbone.module(input_ids=h, attention_mask=mask).last_hidden_state
                (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)

    ids.sort(key=len, reverse=True)
    most = backbone.preprocess.max_length
    starts = range(0, len(ids), BATCH_SIZE)
    batches = [pad_texts(ids[start : start + BATCH_SIZE], pad, most=most) for start in starts]
    name = "plain PyTorch fp32, random order"
    return Case(backbone, Contender(name, plain), batches, len(ids), "texts")


def to_longest(ids: Sequence[np.ndarray], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [torch.from_numpy(row) for row in ids]
    h = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows])
    return h, (torch.arange(h.shape[1]) < lengths[:, None]).long()


def compare(case: Case, repetitions: int) -> None:
    depth = len(case.backbone.stages)
    contenders = [case.baseline]
    with tempfile.TemporaryDirectory() as folder:
        for name in EXECUTORS:
            if name not in available_executors():
                continue
            contenders.append(ours(name, case, (depth,), Path(folder)))
            if name == "openvino-fp32":
                contenders.append(ours(name, case, tuple(range(1, depth + 1)), Path(folder)))
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        contender.run()
    for _ in range(repetitions):
        for contender in contenders:
            start = time.perf_counter()
            contender.run()
            seconds[contender.name].append(time.perf_counter() - start)
    reference = build_executor("torch-fp32", case.backbone, boundaries=(depth,))
    base = statistics.median(seconds[case.baseline.name])
    for contender in contenders:
        middle = statistics.median(seconds[contender.name])
        error = ""
        if contender.executor is not None and contender.executor.boundaries == (depth,):
            measured = measure_error(contender.executor, reference, case.batches[:1])
            error = f"{measured.relative_median:14.1e} {measured.relative_max:8.1e}"
        print(
            f"{case.backbone.name:26} {contender.name:34} {case.rows / middle:8.1f} {base / middle:6.2f} {error}",
            flush=True,
        )
    for name, reason in unavailable_executors().items():
        print(f"{case.backbone.name:26} {name:34} {reason}")
    print(f"({case.rows} {case.unit})\n")


def ours(name: str, case: Case, boundaries: tuple[int, ...], cache: Path) -> Contender:
    executor = build_executor(name, case.backbone, boundaries=boundaries, cache_dir=cache)

    def run() -> None:
        for batch in case.batches:
            executor(batch)

    return Contender(name if len(boundaries) == 1 else f"{name}, every depth", run, executor)


if __name__ == "__main__":
    main()
