"""Loading and rebuilding timm networks; see ``unfreeze.backbones.timm_`` for how they run."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfreeze.backbones.staging import FROM_FILE, hash_weights, load_tensors
from unfreeze.backbones.timm_ import TimmBackbone, assemble, stage
from unfreeze.backbones.timm_families import OPAQUE, family_of
from unfreeze.errors import RequestError
from unfreeze.regular import read_record
from unfreeze.runtime.files import parse_json
from unfreeze.runtime.preprocess import MOST_SIDE, ImagePreprocess, preprocess_from_dict

if TYPE_CHECKING:
    from torch import Tensor

# DINOv2 was pretrained at 518 pixels, which is over five times as many patches as 224, the size at which the other
# backbones work; its position embeddings are resampled by timm. A choice: at 518 nothing was measured.
DINOV2_SIZE = 224
# What of a hub configuration decides about the size of its input.
_CONFIG_KEYS = ("input_size", "fixed_input_size")
SMALLEST_IMAGE = 16


def load_timm(name: str, *, image_size: int | None = None, weights: Path | None = None) -> TimmBackbone:
    """A pretrained timm network by its timm name, with weights from the hub (or its cache), or from a file.

    Raises RequestError for a file that does not fit, and what huggingface_hub raises when nothing can be
    fetched.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    arguments, notes = _sizing(name, config, image_size)
    if weights is not None:
        module = create_timm(name, arguments)
        load_weight_file(module, weights)
        notes = (*notes, f"{FROM_FILE} {weights.name}.")
        return assemble(
            module, name, architecture=name, arguments=arguments, image_size=image_size, notes=notes
        )
    if config.hf_hub_id and not config.hf_hub_filename and config.custom_load != "hf":
        file = fetch_weights(config.hf_hub_id)
        module = create_timm(
            name, arguments, pretrained=True, overlay={"file": str(file), "custom_load": False}
        )
    else:
        module = create_timm(name, arguments, pretrained=True)
    tag = module.pretrained_cfg.get("tag")
    full = f"{module.pretrained_cfg['architecture']}.{tag}" if tag else name
    return assemble(module, full, architecture=full, arguments=arguments, image_size=image_size, notes=notes)


def load_timm_hub(repository: str, *, image_size: int | None = None) -> TimmBackbone:
    """A pretrained timm network from a hub repository in timm's layout, such as ``timm/resnet50.a1_in1k``.

    Raises KeyError when the repository holds something else.
    """
    import timm

    folder = fetch_weights(repository).parent
    config = parse_json(read_record(folder / "config.json"))
    architecture = config["architecture"]
    values = {
        key: value for key, value in config.get("pretrained_cfg", config).items() if key in _CONFIG_KEYS
    }
    arguments, notes = _sizing(architecture, timm.models.PretrainedCfg(**values), image_size)
    arguments = {**config.get("model_args", {}), **arguments, "num_classes": 0}
    if config.get("global_pool") is not None:
        arguments["global_pool"] = config["global_pool"]
    module = create_timm(f"local-dir:{folder}", arguments, architecture=architecture, pretrained=True)
    return assemble(
        module,
        f"hf-hub:{repository}",
        architecture=architecture,
        arguments=arguments,
        image_size=image_size,
        notes=notes,
    )


