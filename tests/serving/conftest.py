from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import unfreeze


@pytest.fixture(scope="session")
def other_mails(mails, tmp_path_factory):
    """A second run on the same network as ``text_run``, from other rows."""
    folder = tmp_path_factory.mktemp("other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNFREEZE_CACHE", str(folder / "cache"))
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        return unfreeze.train(
            str(mails),
            output_dir=folder / "run",
            strategy="feature-extraction",
            backbone="all-minilm-l6-v2",
            max_length=16,
            seed=5,
        )


@pytest.fixture(autouse=True)
def _only_torch(monkeypatch):
    monkeypatch.setattr("unfreeze.serving.network.available_executors", lambda device: ("torch-fp32",))
    monkeypatch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))


@dataclass(frozen=True)
class Base:
    """A network that runs stand on: its name, what it is loaded with, and inputs for it."""

    name: str
    settings: dict[str, object]
    inputs: tuple[object, ...]


@pytest.fixture(scope="session")
def bases(photos, tiny_vit) -> dict[str, Base]:
    """A vision transformer of random weights, a convolutional network and a text encoder."""
    pictures = tuple(sorted(photos.glob("*/*.png"))[:4])
    texts = (
        "claim your prize",
        "the minister on Monday",
        "?",
        "a longer text about the harvest and a strike",
    )
    return {
        "vit": Base(tiny_vit, {"modality": "image", "image_size": 32}, pictures),
        "cnn": Base("efficientnet-lite0", {"modality": "image", "image_size": 64}, pictures),
        "text": Base("all-minilm-l6-v2", {"modality": "text", "max_length": 16}, texts),
    }


@pytest.fixture(scope="session")
def make_run(bases) -> Callable[..., Path]:
    """Writes the folder of a run whose head and graft have random weights: ``patterns`` of LoRA, ``reduction`` of
    adapters, or neither.
    """
    return partial(_write_run, bases)


def _write_run(
    bases, folder, base, *, seed, classes=3, patterns=(), rank=4, alpha=8.0, blocks=None, reduction=None
):
    import torch

    from unfreeze.backbones import load_backbone, rehash
    from unfreeze.bundle.classifier import Adapter, Classifier
    from unfreeze.bundle.classifier import Base as Below
    from unfreeze.bundle.folder import Story, save
    from unfreeze.contracts import State
    from unfreeze.grafts import attach, pack, settle
    from unfreeze.grafts.targets import resolve_targets
    from unfreeze.heads.head import Head
    from unfreeze.plan import Adapters, Lora
    from unfreeze.runtime.labels import Labels
    from unfreeze.runtime.reading import Reader

    given = bases[base]
    backbone = load_backbone(given.name, **given.settings)
    chance, adapter = torch.Generator().manual_seed(seed), None
    if patterns or reduction:
        targets = resolve_targets(backbone, patterns, blocks).paths if patterns else ()
        graft = (
            Lora(rank=rank, alpha=alpha, dropout=0.0, targets=targets)
            if patterns
            else Adapters(reduction=reduction, blocks=backbone.blocks)
        )
        own = {name: value for name, value in given.settings.items() if name != "modality"}
        below = Below(given.name, backbone.weights_hash, **own)
        backbone = attach(backbone, graft, seed=seed)
        for name, weight in backbone.module.named_parameters():
            if "lora_B" in name or "adapter.up" in name:
                weight.data = 0.05 * torch.randn(weight.shape, generator=chance)
        adapter = Adapter(below, pack(backbone, graft, base=given.name))
        backbone.module.eval().requires_grad_(False)
        backbone = rehash(settle(backbone, graft))
    weight = (torch.randn((classes, backbone.dim), generator=chance) / backbone.dim**0.5).numpy()
    head = Head("linear", (len(backbone.stages),), {"weight": weight, "bias": weight[:, 0].copy()})
    reader = Reader(backbone.preprocess, backbone.assets.get("tokenizer.json"))
    raws = [value if isinstance(value, str) else value.read_bytes() for value in given.inputs]
    batch = reader.batch([reader.prepare(raw) for raw in raws])
    folder.mkdir(parents=True)
    save(
        Classifier(
            backbone, head, Labels(tuple(f"class {number}" for number in range(classes))), adapter=adapter
        ),
        folder,
        story=Story("lora" if adapter else "feature-extraction", "nothing", 0, "nowhere", "none", {}, "now"),
        golden=State(*map(torch.from_numpy, batch.values())),
    )
    return folder
