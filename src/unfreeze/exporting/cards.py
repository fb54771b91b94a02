"""The card of an exported folder: the run's own, for the library that reads it, without paths of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from unfreeze.backbones import published_as
from unfreeze.bundle.loading import Loaded
from unfreeze.exporting.formats import Written
from unfreeze.regular import names_anything
from unfreeze.report.card import NAME, plain
from unfreeze.training.reopening import located

# The hub's names of the libraries that read our formats.
LIBRARY_NAMES = {"pt2": "pytorch", "torchscript": "pytorch"}
FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
# The command and its folders belong to the machine that trained; the export is used in another way.
LEFT_OUT = ("## How it was made", "## Use")
USE = "How this file is run, and what its inputs and outputs are, stands in `export.json`."


def exported_card(loaded: Loaded, written: Written, format: str) -> str:
    """The text of the folder's ``README.md``, from the run's where that is still there."""
    text, given = _run_card(loaded)
    front = _front_matter(given if isinstance(given, dict) else {}, loaded, format)
    body = FRONT.sub("", text)
    start, *sections = re.split(r"\n(?=## )", body)
    kept = [section for section in sections if not section.startswith(LEFT_OUT)]
    use = f"## Use\n\n{written.use or USE}\n"
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1_000)
    return f"---\n{header}---\n" + without_folders("\n".join((start, use, *kept)), _paths(loaded))


def _run_card(loaded: Loaded) -> tuple[str, object]:
    """The run's card and its front matter: people edit it, so that it may be gone, or no YAML any more."""
    try:
        text = (loaded.folder / NAME).read_text(encoding="utf-8")
        found = FRONT.match(text)
        return text, yaml.safe_load(found[1]) if found else {}
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        # ValueError: it is no UTF-8, or has a date that is none.
        return f"# {plain(loaded.classifier.backbone.name)}\n", {}


def without_folders(text: str, paths: Iterable[str]) -> str:
    """The text with each of these paths replaced by its last part, the longest first."""
    for path in sorted(set(paths), key=len, reverse=True):
        for form in (str, plain):
            text = text.replace(form(path), form(Path(path).name))
    return text


def lineage_without_folders(lineage: Iterable[str]) -> tuple[str, ...]:
    """The runs below this one, each as its name and its hash."""
    parts = (entry.rpartition(" ") for entry in lineage)
    return tuple(f"{Path(folder).name} {digest}" for folder, _, digest in parts)


def _front_matter(given: dict[str, object], loaded: Loaded, format: str) -> dict[str, object]:
    bundle, backbone = loaded.bundle, loaded.classifier.backbone
    task = f"{bundle.modality}-classification"
    front = {"pipeline_tag": task, "tags": ["unfreeze", task, bundle.strategy]} | given
    base = None if bundle.strategy == "scratch" else published_as(backbone)
    relation = {"base_model_relation": "adapter" if format == "peft" else "finetune"}
    return (
        front
        | {"library_name": LIBRARY_NAMES.get(format, format)}
        | ({"base_model": base} | relation if base else {})
    )


def _paths(loaded: Loaded) -> list[str]:
    """What a sentence of the run's card may name of this machine."""
    data = loaded.bundle.data
    found = Path(located(data.source, data.folder))
    paths = [str(loaded.folder), str(loaded.folder.resolve())]
    if names_anything(found):
        paths += [data.source, str(found.resolve())]
    if loaded.bundle.backbone.base is not None:
        base = loaded.bundle.backbone.base.source
        paths += [base.partition("@")[2], *([base] if Path(base).is_absolute() else [])]
    return [path for path in paths if Path(path).name]
