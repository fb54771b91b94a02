"""What an exported model says of itself: everything beside its graph that an answer needs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from unfreeze.errors import RequestError
from unfreeze.runtime.files import parse_json
from unfreeze.runtime.preprocess import Preprocess, preprocess_from_dict

VERSION = 1
# The name under which the card stands in a model's own metadata, and the file beside it.
KEY, FILE = "unfreeze", "export.json"


@dataclass(frozen=True, kw_only=True)
class Card:
    """``labels`` in the order of the outputs. ``threshold``: below this probability it abstains, or None.

    ``run`` is the hash of the run's ``bundle.json``, ``backbone`` that of its weights. ``parity`` is what the gate
    measured, empty before; ``int8`` what was measured of the file in 8-bit numbers, empty where none was asked for.
    """

    format: str
    modality: Literal["image", "text"]
    labels: tuple[str, ...]
    threshold: float | None
    preprocess: Mapping[str, object]
    strategy: str
    run: str
    backbone: str
    lineage: tuple[str, ...] = ()
    made_with: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, object] = field(default_factory=dict)
    int8: Mapping[str, object] = field(default_factory=dict)
    version: int = VERSION

    @property
    def reads(self) -> Preprocess:
        """The preprocessing as a value."""
        return preprocess_from_dict(dict(self.preprocess))

    def to_json(self) -> str:
        """The text of ``export.json``."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def read_card(text: str | bytes, *, source: str) -> Card:
    """The card of such a text; raises RequestError when it is none."""
    try:
        values = parse_json(text)
        if not isinstance(values, dict):
            raise TypeError("no JSON object")
        if isinstance(values.get("version"), int) and values["version"] > VERSION:
            raise RequestError(f"{source} was exported by a newer Unfreeze: upgrade to read it.")
        for name in ("labels", "lineage"):
            values[name] = _texts(name, values.get(name, []))
        card = Card(**values)
        _check(card)
    except (TypeError, ValueError, KeyError) as problem:
        raise RequestError(
            f"{source} holds no card of an exported model that can be read ({str(problem)[:160]}): export "
            "the run again."
        ) from None
    return card


def _texts(name: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} must be a list of texts")
    return tuple(values)


def _check(card: Card) -> None:
    """Raise TypeError or ValueError where a field is not what ``Card`` says of it."""
    for name in ("format", "strategy", "run", "backbone"):
        if not isinstance(getattr(card, name), str):
            raise TypeError(f"{name} must be a text")
    for name in ("preprocess", "made_with", "parity", "int8"):
        if not isinstance(getattr(card, name), dict):
            raise TypeError(f"{name} must be an object")
    if isinstance(card.version, bool) or not isinstance(card.version, int):
        raise TypeError("version must be a whole number")
    if card.threshold is not None:
        if isinstance(card.threshold, bool) or not isinstance(card.threshold, int | float):
            raise TypeError("threshold must be a number")
        if not 0 <= card.threshold <= 1:
            raise ValueError("threshold must be from 0 to 1")
    if len(card.labels) < 2 or len(set(card.labels)) < len(card.labels):
        raise ValueError("labels must be two or more that differ")
    if card.modality != card.reads.kind:
        raise ValueError("its parts contradict each other")
