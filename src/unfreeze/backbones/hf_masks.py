"""Masks of attention that transformers makes without looking at what is padded.

The library reads a batch's mask back to leave the mask of its attention out where nothing is padded, in every pass. On
a GPU the program waits there for all that it has handed over before. Whoever put the batch together knows the answer.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# The library's implementations of attention whose masks are made by a look.
_LOOKING = ("eager", "sdpa")


def told(config: Any, full: bool) -> Any:
    """A copy of a model's configuration by which its masks are made for batches that are ``full``, or may be padded.

    Layers keep the configuration that they have, and so their attention.
    """
    implementation = config._attn_implementation
    if implementation not in _LOOKING:
        return config
    copied = object.__new__(type(config))
    copied.__dict__.update(config.__dict__)
    # As a dict it is that of the model alone: the configurations of its parts are not copied.
    copied._attn_implementation = {"": _registered(implementation, full)}
    return copied


@cache
def _registered(implementation: str, full: bool) -> str:
    """The name under which the library finds how masks of this implementation are made without a look."""
    from transformers import AttentionMaskInterface

    make = AttentionMaskInterface()[implementation]
    name = f"unfreeze-{implementation}-{'full' if full else 'padded'}"

    def mask(*, attention_mask: Tensor | None = None, **settings: Any) -> Tensor | None:
        if full:
            made: Tensor | None = make(attention_mask=None, **settings)
        else:
            kept = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
            made = make(attention_mask=attention_mask, **(settings | kept))
        return made

    AttentionMaskInterface.register(name, mask)
    return name
