"""Backbones worth knowing, the default of this machine, and what of them is on this disk."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace

from unfreeze.backbones.offline import LITE0, MINILM, PACKAGES, find_package
from unfreeze.backbones.staging import FROM_FILE
from unfreeze.contracts import Backbone, Modality
from unfreeze.errors import missing_extra


@dataclass(frozen=True)
class BackboneEntry:
    """One line of ``unfreeze backbones``.

    ``name``: as ``load_backbone`` takes it. ``parameters``: without classifier. ``size``: pixels of a side,
    or tokens, that it reads by default. ``source``: where the weights come from. None where it is not known.
    """

    name: str
    modality: Modality
    parameters: int | None
    size: int | None
    source: str
    licence: str | None
    on_disk: bool = False
    note: str = ""


def _timm(
    name: str, parameters: int, licence: str, note: str, *, size: int = 224, owner: str = "timm"
) -> BackboneEntry:
    return BackboneEntry(name, "image", parameters, size, f"{owner}/{name}", licence, note=note)


def _hf(name: str, parameters: int, licence: str, note: str) -> BackboneEntry:
    return BackboneEntry(name, "text", parameters, 256, name, licence, note=note)


# Parameters were counted on the architectures; licences are those that the weights' authors publish.
CATALOG: tuple[BackboneEntry, ...] = (
    BackboneEntry(
        LITE0.backbone,
        "image",
        3_371_008,
        224,
        f"pip {LITE0.distribution}",
        LITE0.licence,
        note="offline default; small and fast, ImageNet",
    ),
    _timm(
        "vit_small_patch14_dinov2.lvd142m",
        21_628_800,
        "Apache-2.0",
        "self-supervised, strong frozen features",
    ),
    _timm("vit_base_patch14_dinov2.lvd142m", 85_724_928, "Apache-2.0", "as above, 4 x the size"),
    _timm("vit_small_patch16_dinov3.lvd1689m", 21_586_944, "DINOv3", "self-supervised", size=256),
    _timm("vit_base_patch16_224.augreg2_in21k_ft_in1k", 85_798_656, "Apache-2.0", "the classic ViT"),
    _timm("convnext_tiny.in12k_ft_in1k", 27_820_128, "Apache-2.0", "ImageNet-12k; a good all-rounder"),
    _timm("swin_tiny_patch4_window7_224.ms_in1k", 27_519_354, "MIT", "hierarchical transformer"),
    _timm("efficientnet_b0.ra_in1k", 4_007_548, "Apache-2.0", "small"),
    _timm("mobilenetv3_large_100.ra_in1k", 4_202_032, "Apache-2.0", "for phones"),
    _timm("resnet18.a1_in1k", 11_176_512, "Apache-2.0", "small classic"),
    _timm("resnet50.a1_in1k", 23_508_032, "Apache-2.0", "the classic"),
    _timm("resnet50.tv2_in1k", 23_508_032, "BSD-3-Clause", "as torchvision/resnet50", size=176),
    BackboneEntry(
        MINILM.backbone,
        "text",
        22_565_376,
        256,
        f"pip {MINILM.distribution}",
        MINILM.licence,
        note="offline default; small sentence encoder, English",
    ),
    _hf("sentence-transformers/all-mpnet-base-v2", 108_895_872, "Apache-2.0", "sentence encoder, English"),
    _hf("BAAI/bge-small-en-v1.5", 33_212_160, "MIT", "sentence encoder, English"),
    _hf(
        "answerdotai/ModernBERT-base",
        149_014_272,
        "Apache-2.0",
        "long texts (8,192 tokens), English and code",
    ),
    _hf("FacebookAI/roberta-base", 124_055_040, "MIT", "the classic to fine-tune, English"),
    _hf("google-bert/bert-base-uncased", 108_891_648, "Apache-2.0", "the classic, English"),
    _hf("distilbert/distilbert-base-uncased", 66_362_880, "Apache-2.0", "a BERT of half the depth, English"),
    _hf("google/electra-small-discriminator", 13_483_008, "Apache-2.0", "small, to fine-tune, English"),
    _hf("microsoft/deberta-v3-base", 183_831_552, "MIT", "strong when fine-tuned, English"),
    _hf("FacebookAI/xlm-roberta-base", 277_453_056, "MIT", "100 languages"),
    _hf("Qwen/Qwen3-0.6B-Base", 596_049_920, "Apache-2.0", "decoder, last-token pooling, 119 languages"),
)

# Best first, among those whose frozen pass stays practical on a CPU. The judgement behind the order: features
# of self-supervised or larger pretraining sets transfer further than ImageNet-1k's.
_RANKING: dict[Modality, tuple[str, ...]] = {
    "image": (
        "vit_small_patch14_dinov2.lvd142m",
        "convnext_tiny.in12k_ft_in1k",
        "resnet50.a1_in1k",
        "efficientnet_b0.ra_in1k",
    ),
    "text": ("sentence-transformers/all-mpnet-base-v2", "BAAI/bge-small-en-v1.5"),
}


def default_backbone(modality: Modality) -> tuple[str, str]:
    """The name of the best backbone that is on this disk, and why it was taken; no network is used.

    Raises RequestError with the install line when nothing is there.
    """
    by_name = {entry.name: entry for entry in CATALOG}
    ranking = _RANKING[modality]
    best = ranking[0]
    for name in ranking:
        if _on_disk(by_name[name]):
            better = "" if name == best else f"; {best} is ranked higher and would have to be downloaded"
            return name, f"the best {modality} backbone already on this disk{better}"
    package = next(package for package in PACKAGES if package.modality == modality)
    if find_package(package) is None:
        raise missing_extra("offline", f"Training on {modality}s without downloaded weights")
    size = (by_name[best].parameters or 0) / 1e6
    return package.backbone, (
        f"it comes with the pip package {package.distribution}, so nothing is downloaded; {best} "
        f"({size:.0f} M parameters) is ranked higher and would have to be downloaded: --backbone {best}"
    )


def published_as(backbone: Backbone) -> str | None:
    """The hub repository that publishes the weights from which this backbone was loaded, where that is certain."""
    if any(note.startswith(FROM_FILE) for note in backbone.notes):
        return None
    name = backbone.name
    identity = name.removeprefix("hf-hub:")
    if identity.count("/") == 1:
        return identity
    package = next((package for package in PACKAGES if package.backbone == name), None)
    if package is not None:
        return package.published
    entry = next((entry for entry in CATALOG if entry.name == name), None)
    if entry is None and "." in name:
        return f"timm/{name}" if _is_published_by_timm(name) else None
    return entry.source if entry is not None and "/" in entry.source else None


def _is_published_by_timm(name: str) -> bool:
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    return config is not None and config.hf_hub_id == f"timm/{name}"


def list_backbones(pattern: str | None = None) -> tuple[BackboneEntry, ...]:
    """The catalogue, then what else the hub cache holds, then, with a pattern, all of timm that matches it.

    ``pattern``: part of a name, or a glob; case does not matter.
    """
    listed = [replace(entry, on_disk=_on_disk(entry)) for entry in CATALOG]
    listed += _cached({entry.source for entry in listed})
    if pattern is None:
        return tuple(listed)
    glob = pattern.lower() if any(sign in pattern for sign in "*?[") else f"*{pattern.lower()}*"
    listed = [entry for entry in listed if fnmatch.fnmatchcase(entry.name.lower(), glob)]
    known = {entry.name for entry in listed}
    import timm

    for name in timm.list_pretrained(glob):
        if name not in known:
            entry = _timm(name, 0, "", "")
            listed.append(replace(entry, parameters=None, size=None, licence=None))
    return tuple(listed)


def _on_disk(entry: BackboneEntry) -> bool:
    for package in PACKAGES:
        if package.backbone == entry.name:
            return find_package(package) is not None
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(entry.source, file), str) for file in files)


def _cached(known: set[str]) -> list[BackboneEntry]:
    """Entries for the models of the hub cache that the catalogue does not name."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        # Named: by default it scans the place that was set when its module was loaded.
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    entries = []
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        files = {file.file_name for revision in repository.revisions for file in revision.files}
        if repository.repo_type != "model" or repository.repo_id in known:
            continue
        if not any(file.endswith((".safetensors", ".bin")) for file in files):
            continue
        identity = repository.repo_id
        if identity.startswith("timm/"):
            name, modality = identity.removeprefix("timm/"), "image"
        elif any(file.startswith("tokenizer") for file in files):
            name, modality = identity, "text"
        else:
            continue
        entries.append(_entry_of_cache(name, modality, identity))
    return entries


def _entry_of_cache(name: str, modality: str, source: str) -> BackboneEntry:
    kind: Modality = "image" if modality == "image" else "text"
    return BackboneEntry(name, kind, None, None, source, None, on_disk=True, note="in the hub cache")
