"""From a request with gaps to settings without: every value with its origin and its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING

from unfreeze.config import AUTO, FLOOR, Origin, Resolved, TrainRequest
from unfreeze.runtime.remote import scrubbed

if TYPE_CHECKING:
    from unfreeze.data.dataset import Dataset

DEFAULTS: Mapping[str, tuple[object, str]] = {
    "strategy": (AUTO, "tried on this data before it is chosen"),
    "recipe": ("own", "the program's own schedules; the classic guide's are the baseline to beat"),
    "head": ("linear", "a convex problem, solved to convergence; the two-layer head is --head mlp"),
    "batch_size": (32, "usual where data are few; activations of a batch fit into a laptop's memory"),
    "fit": ("squash", "nothing is cut away; --fit crop is what most backbones were pretrained with"),
    "truncation": (
        "head",
        "what other programs cut too; --truncation head+tail keeps the end of long texts as well",
    ),
    "seed": (0, "fixed, so that a run can be repeated"),
    "device": ("auto", "the first accelerator that answers, else the processor"),
    "precision": ("auto", "fp32 unless a lower one makes no difference on 256 rows"),
    "store_budget": ("8GB", "what a laptop can spare; activations beyond it are computed again"),
    "store": ("auto", "features are kept on disk when the cache folder can be written"),
    "examples": (
        True,
        "answers are shown beside the training rows they resemble; --no-examples leaves them out",
    ),
    "keep_both": (
        True,
        "of the best and the last weights those that were not taken are a run too; --no-keep-both leaves them out",
    ),
    "precision_target": (0.95, "a wish, not a measurement: set it to what your use needs"),
}
# Inputs of a run rather than knobs; shown only when they were said.
INPUTS = (
    "output_dir", "backbone", "image_size", "max_length", "pooling", "val", "test", "train_size",
    "lr", "epochs", "freeze", "layer_decay", "bn", "views", "pull_to_start",
    "schedule", "patience", "label_smoothing", "mixup", "token_dropout", "ema", "interpolate",
    "rank", "alpha", "lora_dropout", "targets", "lora_blocks", "reduction",
    "text_column", "image_column", "label_column", "group_column", "stratify_column",
)  # fmt: skip


@dataclass
class Decisions:
    """The resolved settings of a run, in the order in which they were decided."""

    request: TrainRequest
    entries: dict[str, Resolved] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = self.request.given()
        for name in INPUTS:
            if name in given:
                value = given[name]
                if isinstance(value, int | float | str | PathLike):
                    plain = value if isinstance(value, int | float) else scrubbed(str(value))
                    self.record(name, plain, "user", "asked for")
                else:
                    # Not the user's: a configuration that is read again could not give it.
                    self.record(name, "data in memory", "data", "given in Python")
        for name, (value, reason) in DEFAULTS.items():
            if name in given:
                self.record(name, given[name], "user", "asked for")
            else:
                self.record(name, value, "default", reason)

    def record(self, name: str, value: object, origin: Origin, reason: str) -> None:
        """Decide a setting; a later decision replaces an earlier one in its place."""
        self.entries[name] = Resolved(name=name, value=value, origin=origin, reason=reason)

    def value(self, name: str) -> object:
        """What a setting was decided to be; raises KeyError when it was not."""
        return self.entries[name].value

    def text(self, name: str) -> str:
        """The same, for a setting that is a word."""
        return str(self.entries[name].value)

    @property
    def thaws(self) -> bool:
        """Whether a plan is run: the classic recipe has one even for the head alone."""
        return self.text("strategy") != FLOOR or self.text("recipe") == "classic"

    def number(self, name: str) -> int:
        """The same, for a setting that is a whole number."""
        value = self.entries[name].value
        if not isinstance(value, int):
            raise TypeError(f"{name} is {value!r}, not a whole number")
        return value

    def resolved(self) -> tuple[Resolved, ...]:
        """All decisions, in order."""
        return tuple(self.entries.values())


def record_data(decisions: Decisions, dataset: Dataset) -> None:
    """Note what the reader of the data inferred."""
    for inference in dataset.inferred:
        decisions.record(inference.what, inference.value, "data", inference.reason)
