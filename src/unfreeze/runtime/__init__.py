"""Decoding, preprocessing, labels and exported models: what predicting needs, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unfreeze.runtime.exported import Exported


def load(path: str | Path) -> Exported:
    """The exported model in a file or folder; see ``unfreeze.runtime.exported.load``."""
    from unfreeze.runtime.exported import load as load_exported

    return load_exported(path)
