"""The run folder: names of its files, and how it is saved.

``bundle.json`` is written last and lists the hashes of what loading relies on, so a folder without it is unfinished
and a folder whose files do not match it was changed. Nothing in it is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unfreeze.bundle.classifier import Classifier
from unfreeze.bundle.schema import (
    SCHEMA_VERSION,
    BackboneEntry,
    BaseEntry,
    BundleFile,
    CalibrationEntry,
    DataEntry,
    HeadEntry,
    ThresholdEntry,
)
from unfreeze.contracts import State
from unfreeze.runtime.files import file_hash, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

BUNDLE = "bundle.json"
WEIGHTS = "model.safetensors"
HEAD = "head.safetensors"
ADAPTER = "adapter"
ADAPTER_FILES = (f"{ADAPTER}/adapter_config.json", f"{ADAPTER}/adapter_model.safetensors")
GOLDEN = "golden.safetensors"
EXAMPLES = "examples.safetensors"
ASSETS = "assets"
CHECKPOINTS = "checkpoints"
# Whoever hands a run on may remove these first; everything else of a run must be there.
REMOVABLE = (EXAMPLES,)


@dataclass(frozen=True)
class Story:
    """What the folder records beside the classifier itself."""

    strategy: str
    calibrated_on: str
    calibration_rows: int
    data_source: str
    data_fingerprint: str
    data_rows: Mapping[str, int]
    created: str
    lineage: tuple[str, ...] = ()


def save(
    classifier: Classifier, folder: Path, *, story: Story, golden: State, examples: bytes | None = None
) -> BundleFile:
    """Write weights, assets, golden inputs and, last, ``bundle.json``; returns what was written there.

    ``examples``: the file of ``write_examples``, where the run is to carry some.
    """
    import torch
    from safetensors.torch import save as to_bytes

    backbone, adapter = classifier.backbone, classifier.adapter
    inputs: dict[str, Tensor] = {"h": golden.h.contiguous()}
    if golden.mask is not None:
        inputs["mask"] = golden.mask.to(torch.uint8).contiguous()
    contents = _weights(classifier)
    contents[GOLDEN] = to_bytes(inputs | {"logits": classifier.logits(golden).contiguous()})
    contents |= {f"{ASSETS}/{name}": data for name, data in backbone.assets.items()}
    if examples is not None:
        contents[EXAMPLES] = examples
    for name, data in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, data)
    bundle = BundleFile(
        schema_version=SCHEMA_VERSION,
        created=story.created,
        modality=backbone.modality,
        labels=classifier.labels.names,
        preprocess=backbone.preprocess.to_dict(),
        backbone=BackboneEntry(
            name=backbone.name,
            recipe=dict(backbone.recipe),
            weights_hash=backbone.weights_hash,
            assets=tuple(sorted(backbone.assets)),
            base=None if adapter is None else BaseEntry(**vars(adapter.base)),
        ),
        head=HeadEntry(kind=classifier.head.kind, boundaries=classifier.head.boundaries),
        strategy=story.strategy,
        calibration=CalibrationEntry(
            temperature=classifier.temperature, fitted_on=story.calibrated_on, rows=story.calibration_rows
        ),
        threshold=None if classifier.threshold is None else ThresholdEntry(**vars(classifier.threshold)),
        data=DataEntry(
            source=story.data_source,
            folder=str(Path.cwd()),
            fingerprint=story.data_fingerprint,
            rows=dict(story.data_rows),
        ),
        packages=package_versions(),
        lineage=story.lineage,
        files={name: file_hash(folder / name) for name in contents},
    )
    write_atomically(folder / BUNDLE, bundle.model_dump_json(indent=2) + "\n")
    return bundle


def _weights(classifier: Classifier) -> dict[str, bytes]:
    """The files of the weights by name: all of them, or the adapter and the head beside it."""
    import torch
    from safetensors.torch import save as to_bytes

    head = {
        name: torch.from_numpy(np.ascontiguousarray(values))
        for name, values in classifier.head.tensors.items()
    }
    if classifier.adapter is not None:
        files = {f"{ADAPTER}/{name}": data for name, data in classifier.adapter.files.items()}
        return files | {HEAD: to_bytes(head)}
    # .clone() because safetensors refuses tensors that share memory, which tied weights do.
    tensors = {
        f"backbone.{name}": tensor.detach().cpu().clone().contiguous()
        for name, tensor in classifier.backbone.module.state_dict().items()
    }
    return {WEIGHTS: to_bytes(tensors | {f"head.{name}": tensor for name, tensor in head.items()})}


def package_versions() -> dict[str, str]:
    """The versions of what decides a run's numbers, of those that are installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in (
        "unfreeze",
        "torch",
        "timm",
        "transformers",
        "tokenizers",
        "openvino",
        "peft",
        "numpy",
        "pillow",
        "scikit-learn",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
