"""From a backbone's PyTorch module to an OpenVINO model, in memory, and kept on disk for the next process.

The frontend is driven directly: ``openvino.convert_model`` traces twice to check itself (6.7 against 2 s for
EfficientNet-Lite0; the executor is measured against PyTorch on real rows anyway) and would report its use over
the network.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openvino as ov
import torch
from torch import Tensor, nn

from unfreeze.contracts import Backbone, State, recipe_here
from unfreeze.executors.torch_ import run_boundaries
from unfreeze.executors.tracing import traced
from unfreeze.regular import read_record
from unfreeze.runtime.files import (
    file_hash,
    own_temporary,
    parse_json,
    remove_abandoned,
    sync_file,
    sync_folder,
    write_atomically,
)

if TYPE_CHECKING:
    from unfreeze.runtime.preprocess import ImagePreprocess

# Counts up when the same backbone would be converted differently.
VERSION = 1
GRAPH, WEIGHTS, MANIFEST = "model.xml", "model.bin", "manifest.json"


@cache
def core() -> ov.Core:
    """The one OpenVINO core of this process, which lives as long as the process does.

    The processor plugin of each core gives its thread a stack for signals. When cores go in another order than they
    came, a stack that was freed is left behind, and the next signal, such as Ctrl-C, ends the process with a
    segmentation fault (OpenVINO 2026.4.1).
    """
    return ov.Core()


class _Wrapped(nn.Module):
    """Stages as one module: a raw batch in, summaries at ``boundaries`` and states at ``keep`` out."""

    def __init__(self, backbone: Backbone, boundaries: tuple[int, ...], keep: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = backbone.module
        self._run = (backbone, boundaries, keep)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        backbone, boundaries, keep = self._run
        summaries, states = run_boundaries(backbone, State(h, mask), boundaries, keep)
        return (*summaries, *(state.h.float() for state in states))


def model_key(backbone: Backbone, boundaries: tuple[int, ...], keep: tuple[int, ...]) -> str:
    """Hash of everything that decides what the converted model computes."""
    parts = {
        "version": VERSION,
        "openvino": ov.__version__,
        "weights": backbone.weights_hash,
        "recipe": recipe_here(backbone),
        "preprocess": backbone.preprocess.to_dict(),
        "boundaries": boundaries,
        "keep": keep,
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def convert(backbone: Backbone, boundaries: tuple[int, ...], keep: tuple[int, ...]) -> ov.Model:
    """The converted model; it owns a copy of the weights.

    Images are read one at a time: with a core for each request this was the fastest on two cores (Lite0 182
    images a second, 149 eight at a time, 111 in one batch of 32). Texts keep both dimensions open.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    module = _Wrapped(backbone, boundaries, keep).eval()
    with (
        torch.no_grad(),
        _quiet_logger("transformers.modeling_utils"),
        traced(module, _example(backbone)) as trace,
    ):
        # A copy of the weights, so that training the backbone later cannot change this model.
        decoder = TorchScriptPythonDecoder(trace, shared_memory=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        loaded = frontend.load(decoder)
        model: ov.Model = frontend.convert(loaded)
    model.reshape(dict(zip(model.inputs, _shapes(backbone), strict=True)))
    return model


def convert_cached(
    backbone: Backbone, boundaries: tuple[int, ...], keep: tuple[int, ...], *, cache_dir: Path | None
) -> ov.Model:
    """The same model, read from ``cache_dir`` when an earlier process left it there, else left there now."""
    if cache_dir is None:
        return convert(backbone, boundaries, keep)
    folder = cache_dir / model_key(backbone, boundaries, keep)
    kept = _read(folder)
    if kept is None:
        model = convert(backbone, boundaries, keep)
        _write(model, folder)
        # Writing changes the order of some sums; read back, this process gives the bits of all later ones.
        kept = _read(folder)
        return model if kept is None else kept
    return kept


@contextmanager
def _quiet_logger(name: str) -> Iterator[None]:
    """For the same reason the library's logger would complain about attributes that nobody asked for."""
    logger = logging.getLogger(name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _example(backbone: Backbone) -> tuple[Tensor, ...]:
    if backbone.modality == "image":
        height, width = _image_size(backbone)
        return (torch.zeros((2, height, width, 3), dtype=torch.uint8),)
    # One row with padding: a mask of ones alone would let a library trace a way that ignores masks.
    ids = torch.zeros((2, 16), dtype=torch.long)
    mask = torch.ones((2, 16), dtype=torch.bool)
    mask[1, 9:] = False
    return ids, mask


def _shapes(backbone: Backbone) -> list[ov.PartialShape]:
    if backbone.modality == "image":
        return [ov.PartialShape([1, *_image_size(backbone), 3])]
    return [ov.PartialShape([-1, -1]), ov.PartialShape([-1, -1])]


def _image_size(backbone: Backbone) -> tuple[int, int]:
    preprocess: ImagePreprocess = backbone.preprocess  # type: ignore[assignment]
    return preprocess.height, preprocess.width


def _read(folder: Path) -> ov.Model | None:
    """The model in ``folder``; None when there is none or a byte of it changed."""
    try:
        manifest: dict[str, Any] = parse_json(read_record(folder / MANIFEST))
        if any(file_hash(folder / name) != manifest[name] for name in (GRAPH, WEIGHTS)):
            return None
        return core().read_model(folder / GRAPH)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _write(model: ov.Model, folder: Path) -> None:
    """Leave the model in ``folder``; without a place to write, the next process converts again."""
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent.iterdir())
        temporary = own_temporary(folder.parent, folder.name)
        temporary.mkdir()
        ov.save_model(model, temporary / GRAPH, compress_to_fp16=False)
        hashes = {name: file_hash(temporary / name) for name in (GRAPH, WEIGHTS)}
        for name in (GRAPH, WEIGHTS):
            sync_file(temporary / name)
        write_atomically(temporary / MANIFEST, json.dumps(hashes))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except (OSError, RuntimeError):
        # A full or read-only disk, or another process that was first: this process has its model either way.
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
