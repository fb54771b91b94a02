"""What ``adapt`` is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unfreeze.config import CHOICES, RANGES
from unfreeze.errors import RequestError, did_you_mean
from unfreeze.runtime.remote import here_alone

AUTO = "auto"
METHOD_NAMES = (AUTO, "norm", "align", "self-training", "gradual", "labels", "pseudo-label", "strong")
# The classic guide's confidence.
THRESHOLD = 0.9


@dataclass(frozen=True, kw_only=True)
class AdaptRequest:
    """A run, one or more targets in their order, and how to go about it; None means that it was not said."""

    run: Path
    target: tuple[str, ...]
    output_dir: Path | None = None
    method: str = AUTO
    threshold: float | None = None
    source: str | None = None
    column: str | None = None
    order_column: str | None = None
    target_labels: str | None = None
    label_column: str | None = None
    report_target_accuracy: bool = False
    seed: int = 0
    device: str = "auto"

    def check(self) -> None:
        """Raise one RequestError that names every value that cannot be used, or return."""
        problems = list(self._problems())
        if problems:
            raise RequestError("\n".join(problems))

    def again_with(self, labels: Path) -> str:
        """The command that does the same once more, with the labels of this table."""
        said = {
            "--source": self.source,
            "--column": self.column,
            "--order-column": self.order_column,
            "--method": None if self.method == AUTO else self.method,
            "--threshold": None if self.threshold is None else f"{self.threshold:g}",
            "--device": None if self.device == "auto" else self.device,
            "--seed": str(self.seed) if self.seed else None,
            "--target-labels": str(labels),
        }
        targets = [word for one in self.target for word in ("--target", one)]
        options = [word for name, value in said.items() if value is not None for word in (name, value)]
        return shlex.join(["unfreeze", "adapt", str(self.run), *targets, *options])

    def _problems(self) -> Iterator[str]:
        if not self.target:
            yield "adapt needs --target: the unlabelled data of the new domain."
        if refused := here_alone(self.output_dir, "--output-dir"):
            yield refused
        if self.method not in METHOD_NAMES:
            near = did_you_mean(self.method, METHOD_NAMES)
            yield f"--method {self.method!r} is unknown: choose {', '.join(METHOD_NAMES)}.{near}"
        if self.method == "labels" and self.target_labels is None:
            yield "--method labels needs --target-labels: a table of a few rows of the target with their classes."
        if self.label_column is not None and self.target_labels is None and not self.report_target_accuracy:
            yield "--label-column names labels that nothing reads: give --target-labels or --report-target-accuracy."
        if self.threshold is not None and self.method != "pseudo-label":
            yield "--threshold is a setting of --method pseudo-label; the other methods set their own by class."
        if self.threshold is not None and not 0 < self.threshold < 1:
            yield f"--threshold {self.threshold:g} is no confidence: give a number between 0 and 1."
        if self.order_column is not None and len(self.target) > 1:
            yield "--order-column orders the rows of one table: give one --target, or several in their order."
        if self.device.partition(":")[0] not in CHOICES["device"]:
            yield f"--device {self.device!r} is unknown: choose {', '.join(CHOICES['device'])}."
        low, high = RANGES["seed"]
        if not low <= self.seed <= high:
            yield f"--seed {self.seed} is out of range: give a value from {low:g} to {high:g}."