def fetch_weights(repository: str) -> Path:
    """The weight file of a hub repository, beside its config.json, from the cache if it is there.

    What is cached is taken as it is: asking the hub first would wait through a minute of retries without
    network.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    for file in files:
        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str) and Path(cached).with_name("config.json").is_file():
            return Path(cached)
    for file in files:
        path = Path(snapshot_download(repository, allow_patterns=["config.json", file])) / file
        if path.is_file():
            return path
    raise RequestError(f"The hub repository {repository} holds none of the files {' and '.join(files)}.")


def rebuild_timm(recipe: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TimmBackbone:
    """The backbone that a recipe and its tensors describe, without network or a new check."""
    import timm

    from unfreeze.backbones.bounded import build_from

    if not isinstance(recipe["architecture"], str) or not timm.is_model(recipe["architecture"]):
        raise RequestError(
            f"This timm {timm.__version__} has no architecture {recipe['architecture']!r}: the run was "
            f"trained with timm {recipe['timm']}."
        )
    module = build_from(
        lambda: create_timm(recipe["architecture"], dict(recipe["arguments"])),
        tensors,
        source=f"The backbone {recipe['name']}",
    )
    preprocess = preprocess_from_dict(dict(recipe["preprocess"]))
    if not isinstance(preprocess, ImagePreprocess):
        raise RequestError(f"The backbone {recipe['name']} reads images, but its recipe prepares texts.")
    return stage(
        module,
        recipe["name"],
        recipe=recipe,
        preprocess=preprocess,
        kind=family_of(module) if recipe["staged"] else OPAQUE,
        dim=int(recipe["dim"]),
        notes=tuple(recipe["notes"]),
        weights_hash=hash_weights(module.state_dict()),
    )


def load_weight_file(module: Any, path: Path) -> None:
    """Load a ``.safetensors`` file, or a ``.pth`` of plain tensors, into a timm network without classifier.

    timm's own filter of that architecture renames old names and resamples position embeddings; a tensor that
    is then missing or unknown raises RequestError.
    """
    import pickle

    import timm
    from safetensors import SafetensorError

    if not path.is_file():
        raise RequestError(f"The weight file {path} does not exist.")
    try:
        tensors = timm.models.load_state_dict(str(path), weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, ValueError, OSError, EOFError) as error:
        raise RequestError(
            f"{path} does not hold plain tensors and was not read: give a .safetensors file."
        ) from error
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        tensors = convert(tensors, module)
    classifiers = module.pretrained_cfg.get("classifier") or ()
    heads = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    own = module.state_dict()
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if name in own or not any(name.startswith(f"{head}.") for head in heads)
    }
    load_tensors(module, kept, source=str(path))


def check_image_size(image_size: int | None) -> None:
    """Nothing; raises RequestError for a size in pixels that no network can read."""
    if image_size is not None and not SMALLEST_IMAGE <= image_size <= MOST_SIDE:
        raise RequestError(f"The image size is {image_size}: give {SMALLEST_IMAGE} to {MOST_SIDE} pixels.")


def _sizing(name: str, config: Any, image_size: int | None) -> tuple[dict[str, object], tuple[str, ...]]:
    """The arguments that fix the input size, and what a person should know about it."""
    check_image_size(image_size)
    if not getattr(config, "fixed_input_size", False):
        return {}, ()
    height, width = config.input_size[1:]
    if image_size is None and "_dinov2" in name and height > DINOV2_SIZE:
        note = f"{name} reads {DINOV2_SIZE} pixels; its native {height} would cost over five times as much."
        return {"img_size": [DINOV2_SIZE, DINOV2_SIZE]}, (note,)
    return {"img_size": [image_size or height, image_size or width]}, ()


def create_timm(
    name: str,
    arguments: Mapping[str, Any],
    *,
    architecture: str | None = None,
    pretrained: bool = False,
    overlay: Mapping[str, object] | None = None,
) -> Any:
    """A timm network without classifier, float32; RequestError when these arguments do not suit it.

    ``architecture``: its name in timm, where ``name`` is a place of weights.
    """
    import timm

    # timm's own, such as a file of weights to read in a form that can run code.
    own = inspect.signature(timm.create_model).parameters.keys() & arguments.keys()
    if own:
        raise RequestError(f"The network {name} is described with {min(own)!r}, which is refused.")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    if "img_size" in given and timm.models.is_model_in_modules(architecture or name, ("eva",)):
        # For any size timm makes the table of rotary positions anew in every pass, on the processor: a GPU would be
        # waited for each time, and its graph could not hold that. For one size it keeps the table.
        given["dynamic_img_size"] = False
    try:
        module = timm.create_model(
            name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **{"num_classes": 0, **given}
        )
    except (AssertionError, TypeError) as error:
        raise RequestError(f"timm cannot build {name} with {given or 'its defaults'}: {error}.") from error
    _check_patches(module, name, given.get("img_size"))
    return module.float()


def _check_patches(module: Any, name: str, size: tuple[int, int] | None) -> None:
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if size is None or not isinstance(patch, tuple):
        return
    side, step = size[0], patch[0]
    if side % step:
        low = max(side // step, 1) * step
        raise RequestError(
            f"{name} cuts images into patches of {step} pixels, so the image size cannot be {side}: "
            f"take {low} or {low + step}."
        )
