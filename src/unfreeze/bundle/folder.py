"""The run folder: names of its files, how it is claimed, saved and loaded.

``bundle.json`` is written last and lists the hashes of what loading relies on, so a folder without it is unfinished
and a folder whose files do not match it was changed. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier, Threshold
from unfreeze.bundle.schema import (
    SCHEMA_VERSION,
    BackboneEntry,
    BundleFile,
    CalibrationEntry,
    DataEntry,
    HeadEntry,
    ThresholdEntry,
)
from unfreeze.contracts import State
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.heads.head import Head
from unfreeze.runtime.files import file_hash, write_atomically
from unfreeze.runtime.labels import Labels
from unfreeze.runtime.preprocess import preprocess_from_dict

if TYPE_CHECKING:
    from torch import Tensor

BUNDLE = "bundle.json"
WEIGHTS = "model.safetensors"
GOLDEN = "golden.safetensors"
ASSETS = "assets"
CHECKPOINTS = "checkpoints"
# fp32 sums in another order on another processor: 1e-3 of the largest logit is far above that and far below a defect.
GOLDEN_TOLERANCE = 1e-3


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


@dataclass(frozen=True)
class Loaded:
    """A run folder that passed every check."""

    classifier: Classifier
    bundle: BundleFile
    folder: Path


def claim_folder(folder: Path, *, resume: bool = False) -> None:
    """Create the folder of a new run; raises RequestError when it is taken or cannot be written.

    ``resume``: the folder of a run that was stopped is taken up again; a finished one is refused.
    """
    if resume and (folder / BUNDLE).exists():
        raise RequestError(f"--resume: the run in {folder} is finished. Choose another --output-dir.")
    if resume and not (folder / CHECKPOINTS).is_dir():
        raise RequestError(f"--resume: {folder} holds no checkpoints. Leave --resume out to start there.")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(
            f"{folder} exists already and is not empty. Choose another --output-dir, or remove it first."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as problem:
        raise RequestError(
            f"{folder} cannot be written ({problem.strerror or problem}). Choose another --output-dir."
        ) from None


def release_folder(folder: Path) -> None:
    """Remove the folder of a run that failed before it left anything there."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def save(classifier: Classifier, folder: Path, *, story: Story, golden: State) -> BundleFile:
    """Write weights, assets, golden inputs and, last, ``bundle.json``; returns what was written there."""
    import torch
    from safetensors.torch import save as to_bytes

    backbone = classifier.backbone
    # .clone() because safetensors refuses tensors that share memory, which tied weights do.
    tensors = {
        f"backbone.{name}": tensor.detach().cpu().clone()
        for name, tensor in backbone.module.state_dict().items()
    }
    tensors |= {
        f"head.{name}": torch.from_numpy(np.ascontiguousarray(values))
        for name, values in classifier.head.tensors.items()
    }
    inputs: dict[str, Tensor] = {"h": golden.h.contiguous()}
    if golden.mask is not None:
        inputs["mask"] = golden.mask.to(torch.uint8).contiguous()
    contents = {WEIGHTS: to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()})}
    contents[GOLDEN] = to_bytes(inputs | {"logits": classifier.logits(golden).contiguous()})
    contents |= {f"{ASSETS}/{name}": data for name, data in backbone.assets.items()}
    if backbone.assets:
        (folder / ASSETS).mkdir(exist_ok=True)
    for name, data in contents.items():
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
        ),
        head=HeadEntry(kind=classifier.head.kind, boundaries=classifier.head.boundaries),
        strategy=story.strategy,
        calibration=CalibrationEntry(
            temperature=classifier.temperature, fitted_on=story.calibrated_on, rows=story.calibration_rows
        ),
        threshold=None if classifier.threshold is None else ThresholdEntry(**vars(classifier.threshold)),
        data=DataEntry(
            source=story.data_source, fingerprint=story.data_fingerprint, rows=dict(story.data_rows)
        ),
        packages=package_versions(),
        lineage=story.lineage,
        files={name: file_hash(folder / name) for name in contents},
    )
    write_atomically(folder / BUNDLE, bundle.model_dump_json(indent=2) + "\n")
    return bundle


