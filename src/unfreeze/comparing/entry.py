"""An entry of ``--strategies``: a strategy with the settings in which it differs from what all share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from unfreeze.config import AUTO, FLOOR, KINDS, STRATEGIES, TrainRequest
from unfreeze.errors import RequestError, did_you_mean

# What decides the rows and their parts, or where a run is put and what is kept there, is the same for every entry.
SHARED = (
    "data", "output_dir", "backbone", "strategy", "seed", "resume", "val", "test", "train_size", "keep_both",
    "text_column", "image_column", "label_column", "group_column", "stratify_column",
)  # fmt: skip
OWN = {field.name: str(field.type) for field in fields(TrainRequest) if field.name not in SHARED}


@dataclass(frozen=True)
class Entry:
    """A strategy and its own settings; ``name`` is how it was written, such as ``lora:rank=16+lr=1e-3``."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def strategy(self) -> str:
        """The strategy without the settings."""
        return self.name.partition(":")[0]


FLOOR_ENTRY = Entry(FLOOR)


def parse_entries(text: str) -> tuple[Entry, ...]:
    """The entries of a list with commas, each once; raises RequestError as ``parse_entry`` does.

    A comma belongs to the entry before it where that ends with a list of layers (``lora:targets=qkv,proj``).
    """
    pieces: list[str] = []
    for piece in (piece.strip() for piece in text.split(",")):
        if pieces and "targets=" in pieces[-1].rpartition("+")[2] and piece.partition(":")[0] not in known():
            pieces[-1] += f",{piece}"
        elif piece:
            pieces.append(piece)
    return make_entries(pieces)


def make_entries(texts: Sequence[str]) -> tuple[Entry, ...]:
    """The entries of these texts, each once; raises RequestError when there is none."""
    entries = tuple({entry.name: entry for entry in map(parse_entry, texts)}.values())
    if not entries:
        raise RequestError(
            f"--strategies names none: give some of {', '.join(known())}, with commas between."
        )
    return entries


def parse_entry(text: str) -> Entry:
    """The entry that is written ``STRATEGY`` or ``STRATEGY:SETTING=VALUE+SETTING=VALUE``.

    Raises RequestError for a strategy or a setting that is unknown, and for a value of the wrong kind.
    """
    strategy, _, rest = text.strip().partition(":")
    if strategy not in known():
        raise RequestError(
            f"--strategies: {strategy!r} is unknown: choose {', '.join(known())}.{did_you_mean(strategy, known())}"
        )
    settings: dict[str, object] = {}
    for pair in filter(None, rest.split("+")):
        name, _, value = pair.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if name in settings:
            raise RequestError(f"--strategies {text!r} gives {name} twice: which one holds?")
        settings[name] = _value(text, name, value.strip())
    return Entry(text.strip().rstrip(":"), settings)


def known() -> tuple[str, ...]:
    """Every strategy that can be compared."""
    return (*STRATEGIES, AUTO)


def _value(text: str, name: str, value: str) -> object:
    if name in SHARED:
        raise RequestError(
            f"--strategies {text!r}: {name} is the same for all that are compared, so it cannot stand here."
        )
    if name not in OWN:
        raise RequestError(
            f"--strategies {text!r}: {name!r} is no setting: write it like lora:rank=16+lr=1e-3."
            f"{did_you_mean(name, OWN)}"
        )
    kind = OWN[name].removesuffix(" | None")
    try:
        if kind == "int":
            return int(value)
        if kind == "float":
            return float(value)
        if kind == "bool":
            return {"true": True, "false": False}[value.lower()]
    except (ValueError, KeyError):
        raise RequestError(
            f"--strategies {text!r}: {name} {value!r} is of the wrong kind: give {KINDS[kind][1]}."
        ) from None
    return value
