"""What a head reads of inputs that are prepared already, to find training rows like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.bundle.classifier import Classifier
from unfreeze.contracts import State
from unfreeze.runtime.reading import batch_arrays


def features_of(classifier: Classifier, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Features, float32 (inputs, width), through PyTorch.

    ``prepared``: of each input uint8 (height, width, 3), or token ids (tokens,), as ``Reader.prepare`` gives them.
    """
    arrays = batch_arrays(classifier.backbone.preprocess, prepared)
    with torch.inference_mode():
        found = classifier.features(State(*map(torch.from_numpy, arrays.values())))
    return np.asarray(found.cpu().numpy(), dtype=np.float32)
