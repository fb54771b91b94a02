"""Folders that ``PeftModel.from_pretrained(base, FOLDER)`` loads: the LoRA of a run, and its head.

Where the base has a classifier of its own (timm's networks, BERT's classification class) the head is part of the
adapter, as one of PEFT's ``modules_to_save``. Elsewhere it lies beside, as plain weight and bias.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfreeze.backbones import published_as
from unfreeze.backbones.hf import pool
from unfreeze.backbones.hf_loading import quiet_transformers
from unfreeze.backbones.hf_spine import last_hidden
from unfreeze.bundle.classifier import Adapter, Classifier
from unfreeze.bundle.folder import HEAD
from unfreeze.bundle.loading import is_run, open_base
from unfreeze.errors import RequestError
from unfreeze.exporting.formats import Answers, Written
from unfreeze.exporting.hosting import calibrated_linear, own_classifier
from unfreeze.exporting.peft_use import usage
from unfreeze.exporting.to_timm import answers_of, data_arguments, pixels_graph, with_classifier
from unfreeze.exporting.to_transformers import (
    TEXT_CLASSIFIER,
    ids_graph,
    text_class,
    write_tokenizer_config,
)
from unfreeze.grafts.attach import CONFIG, PREFIX, TENSORS
from unfreeze.runtime.exported import Graph
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.preprocess import ImagePreprocess
from unfreeze.runtime.reading import Raw
from unfreeze.runtime.texts import as_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Below:
    """The untouched network below an adapter, in the class that PEFT wraps.

    ``prefix``: where the backbone stands in it. ``classifier``: the path of its own classifier, or None.
    """

    module: Any
    prefix: str
    classifier: str | None


def write_peft(classifier: Classifier, folder: Path) -> Written:
    """``adapter_config.json`` and ``adapter_model.safetensors`` in PEFT's layout, for the class named in the card."""
    from safetensors.torch import load, save

    backbone, adapter = classifier.backbone, _adapter(classifier)
    if is_run(adapter.base.source):
        raise RequestError(
            "The run's LoRA stands on another run, which nobody else has: export to transformers or timm, which hold "
            "the whole network."
        )
    below, linear = _below(classifier), calibrated_linear(classifier)
    config = json.loads(adapter.files[CONFIG])
    tensors = {
        PREFIX + below.prefix + name.removeprefix(PREFIX): tensor
        for name, tensor in load(adapter.files[TENSORS]).items()
    }
    if below.classifier is not None:
        tensors |= {f"{PREFIX}{below.classifier}.{name}": tensor for name, tensor in linear.items()}
    config |= {
        # A path would name a folder of this machine, which is nobody else's.
        "base_model_name_or_path": published_as(backbone) or backbone.name,
        "target_modules": [below.prefix + path for path in config["target_modules"]],
        "modules_to_save": None if below.classifier is None else [below.classifier],
    }
    write_atomically(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_atomically(folder / TENSORS, save(tensors, metadata={"format": "pt"}))
    if below.classifier is None:
        write_atomically(folder / HEAD, save(linear, metadata={"format": "pt"}))
    if backbone.modality == "text":
        write_tokenizer_config(backbone, folder)
    made = {name: version(name) for name in ("torch", "peft", str(backbone.recipe["library"]))}
    return Written(folder, made, use=usage(classifier, own=below.classifier is not None))


def open_peft(folder: Path, classifier: Classifier) -> Graph:
    """PEFT's model around the untouched network, and the head behind it where it lies beside."""
    below = _below(classifier)
    model = _wrap(below, folder)
    reads = classifier.backbone.preprocess
    if isinstance(reads, ImagePreprocess):
        return pixels_graph(model, reads.mean, reads.std)
    if below.classifier is not None:
        return ids_graph(lambda ids, mask: model(input_ids=ids, attention_mask=mask.long()).logits)
    head, pooling = _head_beside(folder), classifier.backbone.recipe["pooling"]

    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        pooled = pool(model.base_model.model, last_hidden(model, ids, mask), mask, pooling=pooling)  # type: ignore[arg-type]
        return pooled @ head["weight"].T + head["bias"]

    return ids_graph(logits)


def answer_peft(folder: Path, classifier: Classifier) -> Answers:
    """Probabilities of raw inputs as the code of the card gives them: timm's transforms, or the folder's tokenizer."""
    reads, names = classifier.backbone.preprocess, classifier.labels.names
    if isinstance(reads, ImagePreprocess):
        import timm

        transform = timm.data.create_transform(**data_arguments(reads), is_training=False)
        return answers_of(_wrap(_below(classifier), folder), transform, names, classifier)
    from transformers import AutoTokenizer

    graph = open_peft(folder, classifier)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def answer(raws: Sequence[Raw]) -> NDArray[np.float64]:
        found = tokenizer([as_text(raw) for raw in raws], truncation=True, padding=True, return_tensors="np")
        return graph({"ids": found["input_ids"], "mask": found["attention_mask"].astype(bool)})[1].astype(
            float
        )

    return answer


def _below(classifier: Classifier) -> Below:
    backbone = classifier.backbone
    bare = open_base(Path("The run"), _adapter(classifier).base, backbone.modality, ())
    tensors = bare.module.state_dict()
    if backbone.modality == "image":
        module, name = with_classifier(classifier, tensors)
        return Below(module, "", name)
    if own_classifier(backbone):
        module = text_class(classifier, tensors)
        return Below(module, f"{module.base_model_prefix}.", TEXT_CLASSIFIER)
    return Below(bare.module, "", None)


def _wrap(below: Below, folder: Path) -> Any:
    from peft import PeftModel

    with quiet_transformers(), warnings.catch_warnings():
        # It calls what transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(below.module, str(folder)).eval()


def _head_beside(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(folder / HEAD)
    return tensors


def _adapter(classifier: Classifier) -> Adapter:
    assert classifier.adapter is not None
    return classifier.adapter
