"""Bottleneck adapters behind the blocks of a transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from unfreeze.errors import RequestError
from unfreeze.grafts.targets import input_width
from unfreeze.plan import Adapters

# The name of the module that a block is given; the engine tells grafted parameters by it.
NAME = "adapter"


class Bottleneck(nn.Module):
    """h + up(GELU(down(norm(h)))), for h of shape (..., width); the identity until it is trained.

    Without ``norm``: h + up(GELU(down(h))).
    """

    def __init__(self, width: int, reduction: int, *, norm: bool) -> None:
        super().__init__()
        narrow = max(1, width // reduction)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.down = nn.Linear(width, narrow)
        self.up = nn.Linear(narrow, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        """The same shape."""
        out: Tensor = self.up(functional.gelu(self.down(self.norm(h))))
        return h + out


def bottleneck_for(block: nn.Module, graft: Adapters) -> Bottleneck:
    """A new bottleneck that fits behind a block, whatever class that has."""
    # The first linear layer of a block reads the whole width: it is the attention's.
    width = next(width for width in map(input_width, block.modules()) if width is not None)
    return Bottleneck(width, graft.reduction, norm=graft.norm)


def add_adapter(block: nn.Module, graft: Adapters) -> None:
    """Put a bottleneck behind a block: its output passes through ``block.adapter``."""
    if hasattr(block, NAME):
        raise RequestError("This network's blocks have an adapter already: choose another --strategy.")
    block.add_module(NAME, bottleneck_for(block, graft))
    # A plain function without a closure: a copied block passes through its own adapter, not through this one's.
    block.register_forward_hook(_pass_through)


def _pass_through(block: Any, inputs: Any, output: Any) -> Any:
    # Some blocks of transformers return their hidden states first in a tuple.
    if isinstance(output, tuple):
        return (block.adapter(output[0]), *output[1:])
    return block.adapter(output)
