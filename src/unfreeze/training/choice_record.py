"""What ``choice.json`` must hold for a stopped run to go on with it: all that is trained by, and all that is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unfreeze.choose.verdict import RESTARTS
from unfreeze.errors import RequestError
from unfreeze.plan import AugmentName, NormPolicy
from unfreeze.regular import read_record
from unfreeze.runtime.files import parse_json

Share = Annotated[float, Field(ge=0, le=1)]
# Of two shares; what is only hoped for may go beyond what can be.
Difference = Annotated[float, Field(ge=-10, le=10)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, le=2**53)]
# A standard error, by which what was measured is weighted.
Error = Annotated[float, Field(gt=0, le=2**53)]
# A training that diverged has such losses.
Loss = Annotated[float, Field(allow_inf_nan=True)]


class Strict(BaseModel):
    """A part of a record, which holds what it says and no other kind of value."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Floor(Strict):
    accuracy_out_of_fold: Share
    interval: tuple[Share, Share]
    rows: Count


class _Fact(Strict):
    value: float | int | str
    sentence: str


class _Changes(Strict):
    model_config = ConfigDict(extra="forbid")

    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    rank: Annotated[int, Field(ge=1, le=2**20)] | None = None
    norm: NormPolicy | None = None
    augment: AugmentName | None = None


class _Candidate(Strict):
    name: str
    strategy: str
    hope: Annotated[float, Field(ge=0)]
    behind: Difference
    reason: str
    changes: _Changes
    epochs: Count
    predicted_seconds: Seconds


class _Trial(Strict):
    candidate: str
    fold: Count
    share_of_epochs: Share
    rows: Count
    accuracy: Share | None
    floor_accuracy: Share | None
    training_loss: tuple[Loss, ...]
    failed: str | None

    @model_validator(mode="after")
    def _has_a_result_or_failed(self) -> _Trial:
        if not self.failed and (self.accuracy is None or self.floor_accuracy is None):
            raise ValueError("a trial that did not fail has no result")
        return self


class _Expectation(Strict):
    model_config = ConfigDict(extra="forbid")

    candidate: str
    gain: Difference
    error: Seconds
    seconds: Seconds
    price: Difference
    full_length: bool
    found: Difference | None = None
    found_error: Error | None = None
    behind: Difference
    hoped: Difference | None = None
    hoped_error: Error | None = None


class _Record(Strict):
    floor: _Floor
    time_limit_seconds: Seconds
    facts: dict[str, _Fact]
    settings: dict[Annotated[str, Field(max_length=80)], Annotated[str, Field(max_length=1_000)]]
    candidates: tuple[_Candidate, ...]
    trials: tuple[_Trial, ...]
    expectations: tuple[_Expectation, ...]
    decisions: tuple[str, ...]
    chosen: str | None
    epochs_by_phase: tuple[Annotated[int, Field(ge=1)], ...] | None
    restarts_at_lower_rates: int = Field(default=0, ge=0, le=RESTARTS)

    @model_validator(mode="after")
    def _says_what_is_trained_or_why_nothing(self) -> _Record:
        if self.chosen is None and not self.decisions:
            raise ValueError("it does not say why nothing was chosen")
        if self.chosen is not None and self.chosen not in {one.candidate for one in self.expectations}:
            raise ValueError("nothing is said of what was chosen")
        return self


def read_choice(path: Path) -> dict[str, Any]:
    """The record of a choice, as it was written. Raises RequestError where it is not whole or of another version."""
    try:
        text = read_record(path)
        _Record.model_validate_json(text)
        record: dict[str, Any] = parse_json(text)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise damaged(path, f"{where}: {first['msg']}") from None
    except (OSError, ValueError) as problem:
        raise damaged(path, str(getattr(problem, "strerror", None) or problem)) from None
    return record


def damaged(path: Path, why: str) -> RequestError:
    """The error for a record that cannot be gone on with."""
    return RequestError(
        f"--resume: {path} is damaged or from another version ({why[:160]}). Begin anew with another --output-dir."
    )
