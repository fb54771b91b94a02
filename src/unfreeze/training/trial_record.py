"""Trials that came to a result, and what they were begun with: a run that is stopped among them goes on with those."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unfreeze.choose.trials import Trial
from unfreeze.regular import read_record
from unfreeze.runtime.files import write_atomically
from unfreeze.training.choice_record import Count, Loss, Seconds, Share, Strict


class Planned(Strict):
    """A candidate by name, the epochs of each of its phases, and the predicted seconds of its full training."""

    name: str
    epochs: tuple[Annotated[int, Field(ge=1)], ...]
    seconds: Seconds


class Tried(Strict):
    """A finished trial; ``right``: "1" or "0" a held-out row."""

    candidate: str
    fold: Count
    share: Share
    right: Annotated[str, Field(pattern="^[01]*$")]
    losses: tuple[Loss, ...]
    seconds: Seconds

    @property
    def rights(self) -> NDArray[np.bool_]:
        """Whether the candidate was right on each held-out row, (rows,)."""
        return np.asarray(np.frombuffer(self.right.encode("ascii"), dtype=np.uint8) == ord("1"))


class Begun(Strict):
    """What trials were begun with; ``left``: seconds of the time limit, ``dropped``: sentences on other candidates."""

    settings: dict[str, str]
    time_limit_seconds: Seconds
    left: Seconds
    candidates: tuple[Planned, ...]
    dropped: tuple[str, ...]
    trials: tuple[Tried, ...] = ()

    @property
    def seconds(self) -> dict[str, float]:
        """What the full training of each candidate was predicted to take, by name."""
        return {one.name: one.seconds for one in self.candidates}


def read_trials(path: Path) -> Begun | None:
    """What was kept there; None where there is nothing, or nothing that can be gone on with."""
    try:
        return Begun.model_validate_json(read_record(path))
    except (OSError, ValueError):
        return None


@dataclass(eq=False)
class TrialRecord:
    """The trials of a search in a file, written whole after each of them."""

    path: Path
    begun: Begun

    def __post_init__(self) -> None:
        self._write()

    def find(self, candidate: str, fold: int, share: float, *, rows: int) -> Tried | None:
        """The trial of a candidate on a fold of so many held-out rows, if it is finished."""
        for trial in self.begun.trials:
            if (trial.candidate, trial.fold, trial.share, len(trial.right)) == (candidate, fold, share, rows):
                return trial
        return None

    def keep(self, trial: Trial) -> None:
        """Add a finished trial."""
        tried = Tried(
            candidate=trial.candidate.name,
            fold=trial.fold,
            share=trial.share,
            right="".join("1" if right else "0" for right in trial.right),
            losses=trial.losses,
            seconds=trial.seconds,
        )
        self.begun = self.begun.model_copy(update={"trials": (*self.begun.trials, tried)})
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(self.begun.model_dump()) + "\n")
