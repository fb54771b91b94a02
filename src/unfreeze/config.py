"""What was asked for, and what it became: a request with gaps, then resolved values with their origin."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from unfreeze.errors import RequestError, did_you_mean
from unfreeze.regular import read_file

Origin = Literal["default", "data", "probe", "trial", "user"]

# The strategy that thaws nothing: its probe is the floor beside every other result.
FLOOR = "feature-extraction"
THAWING = ("partial", "gradual", "discriminative", "full", "lora", "adapters", "contrastive", "scratch")
GRAFTING = ("lora", "adapters")
# What trains on pairs and fits the head in the end, and those that train the head on classes all along.
ON_PAIRS = ("contrastive",)
ON_CLASSES = tuple(name for name in THAWING if name not in ON_PAIRS)
STRATEGIES = (FLOOR, *THAWING)
# Tries before it chooses.
AUTO = "auto"
CHOICES: dict[str, tuple[str, ...]] = {
    "strategy": (AUTO, *STRATEGIES),
    "recipe": ("own", "classic"),
    "head": ("linear", "mlp"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "store": ("auto", "on", "off"),
    "fit": ("squash", "crop", "pad"),
    "truncation": ("head", "head+tail"),
    "pooling": ("native", "mean", "cls", "last"),
    "bn": ("freeze", "train"),
    "augment": ("none", "light", "strong", "dihedral"),
    "schedule": ("cosine", "linear", "constant"),
}
# AdamW moves every weight by about the rate in each step: with more than this nothing pretrained is left.
MOST_RATE = 0.1
# The smallest value that makes sense; the largest guards against a typing error, not against ambition.
RANGES: dict[str, tuple[float, float]] = {
    "batch_size": (1, 65_536),
    "image_size": (16, 4_096),
    "max_length": (4, 131_072),
    "seed": (0, 2**32 - 1),
    # Two rows are the least that two classes need; whether they are enough, and there, the data say.
    "train_size": (2, 10**9),
    "precision_target": (0.5, 0.9999),
    "epochs": (1, 10_000),
    # A rate of 1e-2 already destroys pretrained features (measured for LoRA, arXiv 2409.16434).
    "lr": (1e-8, MOST_RATE),
    "freeze": (0, 1_000),
    "layer_decay": (0.01, 1.0),
    "views": (1, 256),
    "pull_to_start": (0.0, 100.0),
    "patience": (1, 10_000),
    "label_smoothing": (0.0, 0.5),
    "mixup": (0.0, 10.0),
    "token_dropout": (0.0, 0.9),
    # At 1 the averaged weights never leave their start.
    "ema": (0.0, 0.99999),
    "rank": (1, 1_024),
    "alpha": (0.01, 65_536),
    "lora_dropout": (0.0, 0.9),
    "lora_blocks": (1, 1_000),
    "reduction": (1, 1_024),
}
# The strategies that read a setting; what is not listed is read by all. Said to another strategy it is refused.
READ_BY: dict[str, tuple[str, ...]] = {
    "freeze": ("partial",),
    "layer_decay": ("discriminative",),
    "rank": ("lora",),
    "alpha": ("lora",),
    "lora_dropout": ("lora",),
    "targets": ("lora",),
    "lora_blocks": ("lora",),
    "reduction": ("adapters",),
    "epochs": THAWING,
    "lr": THAWING,
    "schedule": THAWING,
    "patience": ON_CLASSES,
    # Statistics that moved are no part of a graft, which is all that such a run keeps.
    "bn": tuple(name for name in THAWING if name not in GRAFTING),
    # Of images, which the one on pairs does not read.
    "augment": ON_CLASSES,
    "views": THAWING,
    "token_dropout": THAWING,
    "mixup": ON_CLASSES,
    "label_smoothing": ON_CLASSES,
    # Weights that start at random are none to be drawn back to.
    "pull_to_start": tuple(name for name in THAWING if name != "scratch"),
    "ema": THAWING,
    "interpolate": tuple(name for name in ON_CLASSES if name != "scratch"),
}
# What the classic recipe fixes: it is a baseline only as long as nothing about it is changed.
FIXED_BY_CLASSIC = ("head", "batch_size", *READ_BY)

# Bytes of a file of settings: all there are, each with its reason, take a hundredth of it.
MOST_CONFIG = 2**20

# What a setting must be, by its annotation in TrainRequest, and in words.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str | Path": ((str, Path), "a path"),
    "str": ((str,), "a word"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
}
# Those that take a share of the rows, or rows of their own.
PARTS_KIND = ((int, float, str, Path, tuple), "a number between 0 and 1, or a data set")


@dataclass(frozen=True)
class Resolved:
    """One setting as the run used it, where it came from, and why."""

    name: str
    value: object
    origin: Origin
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Everything that `train` can be told; None means that it was not said."""

    data: Any
    output_dir: str | Path | None = None
    backbone: str | None = None
    strategy: str | None = None
    recipe: str | None = None
    head: str | None = None
    batch_size: int | None = None
    image_size: int | None = None
    fit: str | None = None
    max_length: int | None = None
    truncation: str | None = None
    pooling: str | None = None
    store: str | None = None
    val: Any = None
    test: Any = None
    train_size: int | None = None
    text_column: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    stratify_column: str | None = None
    precision_target: float | None = None
    epochs: int | None = None
    lr: float | None = None
    freeze: int | None = None
    layer_decay: float | None = None
    bn: str | None = None
    augment: str | None = None
    views: int | None = None
    pull_to_start: float | None = None
    schedule: str | None = None
    patience: int | None = None
    label_smoothing: float | None = None
    mixup: float | None = None
    token_dropout: float | None = None
    ema: float | None = None
    interpolate: bool | None = None
    rank: int | None = None
    alpha: float | None = None
    lora_dropout: float | None = None
    targets: str | None = None
    lora_blocks: int | None = None
    reduction: int | None = None
    store_budget: str | None = None
    time_limit: str | None = None
    resume: bool | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    examples: bool | None = None
    keep_both: bool | None = None

    def check(self) -> None:
        """Raise one RequestError that names every value out of its range, or return."""
        # A value of the wrong kind has no range: those come first.
        problems = list(self._wrong_kinds()) or list(self._problems())
        if problems:
            raise RequestError("\n".join(problems))

    def _wrong_kinds(self) -> Iterator[str]:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = KINDS.get(str(field.type).removesuffix(" | None"))
            if field.name in ("val", "test"):
                wanted = PARTS_KIND
            if value is None or wanted is None:
                continue
            kinds, words = wanted
            if not is_one_of(value, kinds):
                yield f"{flag(field.name)} {shown(value)} is of the wrong kind: give {words}."

    def _problems(self) -> Iterator[str]:
        if isinstance(self.data, str) and not self.data.strip():
            yield "DATA is empty: name a folder, a table or a URL."
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                yield f"{flag(name)} {value!r} is unknown: choose {', '.join(known)}.{did_you_mean(value, known)}"
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                yield f"{flag(name)} {shown(value)} is out of range: give a value from {low:g} to {high:g}."
        for name in ("val", "test"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 < value < 1:
                yield f"{flag(name)} {shown(value)} is no share: give a number between 0 and 1, or a data set."
        if self.targets is not None and not target_patterns(self.targets):
            yield "--targets names no layers: give attention, linear, or patterns such as qkv,mlp.fc1."
        if self.store_budget is not None and _bytes(self.store_budget) is None:
            yield _no_size(self.store_budget, flag("store_budget"))
        if self.time_limit is not None and not _seconds(self.time_limit):
            yield f"--time-limit {self.time_limit!r} is no time: write it like 90s, 10m or 2h."
        if self.resume and self.output_dir is None:
            yield "--resume needs --output-dir: the folder of the run to continue."
        yield from self._unread()

    def _unread(self) -> Iterator[str]:
        """A sentence for each setting that was said and would have no effect."""
        strategy = AUTO if self.strategy is None else self.strategy
        given = self.given()
        if self.time_limit is not None and (strategy != AUTO or self.recipe == "classic"):
            yield "--time-limit is a setting of --strategy auto, which cuts its trials and epochs to it: leave it out."
        if self.recipe == "classic":
            for name in FIXED_BY_CLASSIC:
                if name in given:
                    yield f"{flag(name)} cannot be set beside --recipe classic, which fixes it: leave one of them out."
        elif strategy == AUTO:
            for name, readers in READ_BY.items():
                if name in given and not reads(AUTO, name):
                    yield (
                        f"{flag(name)} is a setting of {' and '.join(readers)}, and --strategy auto chooses by itself: "
                        f"leave it out or say --strategy {readers[0]}."
                    )
        elif strategy in STRATEGIES:
            for name, readers in READ_BY.items():
                if name in given and not reads(strategy, name):
                    others = _without(readers)
                    few = len(readers) <= len(others)
                    whose = " and ".join(readers) if few else f"every strategy but {' and '.join(others)}"
                    yield (
                        f"{flag(name)} is a setting of {whose}, and the strategy is {strategy}: "
                        f"leave it out or choose --strategy {readers[0]}."
                    )

    def given(self) -> dict[str, object]:
        """The settings that were said, by name, without the data."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "data" and getattr(self, field.name) is not None
        }

    def filled_from(self, values: Mapping[str, object], *, source: str) -> TrainRequest:
        """This request with its gaps filled from a configuration file; what was said stays.

        Raises RequestError for a name that is no setting.
        """
        unknown = [name for name in values if name not in SETTINGS]
        if unknown:
            raise RequestError(
                f"{source} has unknown settings: {', '.join(map(repr, unknown))}.{did_you_mean(unknown[0], SETTINGS)}"
            )
        given = self.given()
        new = {name: value for name, value in values.items() if name not in given}
        return replace(self, **new)  # type: ignore[arg-type]


SETTINGS = frozenset(field.name for field in fields(TrainRequest)) - {"data"}


def reads(strategy: str, name: str) -> bool:
    """Whether a strategy looks at a setting of ``READ_BY``; those it does not list are read by all.

    What most strategies read may be said to ``auto``: what its candidates share. The rest it chooses by itself.
    """
    readers = READ_BY.get(name)
    if readers is None:
        return True
    return len(readers) > len(_without(readers)) if strategy == AUTO else strategy in readers


def _without(readers: tuple[str, ...]) -> tuple[str, ...]:
    """The strategies that do not read what these read."""
    return tuple(name for name in STRATEGIES if name not in readers)


def target_patterns(targets: str) -> tuple[str, ...]:
    """The layers that --targets names, one pattern each."""
    return tuple(name.strip() for name in targets.split(",") if name.strip())


def bytes_of(size: str, what: str = "--store-budget") -> int:
    """The bytes of a size such as 8GB, given as ``what``; raises RequestError when it is none."""
    found = _bytes(size)
    if found is None:
        raise RequestError(_no_size(size, what))
    return found


def _no_size(size: str, what: str) -> str:
    return f"{what} {size!r} is no size: write it like 8GB or 500MB."


def _bytes(size: str) -> int | None:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", size, re.IGNORECASE)
    if match is None:
        return None
    found = float(match[1]) * 1000 ** ("", "K", "M", "G", "T").index(match[2].upper())
    return int(found) if math.isfinite(found) else None


def seconds_of(time: str) -> float:
    """The seconds of a time such as 10m; raises RequestError when it is none."""
    found = _seconds(time)
    if not found:
        raise RequestError(f"{time!r} is no time: write it like 90s, 10m or 2h.")
    return found


def _seconds(time: str) -> float | None:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", time, re.IGNORECASE)
    if match is None:
        return None
    found = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2].lower()]
    return found if math.isfinite(found) else None


def is_one_of(value: object, kinds: tuple[type, ...]) -> bool:
    """Whether the value is of one of these kinds; true and false are no numbers."""
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def shown(value: object) -> str:
    """The value for a sentence. A few lines of YAML can stand for a value whose whole text would fill the memory."""
    if isinstance(value, float):
        return f"{value:g}"
    short = reprlib.Repr()
    short.maxlevel = 2
    try:
        return short.repr(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "with thousands of digits"


def flag(name: str) -> str:
    """How a setting is spelled on the command line."""
    return "--" + name.replace("_", "-")


def read_config(path: Path) -> dict[str, object]:
    """The settings of a YAML file: plain ``name: value`` pairs, or a run's own ``config.yaml``.

    Raises RequestError when it cannot be read or is no mapping.
    """
    import yaml

    try:
        text = read_file(path, most=MOST_CONFIG).decode()
    except FileNotFoundError:
        raise RequestError(f"--config {path} does not exist.") from None
    except OSError as problem:
        raise RequestError(
            f"--config {path} cannot be read ({problem.strerror or problem}): give a YAML file of settings."
        ) from None
    except UnicodeDecodeError as problem:
        raise RequestError(f"--config {path} is not readable as YAML: {problem}.") from None
    try:
        values = yaml.load(text, _with_1e5(yaml.SafeLoader))  # noqa: S506
    except yaml.YAMLError as problem:
        raise RequestError(
            f"--config {path} is not readable as YAML: {str(problem).splitlines()[0]}."
        ) from None
    except RecursionError:
        raise RequestError(f"--config {path} is nested too deeply to be settings.") from None
    except Exception as problem:  # a date or number that is none makes PyYAML raise nearly any type
        first = "".join(str(problem).splitlines()[:1])[:160] or type(problem).__name__
        raise RequestError(
            f"--config {path} has a value that is not what it looks like ({first}): "
            "put quotes around it, or correct it."
        ) from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise RequestError(f"--config {path} must hold 'name: value' pairs.")
    settings: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict) and {"value", "origin"} <= value.keys():
            # A run's own file lists every resolved value; only what its user said is a setting again, and its
            # folder is taken.
            if value["origin"] == "user" and name != "output_dir" and name in SETTINGS:
                settings[name] = value["value"]
        else:
            # YAML's on and off are true and false.
            word = {True: "on", False: "off"}.get(value) if isinstance(value, bool) else None
            settings[name] = word if word in CHOICES.get(name, ()) else value
    return settings


def write_config(resolved: tuple[Resolved, ...]) -> str:
    """The text of ``config.yaml``: every resolved value with its origin and reason."""
    import yaml

    values = {
        entry.name: {"value": entry.value, "origin": entry.origin, "reason": entry.reason}
        for entry in resolved
    }
    dumper = _with_1e5(yaml.SafeDumper)
    return str(yaml.dump(values, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100))


def _with_1e5(safe: Any) -> Any:
    """A safe loader or dumper to which 1e5 is a number, as YAML has it since 1.2, and '1e5' a word."""
    kind: Any = type(safe.__name__, (safe,), {})
    number = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+\Z")
    kind.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return kind
