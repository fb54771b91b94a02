"""Folders in timm's layout: ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps

from unfreeze.backbones.timm_loading import create_timm
from unfreeze.bundle.classifier import Classifier
from unfreeze.contracts import Backbone
from unfreeze.errors import RequestError
from unfreeze.exporting.formats import Answers, Written
from unfreeze.exporting.hosting import calibrated_linear, takes_linear
from unfreeze.runtime.exported import Graph
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.orientation import upright
from unfreeze.runtime.preprocess import ImagePreprocess
from unfreeze.runtime.reading import Arrays, Raw

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# timm's words for how an image is fitted to the size.
CROP_MODES = {"squash": "squash", "crop": "center", "pad": "border"}
# What of the architecture's own configuration is still true of the trained network.
_KEPT = ("tag", "first_conv", "classifier", "fixed_input_size")
USE = """```python
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or "hf-hub:OWNER/NAME"
reads = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
picture = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
with torch.no_grad():
    probabilities = model(reads(picture)[None]).softmax(dim=1)[0]
print(model.pretrained_cfg["label_names"][probabilities.argmax()])
```"""


def write_timm(classifier: Classifier, folder: Path) -> Written:
    """``config.json`` with labels and preprocessing, ``model.safetensors`` with timm's names and the classifier."""
    save_network(classifier, folder, more={})
    return Written(folder, {"torch": version("torch"), "timm": version("timm")}, use=USE)


def save_network(classifier: Classifier, folder: Path, *, more: Mapping[str, object]) -> None:
    """Write the two files of timm's layout; ``more`` is added to the configuration."""
    from safetensors.torch import save

    backbone = classifier.backbone
    module, name = with_classifier(classifier, backbone.module.state_dict())
    module.get_submodule(name).load_state_dict(calibrated_linear(classifier))
    tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in module.state_dict().items()}
    config = {**_config(classifier, module), **more}
    write_atomically(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))


def with_classifier(classifier: Classifier, tensors: Mapping[str, Tensor]) -> tuple[Any, str]:
    """timm's own network with these tensors of the backbone, and the path of its classifier, which is random.

    Raises RequestError where the network has other parts than the backbone and one linear classifier.
    """
    backbone, linear = classifier.backbone, calibrated_linear(classifier)
    module = create_timm(
        architecture(backbone), {**arguments(backbone), "num_classes": len(classifier.labels)}
    )
    found = module.get_classifier()
    names = [name for name, part in module.named_modules() if part is found and name]
    loaded = module.load_state_dict(dict(tensors), strict=False)
    own = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    if len(names) != 1 or loaded.unexpected_keys or not set(loaded.missing_keys) <= own:
        raise RequestError(
            f"timm's {backbone.name} with a classifier differs from the one without in more than that, so it cannot "
            "hold the run: export to onnx."
        )
    if not takes_linear(module, names[0], linear):
        raise RequestError(
            f"timm's classifier of {backbone.name} is no plain linear layer, so it cannot hold the run's head: "
            "export to onnx."
        )
    return module.eval(), names[0]


def architecture(backbone: Backbone) -> str:
    """timm's name of the architecture, without the tag of its weights."""
    return str(backbone.recipe["architecture"]).partition(".")[0]


def arguments(backbone: Backbone) -> dict[str, Any]:
    """What the architecture is built with beside the number of classes."""
    given = backbone.recipe["arguments"]
    assert isinstance(given, dict)
    return {name: value for name, value in given.items() if name != "num_classes"}


def data_arguments(reads: ImagePreprocess) -> dict[str, Any]:
    """The run's preprocessing in the words of ``timm.data.create_transform``."""
    return {
        "input_size": (3, reads.height, reads.width),
        "interpolation": reads.interpolation,
        # A squashed or padded picture is kept whole; timm's default would cut its edges off.
        "crop_pct": reads.crop_fraction if reads.fit == "crop" else 1.0,
        "crop_mode": CROP_MODES[reads.fit],
        "mean": reads.mean,
        "std": reads.std,
    }


def _config(classifier: Classifier, module: Any) -> dict[str, object]:
    backbone, reads, classes = classifier.backbone, classifier.backbone.preprocess, len(classifier.labels)
    assert isinstance(reads, ImagePreprocess)
    own: Mapping[str, object] = module.pretrained_cfg
    kept = {name: own[name] for name in _KEPT if own.get(name) is not None}
    return {
        "architecture": architecture(backbone),
        "num_classes": classes,
        "num_features": backbone.dim,
        "label_names": list(classifier.labels.names),
        "model_args": arguments(backbone),
        "pretrained_cfg": kept | data_arguments(reads) | {"num_classes": classes},
    }


def open_timm(folder: Path, classifier: Classifier) -> Graph:
    """The network as timm loads it, behind the mean and deviation of its own configuration."""
    model = _create(folder)
    config = _data_config(model)
    return pixels_graph(model, config["mean"], config["std"])


def pixels_graph(model: Callable[[Tensor], Tensor], mean: Sequence[float], std: Sequence[float]) -> Graph:
    """The graph of a network that reads normalised pixels and gives calibrated logits (batch, classes)."""
    centre, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    def run(arrays: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pixels = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            logits = model((pixels - centre) / scale)
        return logits.numpy(), logits.softmax(dim=1).numpy()

    return run


def answer_timm(folder: Path, classifier: Classifier) -> Answers:
    """Probabilities of image files by timm alone, with its own transforms."""
    import timm

    model = _create(folder)
    transform = timm.data.create_transform(**_data_config(model), is_training=False)
    return answers_of(model, transform, model.pretrained_cfg["label_names"], classifier)


def answers_of(model: Any, transform: Any, labels: Sequence[str], classifier: Classifier) -> Answers:
    """Probabilities by a network that reads what ``transform`` makes of a picture, in the classifier's order."""
    columns = [list(labels).index(name) for name in classifier.labels.names]

    def answer(raws: Sequence[Raw]) -> NDArray[np.float64]:
        inputs = torch.stack([transform(open_as_users_do(raw)) for raw in raws])
        with torch.no_grad():
            found: Tensor = model(inputs).softmax(dim=1)
        return found.double().numpy()[:, columns]

    return answer


def open_as_users_do(raw: Raw) -> Image.Image:
    """The picture of a file as the libraries' own examples open it, upright, in RGB.

    Of a picture whose other EXIF Pillow cannot write again, as turning it takes there, the pixels are turned alone.
    """
    assert isinstance(raw, bytes)
    picture = Image.open(BytesIO(raw))
    try:
        return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception:  # tags of odd types end in nearly any error
        return upright(picture).convert("RGB")


def _create(folder: Path) -> Any:
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def _data_config(model: Any) -> dict[str, Any]:
    import timm

    config: dict[str, Any] = timm.data.resolve_model_data_config(model)
    return config
