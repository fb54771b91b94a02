"""Loading and rebuilding text backbones; see ``unfreeze.backbones.hf`` for how they run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unfreeze.backbones.hf import (
    POOLINGS,
    HfBackbone,
    Pooling,
    cut_stages,
    is_causal,
    pool,
    sample_texts,
)
from unfreeze.backbones.hf_spine import Spine, find_spine, last_hidden
from unfreeze.backbones.hf_texts import max_tokens, read_pooling, read_tokenizer, text_preprocess
from unfreeze.backbones.staging import cut_is_exact, hash_weights, refuse_not_finite
from unfreeze.errors import RequestError, first_line
from unfreeze.runtime.preprocess import TextPreprocess, preprocess_from_dict

if TYPE_CHECKING:
    from torch import Tensor

    from unfreeze.contracts import State

# What is fetched from a hub repository: never its code, nor the same weights in other formats.
_SMALL_FILES = ("*.json", "*.txt", "*.model", "1_Pooling/config.json")
# The classification class of these model types reads the base model's own pooler.
POOLER_TYPES = ("bert",)
# How far padding may move the feature of a text, relative to its length: above the first it is noted, above the second
# refused. Measured on random weights: Nystromformer 1e-3, ConvBERT 3e-3, YOSO 0.02, FNet 0.8, 55 others 3e-7 at most.
PADDING_GAP, MOST_PADDING_GAP = 1e-4, 1e-2
# Keys of a configuration that name machines, versions or code instead of the architecture.
_NOT_ARCHITECTURE = ("_name_or_path", "transformers_version", "auto_map", "torch_dtype", "dtype")
# Keys by which a configuration names what computes it: transformers fetches a kernel from a repository and runs it.
_CODE = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    *("quantization_config", "kernel_config", "use_kernels", "auto_map"),
)


def load_hub(repository: str, *, pooling: str | None = None, max_length: int | None = None) -> HfBackbone:
    """A text backbone from a hub repository or its cached copy; raises what huggingface_hub raises."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(repository, allow_patterns=[*_SMALL_FILES, "model*.safetensors"]))
    if not list(folder.glob("*.safetensors")):
        folder = Path(snapshot_download(repository, allow_patterns=[*_SMALL_FILES, "pytorch_model*.bin"]))
    return load_folder(folder, name=repository, pooling=pooling, max_length=max_length)


def load_folder(
    folder: Path,
    *,
    name: str,
    pooling: str | None = None,
    max_length: int | None = None,
    notes: tuple[str, ...] = (),
) -> HfBackbone:
    """A text backbone from a folder as transformers or sentence-transformers write it; nothing is downloaded.

    ``name`` is what it will be called. Raises RequestError for a folder that holds no such model.
    """
    if not (folder / "config.json").is_file():
        raise RequestError(f"{folder} has no config.json: it is not a model folder of transformers.")
    if not [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]:
        raise RequestError(f"{folder} holds no weights (model.safetensors).")
    own_pooling, pooling_notes = read_pooling(folder)
    asked = _checked_pooling(pooling, name)
    with quiet_transformers():
        module, config = _load_module(folder, name, native=asked == "native")
        tokenizer = read_tokenizer(folder, name=name)
    causal = is_causal(module, config)
    chosen = _choose_pooling(asked, own_pooling, config, causal=causal, name=name)
    length = max_tokens(folder, config, asked=max_length, name=name)
    return assemble(
        module,
        name,
        config=config,
        pooling=chosen,
        causal=causal,
        preprocess=text_preprocess(folder, config, tokenizer, max_length=length),
        tokenizer=tokenizer,
        notes=(*notes, *pooling_notes),
    )


