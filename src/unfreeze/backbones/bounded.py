"""A network that a run folder describes, built only while it is not much larger than the weights that came along.

What a recipe asks for is a stranger's word: without a bound, one number in it takes all memory of the machine before
the weights turn out not to fit. Importing this loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from unfreeze.backbones.staging import load_tensors
from unfreeze.errors import RequestError

# A classifier that is left out again, tables that two modules share and masks that no file holds are made all the same.
# What is honest stays far below the bound, and what is added here costs 40 MB and a second.
SHARE, MORE_VALUES = 4, 10_000_000
TENSORS_PER_WEIGHT, MORE_TENSORS = 20, 10_000


class _TooLargeError(Exception):
    """More than the bound allows."""


class _Bound(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is made from nothing in this thread, before it is made."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = SHARE * sum(tensor.numel() for tensor in tensors.values()) + MORE_VALUES
        self.tensors = TENSORS_PER_WEIGHT * len(tensors) + MORE_TENSORS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        made_from_nothing = not any(isinstance(value, Tensor) for value in (*args, *given.values()))
        if made_from_nothing and any(argument.name == "device" for argument in func._schema.arguments):
            self.values -= func(*args, **{**given, "device": torch.device("meta")}).numel()
            self.tensors -= 1
            if self.values < 0 or self.tensors < 0:
                raise _TooLargeError
        return func(*args, **given)


def build_from(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], *, source: str) -> Any:
    """What ``build`` returns, holding ``tensors``; RequestError as soon as it asks for far more numbers than those."""
    try:
        with _Bound(tensors):
            module = build()
    except _TooLargeError:
        raise RequestError(
            f"{source} is described as far larger than the weights that came along: it holds another architecture."
        ) from None
    load_tensors(module, tensors, source=source)
    return module
