"""Loading a run folder: every file is checked against ``bundle.json``, and the golden answers are asked for again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Adapter, Base, Classifier, Threshold
from unfreeze.bundle.folder import ADAPTER_FILES, ASSETS, BUNDLE, GOLDEN, HEAD, REMOVABLE, WEIGHTS
from unfreeze.bundle.schema import SCHEMA_VERSION, BundleFile
from unfreeze.contracts import Backbone, Modality, State
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.heads.head import Head
from unfreeze.runtime.files import file_hash
from unfreeze.runtime.labels import Labels
from unfreeze.runtime.preprocess import preprocess_from_dict

if TYPE_CHECKING:
    from torch import Tensor

# fp32 sums in another order on another processor: 1e-3 of the largest logit is far above that and far below a defect.
GOLDEN_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Loaded:
    """A run folder that passed every check."""

    classifier: Classifier
    bundle: BundleFile
    folder: Path


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


def load(
    folder: Path, *, above: tuple[Path, ...] = (), sharing: Mapping[str, Backbone] | None = None
) -> Loaded:
    """The classifier of a run folder, after checking hashes, schema and golden answers.

    ``above``: the runs whose adapters stand on this one. ``sharing``: backbones in memory by ``network_key``; a run on
    one of them takes it and reads its own head alone. Raises RequestError when the folder is no run, was changed,
    or does not answer as it did when it was saved.
    """
    from safetensors import SafetensorError

    if folder.resolve() in above:
        raise RequestError(f"{folder} names itself as the run that it stands on: it is damaged.")
    bundle = read_bundle(folder)
    for name, wanted in bundle.files.items():
        _check_file(folder, name, wanted)
    weights = [WEIGHTS] if bundle.backbone.base is None else [HEAD, *ADAPTER_FILES]
    for name in (*weights, GOLDEN, *(f"{ASSETS}/{asset}" for asset in bundle.backbone.assets)):
        if name not in bundle.files:
            raise RequestError(f"{folder / BUNDLE} lists no {name}: the run folder is damaged.")
    try:
        classifier, same_base = _build(folder, bundle, (*above, folder.resolve()), sharing or {})
        inputs, logits = golden(folder)
        worst, allowed = golden_gap(classifier.logits(inputs), logits)
    except (ArithmeticError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError) as problem:
        # The files are those that bundle.json names, but do not fit together: it was written by something else.
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise RequestError(
            f"{folder} is damaged: its files contradict each other ({first[:160].rstrip('.')})."
        ) from problem
    base = bundle.backbone.base
    if not worst <= allowed and base is not None and not same_base:
        raise RequestError(
            f"{folder} holds an adapter for other weights than {base.source} has now: "
            "restore those that it was trained on."
        )
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
    if name in REMOVABLE and not path.exists():
        return
    if not path.is_file():
        raise RequestError(f"{path} is missing: the run folder is not whole.")
    if file_hash(path) != wanted:
        raise RequestError(
            f"{path} was changed after the run was saved: its hash does not match. Train again or restore it."
        )


def network_key(bundle: BundleFile) -> str:
    """The same for runs whose backbones are the same function of the same inputs: weights, build and preprocessing."""
    parts = [bundle.backbone.weights_hash, bundle.backbone.recipe, bundle.preprocess]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _build(
    folder: Path, bundle: BundleFile, above: tuple[Path, ...], sharing: Mapping[str, Backbone]
) -> tuple[Classifier, bool]:
    """The classifier, and whether the network below its adapter, if it has one, is bit for bit what it was.

    Resized positions and merged updates may differ in the last bit on another processor: the golden answers decide.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    from unfreeze.backbones import rebuild, rehash
    from unfreeze.grafts import restore

    assets = {name: (folder / ASSETS / Path(name).name).read_bytes() for name in bundle.backbone.assets}
    adapter, same_base = None, True
    shared = sharing.get(network_key(bundle))
    if shared is not None and bundle.backbone.base is None:
        backbone = shared
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            head_tensors = {
                name.removeprefix("head."): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - not a mapping
                if name.startswith("head.")
            }
    elif bundle.backbone.base is not None:
        head_tensors = load_file(folder / HEAD)
        adapter = Adapter(
            base=Base(**bundle.backbone.base.model_dump()),
            files={Path(name).name: (folder / name).read_bytes() for name in ADAPTER_FILES},
        )
        network = open_base(folder, adapter.base, bundle.modality, above)
        same_base = network.weights_hash == adapter.base.weights_hash
        bare = rebuild(bundle.backbone.recipe, network.module.state_dict(), assets)
        backbone = rehash(restore(bare, adapter.files))
    else:
        tensors, head_tensors = _split(load_file(folder / WEIGHTS), folder)
        backbone = rebuild(bundle.backbone.recipe, tensors, assets)
        if backbone.weights_hash != bundle.backbone.weights_hash:
            raise RequestError(f"{folder / WEIGHTS} does not hold the weights that {BUNDLE} names.")
    arrays: dict[str, NDArray[np.float32]] = {name: tensor.numpy() for name, tensor in head_tensors.items()}
    head = Head(kind=bundle.head.kind, boundaries=bundle.head.boundaries, tensors=arrays)
    if head.classes != len(bundle.labels):
        raise RequestError(f"{folder}: the head gives {head.classes} logits for {len(bundle.labels)} labels.")
    if max(head.boundaries) > len(backbone.stages) or min(head.boundaries) < 1:
        raise ValueError(f"the head reads boundaries {head.boundaries} of {len(backbone.stages)}")
    if json.dumps(backbone.preprocess.to_dict()) != json.dumps(
        preprocess_from_dict(bundle.preprocess).to_dict()
    ):
        raise ValueError("preprocess differs from that of the backbone")
    classifier = Classifier(
        backbone=backbone,
        head=head,
        labels=Labels(bundle.labels),
        temperature=bundle.calibration.temperature,
        threshold=None if bundle.threshold is None else Threshold(**bundle.threshold.model_dump()),
        adapter=adapter,
    )
    return classifier, same_base