def rebuild_hf(
    recipe: Mapping[str, Any], tensors: Mapping[str, Tensor], assets: Mapping[str, bytes]
) -> HfBackbone:
    """The backbone that a recipe, its tensors and its files describe, without network or a new check."""
    from transformers import AutoConfig

    from unfreeze.backbones.bounded import build_from

    name, pooling = recipe["name"], recipe["pooling"]
    if "tokenizer.json" not in assets:
        raise RequestError(f"The backbone {name} came without its tokenizer.json.")
    values = {
        key: value for key, value in _without_code(dict(recipe["config"])).items() if key != "model_type"
    }
    model_class = _named_class(recipe["class"])
    with quiet_transformers():
        config = AutoConfig.for_model(recipe["config"]["model_type"], **values)
        pooler = pooler_argument(model_class, config, native=pooling == "native")
        module = build_from(lambda: model_class(config, **pooler), tensors, source=f"The backbone {name}")
    module.eval()
    spine = None if recipe["spine"] is None else Spine(**recipe["spine"])
    preprocess = preprocess_from_dict(dict(recipe["preprocess"]))
    if not isinstance(preprocess, TextPreprocess):
        raise RequestError(f"The backbone {name} reads texts, but its recipe prepares images.")
    return HfBackbone(
        name=name,
        family=recipe["family"],
        dim=int(recipe["dim"]),
        preprocess=preprocess,
        stages=cut_stages(module, spine),
        module=module,
        spine=spine,
        pooling=pooling,
        recipe=recipe,
        assets=dict(assets),
        weights_hash=hash_weights(module.state_dict()),
        notes=tuple(recipe["notes"]),
    )


def assemble(
    module: Any,
    name: str,
    *,
    config: Any,
    pooling: Pooling,
    causal: bool,
    preprocess: TextPreprocess,
    tokenizer: bytes,
    notes: tuple[str, ...] = (),
) -> HfBackbone:
    """A backbone around a loaded transformers model: staged if its cut is exact on random ids."""
    import dataclasses

    import torch
    import transformers

    module.eval()
    refuse_not_finite(module, name=name)
    sample = sample_texts(config)
    mask = cast("Tensor", sample.mask)
    with torch.no_grad():
        wanted = pool(module, last_hidden(module, sample.h, mask), mask, pooling=pooling)
        notes = (*notes, *_padding_notes(module, sample, wanted, pooling=pooling, name=name))
    backbone = HfBackbone(
        name=name,
        family="decoder" if causal else "encoder",
        dim=int(wanted.shape[1]),
        preprocess=preprocess,
        stages=(),
        module=module,
        spine=find_spine(module),
        pooling=pooling,
        recipe={},
        assets={"tokenizer.json": tokenizer},
        weights_hash=hash_weights(module.state_dict()),
    )
    backbone = dataclasses.replace(backbone, stages=cut_stages(module, backbone.spine))
    if backbone.spine is None or not cut_is_exact(backbone, sample, wanted):
        why = (
            "it has no plain list of layers"
            if backbone.spine is None
            else "its cut was not exact when checked"
        )
        notes = (*notes, f"{name} runs as one stage, since {why}: it can be trained whole or not at all.")
        backbone = dataclasses.replace(backbone, family="opaque", spine=None, stages=cut_stages(module, None))
    recipe: dict[str, object] = {
        "library": "transformers",
        "transformers": transformers.__version__,
        "name": name,
        "class": type(module).__name__,
        "config": _architecture(config),
        "family": backbone.family,
        "dim": backbone.dim,
        "pooling": pooling,
        "spine": None if backbone.spine is None else dataclasses.asdict(backbone.spine),
        "preprocess": preprocess.to_dict(),
        "notes": list(notes),
    }
    return dataclasses.replace(backbone, recipe=recipe, notes=notes)


def _padding_notes(
    module: Any, sample: State, wanted: Tensor, *, pooling: Pooling, name: str
) -> tuple[str, ...]:
    """A note where the sample's padded text has another feature by itself; RequestError where it is quite another.

    ``wanted``: the features of the sample.
    """
    mask = cast("Tensor", sample.mask)
    length = int(mask[1].sum())
    ids, mask = sample.h[1:, :length], mask[1:, :length]
    alone = pool(module, last_hidden(module, ids, mask), mask, pooling=pooling)[0]
    gap = float((wanted[1] - alone).norm() / alone.norm().clamp(min=1e-12))
    if gap > MOST_PADDING_GAP:
        raise RequestError(
            f"{name} looks at padding: beside a longer text, a text's features differ by {gap:.1%} from those that it "
            "has alone. Choose another backbone."
        )
    if gap > PADDING_GAP:
        return (
            f"{name} looks at padding: beside a longer text, a text's features differ by {gap:.2%} from those that it "
            "has alone, so that answers depend a little on what is asked with them.",
        )
    return ()


