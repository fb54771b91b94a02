"""The whole classifier as one module: raw batch in, logits and calibrated probabilities out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unfreeze.bundle.classifier import Classifier
from unfreeze.contracts import State
from unfreeze.runtime.preprocess import ImagePreprocess

if TYPE_CHECKING:
    from unfreeze.contracts import Backbone

# Two rows, so that nothing mistakes the batch for a constant; tokens likewise, with padding in one row.
ROWS, TOKENS, PADDED = 2, 16, 9


class Network(nn.Module):
    """Normalisation, backbone, head, temperature and softmax in one graph."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.inner = classifier.backbone.module
        self.head = classifier.head.module()
        self._classifier = classifier

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits and probabilities, each (batch, classes)."""
        logits = self.head(self._classifier.features(State(h, mask)))
        return logits, torch.softmax(logits / self._classifier.temperature, dim=1)


def input_names(backbone: Backbone) -> tuple[str, ...]:
    """The names of the graph's inputs, in order."""
    return ("images",) if backbone.modality == "image" else ("ids", "mask")


def example(backbone: Backbone) -> tuple[Tensor, ...]:
    """Inputs of the right shape and kind."""
    preprocess = backbone.preprocess
    if isinstance(preprocess, ImagePreprocess):
        return (torch.zeros((ROWS, preprocess.height, preprocess.width, 3), dtype=torch.uint8),)
    tokens = min(TOKENS, preprocess.max_length)
    mask = torch.ones((ROWS, tokens), dtype=torch.bool)
    mask[1, PADDED:] = False
    return torch.zeros((ROWS, tokens), dtype=torch.long), mask


def dynamic_shapes(backbone: Backbone) -> tuple[Any, ...]:
    """Which dimensions are free, for each input: the batch, and the tokens of texts."""
    batch = torch.export.Dim("batch")
    preprocess = backbone.preprocess
    if isinstance(preprocess, ImagePreprocess):
        return ({0: batch},)
    tokens = torch.export.Dim("tokens", max=preprocess.max_length)
    return {0: batch, 1: tokens}, {0: batch, 1: tokens}