def _split(tensors: Mapping[str, Tensor], folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the backbone and those of the head."""
    parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "head": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise RequestError(
                f"{folder / WEIGHTS} holds a tensor {name!r} that belongs to no part of a run."
            )
        parts[part][rest] = tensor
    return parts["backbone"], parts["head"]


def open_base(folder: Path, base: Base, modality: Modality, above: tuple[Path, ...]) -> Backbone:
    """The network below an adapter, from where it came from; RequestError when it cannot be had any more."""
    try:
        return open_source(
            base.source,
            modality=modality,
            image_size=base.image_size,
            pooling=base.pooling,
            max_length=base.max_length,
            above=above,
        )
    except RequestError as problem:
        raise RequestError(
            f"{folder} holds an adapter, and the network below it cannot be loaded. {problem}"
        ) from problem


def open_source(
    source: str,
    *,
    modality: Modality,
    image_size: int | None = None,
    pooling: str | None = None,
    max_length: int | None = None,
    above: tuple[Path, ...] = (),
) -> Backbone:
    """The backbone of a name as ``load_backbone`` reads it, or of the folder of another run."""
    from unfreeze.backbones import load_backbone
    from unfreeze.grafts import can_be_merged

    if is_run(source):
        if image_size is not None or pooling is not None or max_length is not None:
            raise RequestError(
                f"{source} is a run: its image size, pooling and length are what it was trained with."
            )
        start = load(Path(source), above=above).classifier
        backbone = start.backbone
        if start.adapter is not None and not can_be_merged(start.adapter.files):
            raise RequestError(
                f"The run {source} has adapters between its layers, which no other strategy can train on: start from "
                f"{start.adapter.base.source}, or from a run of another strategy."
            )
        if backbone.modality != modality:
            raise RequestError(
                f"The run {source} reads {backbone.modality}s, and the data are not {backbone.modality}s."
            )
        return backbone
    return load_backbone(
        source, modality=modality, image_size=image_size, pooling=pooling, max_length=max_length
    )


def golden(folder: Path) -> tuple[State, Tensor]:
    """The golden inputs of a run that ``load`` has checked, and the logits (rows, classes) it gave for them."""
    from safetensors.torch import load_file

    found = load_file(folder / GOLDEN)
    mask = found.get("mask")
    return State(h=found["h"], mask=None if mask is None else mask.bool()), found["logits"]


def golden_gap(answers: Tensor, wanted: Tensor) -> tuple[float, float]:
    """The largest difference of a golden logit, and the largest one that is allowed. ValueError for other shapes."""
    if not len(wanted) or answers.shape != wanted.shape:
        raise ValueError(f"golden logits {tuple(wanted.shape)} for answers {tuple(answers.shape)}")
    worst = float((answers - wanted).abs().max())
    return worst, GOLDEN_TOLERANCE * max(1.0, float(wanted.abs().max()))


def is_run(source: str) -> bool:
    """Whether a backbone's name is the folder of a finished run."""
    return (Path(source) / BUNDLE).is_file()


def lasting_source(source: str) -> str:
    """The same name with its path, if it has one, made absolute: another folder may be current when it is read."""
    if Path(source).is_dir():
        return str(Path(source).resolve())
    name, at, file = source.partition("@")
    return f"{name}@{Path(file).expanduser().resolve()}" if at else source