def read_bundle(folder: Path) -> BundleFile:
    """The checked ``bundle.json`` of a run folder; raises RequestError with the field that is wrong."""
    from pydantic import ValidationError

    if not folder.is_dir():
        raise RequestError(f"{folder} is no run folder: it does not exist or is a file.")
    try:
        text = (folder / BUNDLE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{folder} is no finished run: it has no {BUNDLE}.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise RequestError(f"{folder / BUNDLE} cannot be read: {problem}.") from None
    try:
        version = json.loads(text).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise RequestError(
                f"{folder} was written by a newer Unfreeze (schema {version}): upgrade to read it."
            )
        return BundleFile.model_validate_json(text)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RequestError(f"{folder / BUNDLE} is damaged at {where}: {first['msg']}.") from None
    except (ValueError, AttributeError):
        raise RequestError(f"{folder / BUNDLE} is damaged: it holds no JSON object.") from None


def load(folder: Path) -> Loaded:
    """The classifier of a run folder, after checking hashes, schema and golden answers.

    Raises RequestError when the folder is no run, was changed, or does not answer as it did when it was saved.
    """
    from safetensors import SafetensorError

    bundle = read_bundle(folder)
    for name, wanted in bundle.files.items():
        _check_file(folder, name, wanted)
    for name in (WEIGHTS, GOLDEN):
        if name not in bundle.files:
            raise RequestError(f"{folder / BUNDLE} lists no {name}: the run folder is damaged.")
    for name in bundle.backbone.assets:
        if f"{ASSETS}/{name}" not in bundle.files:
            raise RequestError(f"{folder / BUNDLE} lists no {ASSETS}/{name}: the run folder is damaged.")
    try:
        classifier = _build(folder, bundle)
        worst, allowed = _compare_golden(classifier, folder)
    except (ArithmeticError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError) as problem:
        # The files are those that bundle.json names, but do not fit together: it was written by something else.
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise RequestError(
            f"{folder} is damaged: its files contradict each other ({first[:160].rstrip('.')})."
        ) from problem
    if not worst <= allowed:
        raise UnfreezeError(
            f"{folder} does not give the answers it was saved with (logits differ by up to {worst:.2g}): "
            "the libraries installed here compute this model differently."
        )
    return Loaded(classifier=classifier, bundle=bundle, folder=folder)


def _check_file(folder: Path, name: str, wanted: str) -> None:
    path = folder / name
    if (
        ".." in Path(name).parts
        or Path(name).is_absolute()
        or not path.resolve().is_relative_to(folder.resolve())
    ):
        raise RequestError(
            f"{folder / BUNDLE} lists {name!r}, which lies outside the run folder: it is refused."
        )
    if not path.is_file():
        raise RequestError(f"{path} is missing: the run folder is not whole.")
    if file_hash(path) != wanted:
        raise RequestError(
            f"{path} was changed after the run was saved: its hash does not match. Train again or restore it."
        )


def _build(folder: Path, bundle: BundleFile) -> Classifier:
    from safetensors.torch import load_file

    from unfreeze.backbones import rebuild

    tensors = load_file(folder / WEIGHTS)
    parts: dict[str, dict[str, Any]] = {"backbone": {}, "head": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise RequestError(
                f"{folder / WEIGHTS} holds a tensor {name!r} that belongs to no part of a run."
            )
        parts[part][rest] = tensor
    assets = {name: (folder / ASSETS / Path(name).name).read_bytes() for name in bundle.backbone.assets}
    backbone = rebuild(bundle.backbone.recipe, parts["backbone"], assets)
    if backbone.weights_hash != bundle.backbone.weights_hash:
        raise RequestError(f"{folder / WEIGHTS} does not hold the weights that {BUNDLE} names.")
    arrays: dict[str, NDArray[np.float32]] = {name: tensor.numpy() for name, tensor in parts["head"].items()}
    head = Head(kind=bundle.head.kind, boundaries=bundle.head.boundaries, tensors=arrays)
    if head.classes != len(bundle.labels):
        raise RequestError(f"{folder}: the head gives {head.classes} logits for {len(bundle.labels)} labels.")
    if max(head.boundaries) > len(backbone.stages) or min(head.boundaries) < 1:
        raise ValueError(f"the head reads boundaries {head.boundaries} of {len(backbone.stages)}")
    if json.dumps(backbone.preprocess.to_dict()) != json.dumps(
        preprocess_from_dict(bundle.preprocess).to_dict()
    ):
        raise ValueError("preprocess differs from that of the backbone")
    return Classifier(
        backbone=backbone,
        head=head,
        labels=Labels(bundle.labels),
        temperature=bundle.calibration.temperature,
        threshold=None if bundle.threshold is None else Threshold(**bundle.threshold.model_dump()),
    )


def _compare_golden(classifier: Classifier, folder: Path) -> tuple[float, float]:
    """The largest difference of a golden logit, and the largest one that is allowed."""
    from safetensors.torch import load_file

    golden = load_file(folder / GOLDEN)
    mask, wanted = golden.get("mask"), golden["logits"]
    answers = classifier.logits(State(h=golden["h"], mask=None if mask is None else mask.bool()))
    if not len(wanted) or answers.shape != wanted.shape:
        raise ValueError(f"golden logits {tuple(wanted.shape)} for answers {tuple(answers.shape)}")
    worst = float((answers - wanted).abs().max())
    return worst, GOLDEN_TOLERANCE * max(1.0, float(wanted.abs().max()))


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
