"""Many LoRA tasks on one network: throughput beside PEFT's own switching, and what a small memory for them costs.

python bench/serving_tasks.py --backbone all-minilm-l6-v2 --max-length 16
python bench/serving_tasks.py --backbone efficientnet-lite0 --image-size 64

Tasks have adapters and heads of random weights: what they cost does not depend on the values. Rows are asked for all
tasks in turn, the worst order for a memory that keeps the last used. Ours goes through the batches of a host, heads and
queue included, but not through HTTP; PEFT has the same rows in batches of 32 and computes features alone: with
``set_adapter`` and a forward for each task of a batch, and with ``adapter_names``, its way for mixed batches. The ways
take turns; numbers are medians of rows per second of processor time. Memory: as many bytes as 20 of the tasks take.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from unfreeze.backbones import load_backbone
from unfreeze.bundle.classifier import Adapter, Base, Classifier
from unfreeze.bundle.folder import ADAPTER_FILES, BUNDLE, GOLDEN, HEAD, Story, save
from unfreeze.contracts import Backbone, State
from unfreeze.executors.processor import available_cores, processor_name
from unfreeze.grafts import attach, pack, unpack
from unfreeze.grafts.attach import CONFIG, TENSORS
from unfreeze.grafts.rowwise import Rowwise
from unfreeze.grafts.targets import resolve_targets
from unfreeze.heads.head import Head
from unfreeze.plan import Lora
from unfreeze.runtime.labels import Labels
from unfreeze.serving.hosting import Host
from unfreeze.serving.limits import Limits
from unfreeze.serving.tasks import Registry

BATCH = 32
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200)
RESIDENT = 20
RANK = 8
WORDS = ("meeting", "report", "prize", "winner", "election", "storm", "minister", "cash", "draft", "border")


def write_tasks(root: Path, name: str, settings: dict[str, Any]) -> list[Path]:
    """Folders of as many LoRA runs as are measured."""
    backbone, other = load_backbone(name, **settings), load_backbone(name, **settings)
    lora = Lora(
        rank=RANK, alpha=2.0 * RANK, dropout=0.0, targets=resolve_targets(backbone, ("linear",)).paths
    )
    files = pack(attach(other, lora, seed=0), lora, base=name)
    shapes = {key: tensor.shape for key, tensor in from_bytes(files[TENSORS]).items()}
    own = {key: value for key, value in settings.items() if key != "modality"}
    below = Base(name, backbone.weights_hash, **own)
    golden, folders = golden_inputs(backbone), []
    for seed in range(max(COUNTS)):
        chance = torch.Generator().manual_seed(seed)
        tensors = {key: 0.02 * torch.randn(shape, generator=chance) for key, shape in shapes.items()}
        adapter = Adapter(below, {CONFIG: files[CONFIG], TENSORS: to_bytes(tensors)})
        grafted = Rowwise(backbone).alone(unpack(backbone, adapter.files))
        weight = torch.randn((2, backbone.dim), generator=chance).numpy() / backbone.dim**0.5
        head = Head("linear", (len(backbone.stages),), {"weight": weight, "bias": weight[:, 0].copy()})
        classifier = Classifier(grafted, head, Labels(("no", "yes")), adapter=adapter)
        folder = root / f"task-{seed}"
        if folders:
            rewrite(shutil.copytree(folders[0], folder), classifier, golden)
        else:
            folder.mkdir()
            story = Story("lora", "nothing", 0, "nowhere", "none", {}, "now")
            save(classifier, folder, story=story, golden=golden)
        folders.append(folder)
    return folders


def rewrite(folder: Path, classifier: Classifier, golden: State) -> None:
    """What ``save`` would write, without waiting for the disk each time."""
    masks = {} if golden.mask is None else {"mask": golden.mask.to(torch.uint8)}
    head = {name: torch.from_numpy(array) for name, array in classifier.head.tensors.items()}
    written = {
        GOLDEN: to_bytes({"h": golden.h, "logits": classifier.logits(golden)} | masks),
        HEAD: to_bytes(head),
        ADAPTER_FILES[1]: classifier.adapter.files[TENSORS],
    }
    bundle = json.loads((folder / BUNDLE).read_text())
    for name, data in written.items():
        (folder / name).write_bytes(data)
        bundle["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / BUNDLE).write_text(json.dumps(bundle))


def golden_inputs(backbone: Backbone) -> State:
    if backbone.modality == "text":
        ids = torch.randint(1000, 2000, (2, 8), generator=torch.Generator().manual_seed(0))
        return State(ids, torch.ones_like(ids, dtype=torch.bool))
    shape = (2, backbone.preprocess.height, backbone.preprocess.width, 3)
    return State(torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


def prepared_inputs(host: Host) -> list[Any]:
    """64 short texts, or pictures of noise."""
    chance = np.random.default_rng(0)
    if host.backbone.modality == "text":
        return [host.prepare(" ".join(chance.choice(WORDS, chance.integers(4, 11)))) for _ in range(64)]
    preprocess = host.backbone.preprocess
    return [
        chance.integers(0, 256, (preprocess.height, preprocess.width, 3)).astype(np.uint8) for _ in range(64)
    ]


def rate_of(step: Callable[[], int], seconds: float) -> float:
    """Rows a second of processor time, which other programs on the machine do not take, of a step that counts rows."""
    done, began, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < began + seconds:
        done += step()
    return done / (time.process_time() - used)


def through_host(host: Host, values: list[Any], tasks: list[str]) -> Callable[[], int]:
    asked = zip(cycle(values), cycle(tasks), strict=False)

    def step() -> int:
        # Nothing is left to be computed in another way's time.
        futures = [
            future
            for value, task in islice(asked, 4 * BATCH)
            for future in host.submit([value], (task,), seconds=600)
        ]
        for future in futures:
            future.result()
        return len(futures)

    return step


class Peft:
    """The same adapters in one PeftModel, added as they are needed."""

    def __init__(self, name: str, settings: dict[str, Any], folders: list[Path], host: Host) -> None:
        self.backbone = load_backbone(name, **settings)
        self.model: PeftModel | None = None
        self.names: list[str] = []
        self._folders, self._host = folders, host

    def add(self, count: int) -> None:
        for folder in self._folders[len(self.names) : count]:
            config = LoraConfig.from_pretrained(folder / "adapter")
            if self.model is None:
                self.model = PeftModel(self.backbone.module, config, adapter_name=folder.name)
            else:
                self.model.add_adapter(folder.name, config)
            tensors = from_bytes((folder / "adapter" / TENSORS).read_bytes())
            set_peft_model_state_dict(self.model, tensors, adapter_name=folder.name)
            self.names.append(folder.name)
        self.model.eval()

    def switching(self, values: list[Any], tasks: list[str]) -> Callable[[], int]:
        asked = zip(cycle(values), cycle(tasks), strict=False)

        def step() -> int:
            groups: dict[str, list[Any]] = {}
            for value, task in islice(asked, BATCH):
                groups.setdefault(task, []).append(value)
            with torch.inference_mode():
                for task, rows in groups.items():
                    self.model.set_adapter(task)
                    self.backbone.run(self._host._batch(rows))
            return BATCH

        return step

    def mixed(self, values: list[Any], tasks: list[str]) -> Callable[[], int]:
        asked = zip(cycle(values), cycle(tasks), strict=False)

        def step() -> int:
            rows = list(islice(asked, BATCH))
            batch = self._host._batch([value for value, _ in rows])
            names = [task for _, task in rows]
            with torch.inference_mode(), self.model._enable_peft_forward_hooks(adapter_names=names):
                self.backbone.run(batch)
            return BATCH

        return step


def check_alike(peft: Peft, host: Host, values: list[Any], task: str) -> None:
    """That both compute the same features."""
    peft.model.set_adapter(task)
    with torch.inference_mode():
        theirs = peft.backbone.run(host._batch(values)).h
        ours = host.classifier(host._sources[task]).features(host._batch(values))
    assert torch.allclose(theirs, ours, rtol=1e-3, atol=1e-4), float((theirs - ours).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cores())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings: dict[str, Any] = (
        {"modality": "image", "image_size": arguments.image_size}
        if arguments.max_length is None
        else {"modality": "text", "max_length": arguments.max_length}
    )
    print(
        f"{processor_name()}, {arguments.threads} of {available_cores()} cores, {arguments.backbone}, rank {RANK}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as root:
        folders = write_tasks(Path(root), arguments.backbone, settings)
        measure(arguments, settings, folders)


def measure(arguments: argparse.Namespace, settings: dict[str, Any], folders: list[Path]) -> None:
    registry = Registry(Limits(queue=100_000, adapters=10**12))
    began, before = time.perf_counter(), 0.0
    for place, folder in enumerate(folders):
        registry.put(folder.name, folder)
        if place == 0:
            first, began = time.perf_counter() - began, time.perf_counter()
            size, before = registry.weights.size, resident_megabytes()
    (host,) = registry.hosts
    rest = len(folders) - 1
    print(
        f"loading: the first task {first:.2f} s with its network, each further one "
        f"{1e3 * (time.perf_counter() - began) / rest:.0f} ms and {(resident_megabytes() - before) / rest:.2f} MB of "
        f"the process (its weights are {size / 1e6:.2f} MB)",
        flush=True,
    )
    values = prepared_inputs(host)
    peft = Peft(arguments.backbone, settings, folders, host)
    small = Registry(Limits(queue=100_000, adapters=RESIDENT * size + size // 2))
    for folder in folders:
        small.put(folder.name, folder)
    (tight,) = small.hosts
    print(
        "tasks: ours, 20 in memory, PEFT set_adapter, PEFT adapter_names (rows per second of processor time)",
        flush=True,
    )
    for count in COUNTS:
        tasks = [folder.name for folder in folders[:count]]
        peft.add(count)
        check_alike(peft, host, values[:4], tasks[-1])
        ways = (
            through_host(host, values, tasks),
            through_host(tight, values, tasks),
            peft.switching(values, tasks),
            peft.mixed(values, tasks),
        )
        for way in ways:
            way()
        found = [[rate_of(way, arguments.seconds) for way in ways] for _ in range(arguments.repeats)]
        medians = [statistics.median(rates) for rates in zip(*found, strict=True)]
        ratios = ", ".join(f"{medians[0] / other:.2f}" for other in medians[1:])
        print(
            f"{count}: " + ", ".join(f"{rate:.0f}" for rate in medians) + f" (ours over them: {ratios})",
            flush=True,
        )
    registry.close()
    small.close()


def resident_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
