"""What an adaptation came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.adapting.gate import Candidate, Verdict
from unfreeze.adapting.shift import Shift
from unfreeze.adapting.signs import Signs
from unfreeze.contracts import Modality
from unfreeze.report.content import Example

if TYPE_CHECKING:
    from rich.console import Console

    from unfreeze.model import Model


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A finished adaptation: its folder, a run of its own, and everything that the decision rests on.

    ``missing``: methods that could propose nothing, and why. ``asked``: the table of rows worth labelling, or None, and
    ``again`` the command that adapts with it once it is filled. ``labelled``: how many labels of the target were given.
    ``on_source``: accuracy on the source's validation rows as they come, of the source's model and of this one; None
    without a source. ``target_shares``: of the classes among the answers that are given now. ``after_the_fact``:
    accuracy, balanced accuracy and macro F1 on the target's own labels of the source model and of this one, looked up
    when all was decided, or None, and ``left_out``: how many rows are not among them, since their labels were given;
    ``warning``: why they could not be.
    """

    folder: Path
    run: str
    target: tuple[str, ...]
    rows: int
    modality: Modality
    labels: tuple[str, ...]
    source: str
    shift: Shift
    told: tuple[str, ...]
    before: Signs
    candidates: tuple[Candidate, ...]
    missing: Mapping[str, str]
    verdict: Verdict
    target_shares: tuple[float, ...]
    unusual: tuple[Example, ...]
    asked: Path | None
    again: str
    labelled: int
    on_source: tuple[float, float] | None
    seconds: float
    command: str
    created: str
    after_the_fact: Mapping[str, Mapping[str, float]] | None = None
    left_out: int = 0
    warning: str | None = None

    def model(self) -> Model:
        """The classifier for the target, loaded from the folder."""
        from unfreeze.model import load

        return load(self.folder)

    def to_dict(self) -> dict[str, object]:
        """What ``adapt --json`` prints and ``adaptation.json`` holds."""
        return {
            "run": str(self.folder),
            "source_run": self.run,
            "target": list(self.target),
            "rows": self.rows,
            "verdict": self.verdict.kind,
            "method": self.verdict.method,
            "labels_given": self.labelled,
            "decided_by": "labels" if self.verdict.labels else "signs",
            "reasons": list(self.verdict.reasons),
            "source": self.source,
            "shift": self.shift.to_dict(),
            "before": self.before.to_dict(),
            "candidates": [one.to_dict() for one in self.candidates],
            "not_possible": dict(self.missing),
            "shares": dict(zip(self.labels, self.target_shares, strict=True)),
            "source_shares": None
            if self.shift.source_shares is None
            else dict(zip(self.labels, self.shift.source_shares, strict=True)),
            "source_accuracy": None
            if self.on_source is None
            else dict(zip(("before", "after"), self.on_source, strict=True)),
            "to_label": None if self.asked is None else str(self.asked),
            "after_the_fact": self.after_the_fact,
            "after_the_fact_left_out": self.left_out,
            "warning": self.warning,
            "seconds": round(self.seconds, 3),
        }

    def print(self, console: Console) -> None:
        """The verdict and what it rests on, for a person."""
        from unfreeze.adapting.terminal import print_adaptation

        print_adaptation(self, console)

    def _repr_html_(self) -> str:
        from html import escape

        how = f" by {escape(self.verdict.method)}" if self.verdict.method else ""
        return (
            f"<p><b>{escape(self.verdict.kind)}</b>{how}: {escape('; '.join(self.verdict.reasons))}. "
            f"Report: <code>{escape(str(self.folder / 'report.html'))}</code></p>"
        )
