"""``bundle.json``: what a run folder says of itself. Anything else in the file is refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unfreeze.runtime.preprocess import MOST_SIDE, MOST_TOKENS

SCHEMA_VERSION = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseEntry(_Strict):
    """The network below an adapter; see ``Base``."""

    source: str
    weights_hash: str
    # It is built in this size before anything tells whether that is its own.
    image_size: int | None = Field(default=None, ge=1, le=MOST_SIDE)
    pooling: str | None = None
    max_length: int | None = Field(default=None, ge=1, le=MOST_TOKENS)


class BackboneEntry(_Strict):
    """The backbone: its name, how its architecture is rebuilt, and the hash of its weights.

    ``base`` where the folder holds an adapter in place of the weights.
    """

    name: str
    recipe: dict[str, object]
    weights_hash: str
    assets: tuple[str, ...] = ()
    base: BaseEntry | None = None


class HeadEntry(_Strict):
    """The head: its kind and the boundaries it reads."""

    kind: Literal["linear", "mlp"]
    boundaries: tuple[int, ...] = Field(min_length=1)


class CalibrationEntry(_Strict):
    """The temperature, and the rows it was fitted on."""

    # Beyond what a fit can give, with a margin: much smaller ones leave no number of a probability.
    temperature: float = Field(ge=1e-3, le=1e3)
    fitted_on: str
    rows: int = Field(ge=0)


class ThresholdEntry(_Strict):
    """The abstain threshold; see ``Threshold``."""

    probability: float = Field(ge=0, le=1)
    precision: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1)


class DataEntry(_Strict):
    """Where the data came from, how many rows each part had, and a hash over names, labels and parts.

    ``folder``: the one that was current, from which a relative ``source`` counts; empty in runs that did not keep it.
    """

    source: str
    folder: str = ""
    fingerprint: str
    rows: dict[str, int]


class BundleFile(_Strict):
    """The whole file. ``files`` maps each file of the folder that loading relies on to its SHA-256."""

    schema_version: int
    created: str
    modality: Literal["image", "text"]
    labels: tuple[str, ...] = Field(min_length=2)
    preprocess: dict[str, object]
    backbone: BackboneEntry
    head: HeadEntry
    strategy: str
    calibration: CalibrationEntry
    threshold: ThresholdEntry | None = None
    data: DataEntry
    packages: dict[str, str]
    lineage: tuple[str, ...] = ()
    files: dict[str, str]
