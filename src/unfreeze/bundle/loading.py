"""Loading a run folder: every file is checked against ``bundle.json``, and the golden answers are asked for again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.bundle.classifier import Adapter, Base, Classifier, Threshold
from unfreeze.bundle.folder import ADAPTER_FILES, ASSETS, BUNDLE, GOLDEN, HEAD, REMOVABLE, WEIGHTS
from unfreeze.bundle.parts import Part, fitting, read_part, tensors_of
from unfreeze.bundle.schema import SCHEMA_VERSION, BundleFile
from unfreeze.contracts import Backbone, Modality, State
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.regular import MOST_ASSET, MOST_RECORD, read_file
from unfreeze.runtime.files import file_hash, parse_json
from unfreeze.runtime.labels import Labels
from unfreeze.runtime.preprocess import ImagePreprocess, preprocess_from_dict

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


@dataclass(frozen=True, eq=False)
class Pieces:
    """A run folder whose files are those that ``bundle.json`` names, before anything was computed with them.

    ``base``: its network, without the adapter; ``same_base``: it is bit for bit what it was. Resized positions and
    merged updates may differ in the last bit on another processor: the golden answers decide. ``digest``: SHA-256 of
    ``bundle.json``. ``golden``: the golden inputs, and the logits (rows, classes) that the run gave for them.
    """

    folder: Path
    bundle: BundleFile
    digest: str
    base: Backbone
    same_base: bool
    part: Part
    golden: tuple[State, Tensor]

    @property
    def key(self) -> str:
        """The same for pieces whose bases are the same function of the same inputs: weights, build, preprocessing."""
        return _network_key(self.base.weights_hash, self.bundle)


def read_bundle(folder: Path) -> BundleFile:
    """The checked ``bundle.json`` of a run folder; raises RequestError with the field that is wrong."""
    return _read_bundle(folder)[0]


def _read_bundle(folder: Path) -> tuple[BundleFile, str]:
    """The checked file, and its SHA-256."""
    from pydantic import ValidationError

    if not folder.is_dir():
        raise RequestError(f"{folder} is no run folder: it does not exist or is a file.")
    path = folder / BUNDLE
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise RequestError(f"{path} is a link to the outside of the run folder: it is refused.")
        data = read_file(path, most=MOST_RECORD)
        text = data.decode()
    except FileNotFoundError:
        raise RequestError(f"{folder} is no finished run: it has no {BUNDLE}.") from None
    except (OSError, RuntimeError, UnicodeDecodeError) as problem:  # RuntimeError for a link to itself
        why = getattr(problem, "strerror", None) or problem
        raise RequestError(f"{path} cannot be read ({why}): restore it, or train again.") from None
    try:
        version = parse_json(text).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise RequestError(
                f"{folder} was written by a newer Unfreeze (schema {version}): upgrade to read it."
            )
        return BundleFile.model_validate_json(text), hashlib.sha256(data).hexdigest()
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RequestError(f"{folder / BUNDLE} is damaged at {where}: {first['msg']}.") from None
    except (ValueError, AttributeError):
        raise RequestError(f"{folder / BUNDLE} is damaged: it holds no JSON object.") from None


def load(folder: Path, *, above: tuple[Path, ...] = ()) -> Loaded:
    """The classifier of a run folder, after checking hashes, schema and golden answers.

    ``above``: the runs whose adapters stand on this one. Raises RequestError when the folder is no run, was changed,
    or does not answer as it did when it was saved.
    """
    pieces = open_pieces(folder, above=above)
    with fitting(folder):
        classifier = _assemble(pieces)
        inputs, logits = pieces.golden
        worst, allowed = golden_gap(classifier.logits(inputs), logits)
    base = pieces.bundle.backbone.base
    if not worst <= allowed and base is not None and not pieces.same_base:
        raise RequestError(
            f"{folder} holds an adapter for other weights than {base.source} has now: "
            "restore those that it was trained on."
        )
    if not worst <= allowed:
        raise UnfreezeError(
            f"{folder} does not give the answers it was saved with (logits differ by up to {worst:.2g}): "
            "the libraries installed here compute this model differently."
        )
    return Loaded(classifier=classifier, bundle=pieces.bundle, folder=folder)


def open_pieces(
    folder: Path, *, above: tuple[Path, ...] = (), sharing: Mapping[str, Backbone] | None = None
) -> Pieces:
    """The pieces of a run folder, after checking hashes and schema, but not the golden answers.

    ``above``: the runs whose adapters stand on this one. ``sharing``: bare networks in memory by the ``key`` of the
    pieces that they came with; a run on one of them takes it and reads its own part alone. Raises RequestError when
    the folder is no run, or was changed.
    """
    if folder.resolve() in above:
        raise RequestError(f"{folder} names itself as the run that it stands on: it is damaged.")
    bundle, digest = _read_bundle(folder)
    for name, wanted in bundle.files.items():
        _check_file(folder, name, wanted)
    base = bundle.backbone.base
    weights = [WEIGHTS] if base is None else [HEAD, *ADAPTER_FILES]
    for name in (*weights, GOLDEN, *(f"{ASSETS}/{asset}" for asset in bundle.backbone.assets)):
        if name not in bundle.files:
            raise RequestError(f"{folder / BUNDLE} lists no {name}: the run folder is damaged.")
    declared = bundle.backbone.weights_hash if base is None else base.weights_hash
    with fitting(folder):
        # Before a network is built in a size that was put there to fill the memory.
        golden = _golden(folder)
        _check_sizes(bundle, golden[0])
        backbone = (sharing or {}).get(_network_key(declared, bundle))
        if backbone is None:
            backbone = _open_network(folder, bundle, (*above, folder.resolve()))
        if json.dumps(backbone.preprocess.to_dict()) != json.dumps(
            preprocess_from_dict(bundle.preprocess).to_dict()
        ):
            raise ValueError("preprocess differs from that of the backbone")
        if max(bundle.head.boundaries) > len(backbone.stages) or min(bundle.head.boundaries) < 1:
            raise ValueError(f"the head reads boundaries {bundle.head.boundaries} of {len(backbone.stages)}")
        return Pieces(
            folder=folder,
            bundle=bundle,
            digest=digest,
            base=backbone,
            same_base=backbone.weights_hash == declared,
            part=read_part(folder, bundle),
            golden=golden,
        )


def _check_sizes(bundle: BundleFile, inputs: State) -> None:
    """Raise ValueError where the golden inputs, or the base of an adapter, have another size than the run reads."""
    reads, base = preprocess_from_dict(bundle.preprocess), bundle.backbone.base
    if isinstance(reads, ImagePreprocess):
        fits = inputs.h.shape[1:] == (reads.height, reads.width, 3)
        wanted, asked = {reads.height, reads.width}, base and base.image_size
    else:
        fits = inputs.h.ndim == 2 and inputs.h.shape[1] <= reads.max_length
        wanted, asked = {reads.max_length}, base and base.max_length
    if not fits:
        raise ValueError(f"golden inputs {tuple(inputs.h.shape)} are of another size than it reads")
    if asked is not None and wanted != {asked}:
        raise ValueError(f"its base has the size {asked}, and it reads another")


def _check_file(folder: Path, name: str, wanted: str) -> None:
    path = folder / name
    try:
        outside = not path.resolve().is_relative_to(folder.resolve())
        exists, is_file = path.exists(), path.is_file()
    except (OSError, ValueError):
        raise RequestError(
            f"{folder / BUNDLE} lists {name[:80]!r}, which no file can be called: the run folder is damaged."
        ) from None
    if ".." in Path(name).parts or Path(name).is_absolute() or outside:
        raise RequestError(
            f"{folder / BUNDLE} lists {name!r}, which lies outside the run folder: it is refused."
        )
    if name in REMOVABLE and not exists:
        return
    if not is_file:
        raise RequestError(f"{path} is missing: the run folder is not whole.")
    if file_hash(path) != wanted:
        raise RequestError(
            f"{path} was changed after the run was saved: its hash does not match. Train again or restore it."
        )


def _network_key(weights_hash: str, bundle: BundleFile) -> str:
    parts = [weights_hash, bundle.backbone.recipe, bundle.preprocess]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _open_network(folder: Path, bundle: BundleFile, above: tuple[Path, ...]) -> Backbone:
    """The network of a run, without its adapter."""
    from unfreeze.backbones import rebuild

    assets = {
        name: read_file(folder / ASSETS / Path(name).name, most=MOST_ASSET) for name in bundle.backbone.assets
    }
    if bundle.backbone.base is not None:
        below = open_base(folder, Base(**bundle.backbone.base.model_dump()), bundle.modality, above)
        return rebuild(bundle.backbone.recipe, below.module.state_dict(), assets)
    backbone = rebuild(bundle.backbone.recipe, tensors_of(folder / WEIGHTS, "backbone"), assets)
    if backbone.weights_hash != bundle.backbone.weights_hash:
        raise RequestError(f"{folder / WEIGHTS} does not hold the weights that {BUNDLE} names.")
    return backbone


def _assemble(pieces: Pieces) -> Classifier:
    """The classifier; an adapter is put onto ``pieces.base`` in place."""
    from unfreeze.backbones import rehash
    from unfreeze.grafts import restore

    bundle, part = pieces.bundle, pieces.part
    backbone, adapter = pieces.base, None
    if bundle.backbone.base is not None:
        adapter = Adapter(base=Base(**bundle.backbone.base.model_dump()), files=part.adapter)
        backbone = rehash(restore(backbone, part.adapter))
    return Classifier(
        backbone=backbone,
        head=part.head,
        labels=Labels(bundle.labels),
        temperature=bundle.calibration.temperature,
        threshold=None if bundle.threshold is None else Threshold(**bundle.threshold.model_dump()),
        adapter=adapter,
    )


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


def _golden(folder: Path) -> tuple[State, Tensor]:
    """The golden inputs of a run, and the logits (rows, classes) it gave for them."""
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
