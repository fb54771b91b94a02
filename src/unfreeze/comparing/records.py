"""Reading what a comparison kept: what is not whole, or says what cannot be, is none and is computed again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from unfreeze.regular import read_record

# Each kind as it is written, and no number that is none. What a later version adds is left alone.
AS_WRITTEN = ConfigDict(strict=True, allow_inf_nan=False)
# Far beyond the parameters of any network, the bytes of any memory and the seconds of any training.
MOST = 2**53
# Sums in another order differ by less, and shares of different rows by more.
SAME = 1e-6
# Of the texts that stand for a list of rows: SHA-256 in hexadecimal digits.
HASH_LENGTH = 64

Model = TypeVar("Model", bound=BaseModel)


def read_as(path: Path, kind: type[Model]) -> Model | None:
    """What a file holds, or None where it is not there, no regular file or not of this kind."""
    try:
        return kind.model_validate_json(read_record(path))
    except (OSError, ValueError):
        return None


def are_shares(*values: float | None) -> bool:
    """Whether all that are known lie in 0..1."""
    return all(value is None or 0 <= value <= 1 for value in values)


def are_amounts(*values: float | None) -> bool:
    """Whether all that are known can be counted or measured: from 0 to ``MOST``."""
    return all(value is None or 0 <= value <= MOST for value in values)


def is_mean(value: float, parts: Sequence[float]) -> bool:
    """Whether a share is the mean of these."""
    return bool(parts) and abs(value - sum(parts) / len(parts)) <= SAME
