"""The code that loads an exported LoRA with PEFT, for its card."""

from __future__ import annotations

from pathlib import Path

from unfreeze.backbones import published_as
from unfreeze.bundle.classifier import Classifier
from unfreeze.exporting.to_timm import architecture, arguments, data_arguments
from unfreeze.runtime.preprocess import ImagePreprocess

_POOLINGS = {
    "mean": "(hidden * mask).sum(dim=1) / mask.sum(dim=1)",
    "cls": "hidden[:, 0]",
    "last": "hidden[torch.arange(len(hidden)), mask[:, :, 0].sum(dim=1) - 1]",
}


def usage(classifier: Classifier, *, own: bool) -> str:
    """Markdown with code that gives the probabilities of one input; ``own``: the base has a classifier itself."""
    backbone = classifier.backbone
    public = published_as(backbone)
    if isinstance(backbone.preprocess, ImagePreprocess):
        lines = _image_lines(classifier, public is not None)
    else:
        lines = _text_lines(classifier, public or backbone.name, own=own)
    kind = "an image" if backbone.modality == "image" else "a text"
    assert classifier.adapter is not None
    digest = classifier.adapter.base.weights_hash[:12]
    origin = (
        "" if public else f"\n\nThe base, {backbone.name}, is on no hub; the hash of its weights is {digest}."
    )
    code = "\n".join(("```python", "import json", "", *lines, "```"))
    return f"The probabilities of {kind}, by the untouched base and this folder:\n\n{code}{origin}"


def _image_lines(classifier: Classifier, public: bool) -> list[str]:
    backbone = classifier.backbone
    reads = backbone.preprocess
    assert isinstance(reads, ImagePreprocess)
    name = backbone.name.removeprefix("timm:") if public else architecture(backbone)
    given = {"num_classes": len(classifier.labels)} | arguments(backbone)
    if not public:
        given["pretrained_cfg_overlay"] = {"file": _file(classifier)}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    told = ", ".join(f"{key}={value!r}" for key, value in given.items())
    reading = ", ".join(f"{key}={value!r}" for key, value in data_arguments(reads).items())
    return [
        "import timm",
        "import torch",
        "from peft import PeftModel",
        "from PIL import Image, ImageOps",
        "",
        f'base = timm.create_model("{name}", pretrained=True, {told})',
        'model = PeftModel.from_pretrained(base, "FOLDER").eval()  # or "OWNER/NAME"',
        f"reads = timm.data.create_transform({reading}, is_training=False)",
        'picture = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
        "with torch.no_grad():",
        "    probabilities = model(reads(picture)[None]).softmax(dim=1)[0]",
        'labels = json.load(open("FOLDER/export.json"))["labels"]',
        "print(labels[probabilities.argmax()])",
    ]


def _text_lines(classifier: Classifier, base: str, *, own: bool) -> list[str]:
    recipe = classifier.backbone.recipe
    host = "AutoModelForSequenceClassification" if own else str(recipe["class"])
    more = f", num_labels={len(classifier.labels)}" if own else ""
    after = [
        "    hidden = model(**inputs).last_hidden_state",
        'mask, head = inputs["attention_mask"][:, :, None], load_file("FOLDER/head.safetensors")',
        f"pooled = {_POOLINGS.get(str(recipe['pooling']), '')}",
        'logits = pooled @ head["weight"].T + head["bias"]',
    ]
    return [
        "import torch",
        "from peft import PeftModel",
        *([] if own else ["from safetensors.torch import load_file"]),
        f"from transformers import AutoTokenizer, {host}",
        "",
        f'base = {host}.from_pretrained("{base}"{more})',
        'model = PeftModel.from_pretrained(base, "FOLDER").eval()  # or "OWNER/NAME"',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'inputs = tokenizer("one text", truncation=True, return_tensors="pt")',
        "with torch.no_grad():",
        *(["    logits = model(**inputs).logits"] if own else after),
        'labels = json.load(open("FOLDER/export.json"))["labels"]',
        "print(labels[logits.softmax(dim=1)[0].argmax()])",
    ]


def _file(classifier: Classifier) -> str:
    """The name of the base's weight file, without the folders of this machine."""
    assert classifier.adapter is not None
    return Path(classifier.adapter.base.source.partition("@")[2]).name
