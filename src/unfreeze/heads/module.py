"""A head as a torch module, for training, export and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from unfreeze.heads.head import HIDDEN, Head, HeadKind


class LinearHead(nn.Linear):
    """Dropout, then one linear layer; tensors ``weight`` and ``bias``."""

    def __init__(self, width: int, classes: int, *, dropout: float) -> None:
        super().__init__(width, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input: Tensor) -> Tensor:
        """Logits (batch, classes) of features (batch, width)."""
        return super().forward(self.dropout(input))


class MlpHead(nn.Linear):
    """Dropout, ``hidden`` layer, ReLU, dropout, linear layer; tensors named as in ``Head``."""

    def __init__(self, width: int, hidden: int, classes: int, *, dropout: float) -> None:
        super().__init__(hidden, classes)
        self.hidden = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input: Tensor) -> Tensor:
        """Logits (batch, classes) of features (batch, width)."""
        return super().forward(self.dropout(torch.relu(self.hidden(self.dropout(input)))))


def to_module(head: Head, dropout: float = 0.0) -> LinearHead | MlpHead:
    """The head as a module in evaluation mode, whose state_dict has the head's tensor names.

    ``dropout`` acts in training mode only, on the raw features (0 is then the raw zero, not the mean).
    """
    module: LinearHead | MlpHead
    with torch.device("cpu"):
        if head.kind == "mlp":
            hidden = head.tensors["hidden.weight"].shape[0]
            module = MlpHead(head.width, hidden, head.classes, dropout=dropout)
        else:
            module = LinearHead(head.width, head.classes, dropout=dropout)
    module.load_state_dict({name: torch.tensor(value) for name, value in head.tensors.items()})
    return module.eval()


def new_head(kind: HeadKind, width: int, classes: int, *, dropout: float, seed: int) -> LinearHead | MlpHead:
    """A head that knows nothing, in evaluation mode: a linear one of zeros, or an mlp drawn by the seed.

    Both layers of an mlp are drawn as torch draws linear layers: from zeros its hidden layer gets no gradient.
    """
    module: LinearHead | MlpHead
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            module = MlpHead(width, HIDDEN, classes, dropout=dropout)
        else:
            module = LinearHead(width, classes, dropout=dropout)
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return module.eval()


def from_module(module: nn.Module, *, boundaries: tuple[int, ...]) -> Head:
    """The head that a module from ``to_module`` holds now; ``boundaries`` as in ``Head``."""
    if not isinstance(module, LinearHead | MlpHead):
        raise TypeError(f"not a head's module: {type(module).__name__}")
    tensors = {
        name: np.array(value.detach().float().cpu().numpy()) for name, value in module.state_dict().items()
    }
    return Head(
        kind="mlp" if isinstance(module, MlpHead) else "linear", boundaries=boundaries, tensors=tensors
    )
