"""Folders that ``transformers`` loads: ``pipeline("text-classification")`` and ``pipeline("image-classification")``.

Images go through the class with which transformers hosts timm's networks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unfreeze.backbones.hf_loading import quiet_transformers
from unfreeze.bundle.classifier import Classifier
from unfreeze.contracts import Backbone
from unfreeze.errors import RequestError
from unfreeze.exporting.formats import Answers, Written
from unfreeze.exporting.hosting import calibrated_linear
from unfreeze.exporting.to_timm import open_as_users_do, pixels_graph, save_network
from unfreeze.runtime.exported import TOKENIZER, Graph
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.preprocess import TextPreprocess
from unfreeze.runtime.reading import Arrays, Raw
from unfreeze.runtime.texts import as_text

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

ONE_LABEL = "single_label_classification"
TIMM_HOST = "TimmWrapperForImageClassification"
# The last layer of BERT's classification class, the one that hosts the heads of text runs.
TEXT_CLASSIFIER = "classifier"
USE_IMAGE = """```python
from transformers import pipeline

classify = pipeline("image-classification", model="FOLDER")  # or "OWNER/NAME"
print(classify("photo.jpg")[0])
```"""
USE_TEXT = """```python
from transformers import pipeline

classify = pipeline("text-classification", model="FOLDER", truncation=True)  # or "OWNER/NAME"
print(classify("one text")[0])
```

Without `truncation=True` texts longer than MAX_LENGTH tokens are read whole, or refused where the model has no
positions for them."""


def write_transformers(classifier: Classifier, folder: Path) -> Written:
    """The configuration with labels, the weights, and the files of the tokenizer."""
    made = {"torch": version("torch"), "transformers": version("transformers")}
    reads = classifier.backbone.preprocess
    if not isinstance(reads, TextPreprocess):
        more = {"model_type": "timm_wrapper", "architectures": [TIMM_HOST], "problem_type": ONE_LABEL}
        save_network(classifier, folder, more=more)
        return Written(folder, made | {"timm": version("timm")}, use=USE_IMAGE)
    module = text_class(classifier, classifier.backbone.module.state_dict())
    module.get_submodule(TEXT_CLASSIFIER).load_state_dict(calibrated_linear(classifier))
    with quiet_transformers():
        module.save_pretrained(folder)
    write_tokenizer_config(classifier.backbone, folder)
    return Written(folder, made, use=USE_TEXT.replace("MAX_LENGTH", str(reads.max_length)))


def text_class(classifier: Classifier, tensors: dict[str, Tensor]) -> Any:
    """transformers' own classification class with these tensors of the backbone; its classifier is random."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    recipe, labels = classifier.backbone.recipe["config"], classifier.labels.names
    assert isinstance(recipe, dict)
    values = {key: value for key, value in recipe.items() if key != "model_type"}
    with quiet_transformers():
        config = AutoConfig.for_model(recipe["model_type"], **values)
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: index for index, name in enumerate(labels)}
        config.problem_type = ONE_LABEL
        module = AutoModelForSequenceClassification.from_config(config)
    module.base_model.load_state_dict(tensors)
    return module.eval()


def write_tokenizer_config(backbone: Backbone, folder: Path) -> None:
    """``tokenizer.json`` and ``tokenizer_config.json``: the tokenizer as the run has it, its longest text, padding.

    Raises RequestError for texts that are cut in a way that transformers does not know.
    """
    from tokenizers import Tokenizer

    reads, tokenizer = backbone.preprocess, backbone.assets[TOKENIZER]
    assert isinstance(reads, TextPreprocess)
    if reads.truncation != "head":
        raise RequestError(
            f"transformers cuts long texts behind their beginning, and the run keeps {reads.truncation}: "
            "export to onnx."
        )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": reads.max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": Tokenizer.from_str(tokenizer.decode("utf-8")).id_to_token(reads.pad_id),
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    write_atomically(folder / TOKENIZER, tokenizer)
    write_atomically(
        folder / "tokenizer_config.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    )


def open_transformers(folder: Path, classifier: Classifier) -> Graph:
    """The model as transformers' own factories load it."""
    import transformers

    if classifier.backbone.modality == "text":
        with quiet_transformers():
            texts = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True
            )
        return ids_graph(lambda ids, mask: texts(input_ids=ids, attention_mask=mask.long()).logits)
    with quiet_transformers():
        model = transformers.AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)
        reads = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True).data_config
    return pixels_graph(lambda pixels: model(pixels).logits, reads["mean"], reads["std"])


def ids_graph(logits_of: Any) -> Graph:
    """The graph of a model that gives calibrated logits (batch, classes) for ids and mask, both (batch, tokens)."""

    def run(arrays: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.no_grad():
            logits = logits_of(torch.from_numpy(arrays["ids"]), torch.from_numpy(arrays["mask"]))
        return logits.numpy(), logits.softmax(dim=1).numpy()

    return run


def answer_transformers(folder: Path, classifier: Classifier) -> Answers:
    """Probabilities of raw inputs by transformers' pipeline alone."""
    from transformers import pipeline

    names = classifier.labels.names
    texts = classifier.backbone.modality == "text"
    task, more = ("text-classification", {"truncation": True}) if texts else ("image-classification", {})
    with quiet_transformers():
        classify = pipeline(task, model=str(folder), device="cpu", **more)

    def answer(raws: Sequence[Raw]) -> NDArray[np.float64]:
        inputs = [as_text(raw) if texts else open_as_users_do(raw) for raw in raws]
        with quiet_transformers():
            found = classify(inputs, top_k=len(names), batch_size=len(inputs))
        scores = [{entry["label"]: entry["score"] for entry in row} for row in found]
        return np.array([[row[name] for name in names] for row in scores], dtype=np.float64)

    return answer