def _checked_pooling(pooling: str | None, name: str) -> Pooling | None:
    if pooling is not None and pooling not in POOLINGS:
        raise RequestError(f"Unknown pooling {pooling!r} for {name}: choose one of {', '.join(POOLINGS)}.")
    return pooling


def _choose_pooling(
    asked: Pooling | None, own: Pooling | None, config: Any, *, causal: bool, name: str
) -> Pooling:
    if asked == "native" and causal:
        return "last"  # what the classification classes of decoders read
    if asked == "native" and config.model_type not in POOLER_TYPES:
        raise RequestError(
            f"{name} ({config.model_type}) has no pretrained pooler of its own: "
            "choose the pooling mean, cls or last."
        )
    return asked or own or ("last" if causal else "mean")


def _load_module(folder: Path, name: str, *, native: bool) -> tuple[Any, Any]:
    """The base model in float32 and its configuration; every weight must come from the folder."""
    import torch
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (KeyError, OSError, ValueError) as error:
        raise RequestError(
            f"The configuration of {name} is of no architecture that the installed transformers knows "
            "(code from repositories is never run)."
        ) from error
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            # What computes it is for this machine to choose, not for the file.
            part._attn_implementation = None
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird takes full attention for good when it meets a short text: what it computes would hang on which came
        # first, and a recipe would describe another network.
        config.attention_type = "original_full"
    model_class = _model_class(config)
    try:
        module, found = model_class.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            weights_only=True,
            output_loading_info=True,
            **pooler_argument(model_class, config, native=native),
        )
    except Exception as error:  # safetensors, pickle, torch and transformers each raise their own
        first = first_line(error)
        raise RequestError(
            f"The weights of {name} cannot be read as plain tensors of its architecture ({first})."
        ) from error
    missing = sorted(found["missing_keys"])
    if missing and native and all(key.startswith("pooler.") for key in missing):
        raise RequestError(f"{name} was published without its pooler: choose the pooling mean, cls or last.")
    if missing:
        raise RequestError(f"The weights of {name} lack {len(missing)} tensors, such as {missing[0]!r}.")
    return module, config


def _model_class(config: Any) -> Any:
    """The base class of transformers for a configuration; of an encoder-decoder (T5) only the encoder."""
    import torch
    from transformers import AutoModel, AutoModelForTextEncoding

    factory = AutoModelForTextEncoding if getattr(config, "is_encoder_decoder", False) else AutoModel
    with torch.device("meta"):
        try:
            return type(factory.from_config(config))
        except ValueError as error:
            raise RequestError(
                f"A model of the type {config.model_type!r} gives no features of texts."
            ) from error


def _named_class(name: str) -> Any:
    """The model class of transformers with this name; a run folder can name nothing else."""
    import transformers

    found = getattr(transformers, name, None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise RequestError(f"transformers {transformers.__version__} has no model class {name!r}.")
    return found


def pooler_argument(model_class: Any, config: Any, *, native: bool) -> dict[str, bool]:
    """The argument that leaves a pooler out unless it is read: an unused one would hold untrained weights."""
    takes_it = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": native and config.model_type in POOLER_TYPES} if takes_it else {}


def _architecture(config: Any) -> dict[str, object]:
    """The configuration as JSON values, without names of machines, versions or code."""
    values: dict[str, object] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items() if key not in _NOT_ARCHITECTURE}


def _without_code(values: dict[str, Any]) -> dict[str, Any]:
    """The same values at all depths but those that name code."""
    return {
        key: _without_code(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in _CODE
    }


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and reports off the terminal: what matters is raised or noted."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
