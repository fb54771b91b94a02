"""What a run adds to a network, as it lies in its folder: a head, and perhaps an adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.bundle.folder import ADAPTER_FILES, HEAD, WEIGHTS
from unfreeze.bundle.schema import BundleFile
from unfreeze.errors import RequestError, first_line
from unfreeze.heads.head import Head
from unfreeze.regular import open_file, read_file

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """What a run adds to a network: its head, and the files of its adapter, none where it has no adapter."""

    head: Head
    adapter: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over all of it."""
        found = hashlib.sha256()
        head = {name: array.tobytes() for name, array in self.head.tensors.items()}
        for name, data in sorted({**head, **self.adapter}.items()):
            found.update(f"{name}\0{len(data)}\0".encode())
            found.update(data)
        return found.hexdigest()


def read_part(folder: Path, bundle: BundleFile) -> Part:
    """The head and the adapter of a run folder. RequestError when the head is not one for its labels."""
    from safetensors.torch import load

    grafted = bundle.backbone.base is not None
    tensors = load(read_file(folder / HEAD)) if grafted else tensors_of(folder / WEIGHTS, "head")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    head = Head(kind=bundle.head.kind, boundaries=bundle.head.boundaries, tensors=arrays)
    if head.classes != len(bundle.labels):
        raise RequestError(f"{folder}: the head gives {head.classes} logits for {len(bundle.labels)} labels.")
    files = {Path(name).name: read_file(folder / name) for name in ADAPTER_FILES} if grafted else {}
    return Part(head, files)


def tensors_of(file: Path, part: str) -> dict[str, Tensor]:
    """The tensors of one part of a run, ``backbone`` or ``head``, by their names in it."""
    from safetensors import safe_open

    found = {}
    # The library would wait for a pipe, and a run may have been changed since its hashes were checked.
    with open_file(file):
        pass
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a mapping
            owner, _, rest = name.partition(".")
            if owner not in ("backbone", "head"):
                raise RequestError(f"{file} holds a tensor {name!r} that belongs to no part of a run.")
            if owner == part:
                found[rest] = opened.get_tensor(name)
    return found


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """RequestError where files of a run turn out not to fit together: ``bundle.json`` names them all the same."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as problem:
        raise RequestError(f"{folder} cannot be read ({problem.strerror or problem}).") from problem
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as problem:
        first = first_line(problem)
        raise RequestError(
            f"{folder} is damaged: its files contradict each other ({first[:160].rstrip('.')})."
        ) from problem
