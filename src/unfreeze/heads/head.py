"""The head: what turns features into logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

HeadKind = Literal["linear", "mlp"]
# Width of the hidden layer of an mlp head, as in the classic guide.
HIDDEN = 256


@dataclass(frozen=True, eq=False)
class Head:
    """A fitted head as plain arrays.

    ``boundaries``: the boundaries of the backbone whose summaries it reads, joined in this order (one
    entry, the last boundary, for a head on the pooled feature). ``tensors``, float32: ``weight`` (classes,
    width) and ``bias`` (classes,) when linear; ``hidden.weight`` (256, width), ``hidden.bias``, ``weight``,
    ``bias`` when mlp. Standardisation is folded into the first layer, so it reads raw features.
    """

    kind: HeadKind
    boundaries: tuple[int, ...]
    tensors: dict[str, NDArray[np.float32]]

    @property
    def width(self) -> int:
        """Number of features it reads."""
        return int(self.tensors["hidden.weight" if self.kind == "mlp" else "weight"].shape[1])

    @property
    def classes(self) -> int:
        """Number of logits it gives."""
        return int(self.tensors["weight"].shape[0])

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (rows, classes) of features (rows, width)."""
        hidden = features
        if self.kind == "mlp":
            hidden = np.maximum(features @ self.tensors["hidden.weight"].T + self.tensors["hidden.bias"], 0.0)
        return np.asarray(hidden @ self.tensors["weight"].T + self.tensors["bias"], dtype=np.float32)

    def module(self, dropout: float = 0.0) -> nn.Module:
        """The same head as a torch module with the same tensor names."""
        from unfreeze.heads.module import to_module

        return to_module(self, dropout=dropout)
