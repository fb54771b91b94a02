"""Trials: candidates trained on one half of the rows and asked about the other."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.backbones.staging import BREAKS
from unfreeze.choose.candidates import Candidate
from unfreeze.choose.trials import FOLDS, Trial
from unfreeze.errors import DataError, StoppedError, UnfreezeError, first_line
from unfreeze.grafts import settle
from unfreeze.heads.folds import assign_folds
from unfreeze.heads.module import from_module
from unfreeze.heads.probe import ProbeResult, predict_from_less
from unfreeze.plan import Plan
from unfreeze.progress import Inside
from unfreeze.training.material import Material
from unfreeze.training.planning import shorten
from unfreeze.training.probing import fit_rows
from unfreeze.training.starting import fitted_anew, pooled_features, starting_head
from unfreeze.training.together import Training, run_plan
from unfreeze.training.trial_record import TrialRecord

if TYPE_CHECKING:
    from torch import nn


def trial_rows(material: Material) -> int:
    """How many rows a trial learns from."""
    return int(fit_rows(material.dataset, material.features).sum()) // FOLDS


def trial_part(material: Material) -> float:
    """The same, as a share of the rows that a whole training learns from."""
    return trial_rows(material) / len(material.part("train"))


@dataclass(frozen=True, eq=False)
class Trier:
    """Runs trials of the ``plans`` of candidates, by name, beside the probe ``found``, fitted on the same halves.

    ``record``: of those that are finished, which are not run again. ``heads``: those that trials have started from.
    """

    material: Material
    found: ProbeResult
    plans: Mapping[str, Plan]
    record: TrialRecord
    should_stop: Callable[[], bool]
    heads: dict[object, nn.Module] = field(default_factory=dict)

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """The rows that the probe was scored on out of fold: all that are not test, unless validation was given."""
        features = self.material.features
        return features.rows[fit_rows(self.material.dataset, features)]

    @cached_property
    def assigned(self) -> NDArray[np.intp]:
        """The half in which each row is held out; groups, or equal contents, stay together."""
        material = self.material
        y = material.dataset.label[self.rows].astype(np.intp)
        return assign_folds(
            y, folds=FOLDS, seed=material.decisions.number("seed"), groups=material.together(self.rows)
        )

    @cached_property
    def floor_right(self) -> NDArray[np.bool_]:
        """Whether the probe, fitted on the other half, is right on each row."""
        dataset, places, probe = self.material.dataset, self.material.places(self.rows), self.found.probe
        logits = predict_from_less(
            probe,
            {b: self.material.features.arrays[b][places] for b in probe.boundaries},
            dataset.label[self.rows],
            self.assigned,
            folds=self.found.folds,
            classes=len(dataset.labels),
            seed=self.material.decisions.number("seed"),
            class_weight="balanced" if self.material.decisions.text("class_weight") == "balanced" else None,
        )
        return np.asarray(logits.argmax(axis=1) == dataset.label[self.rows])

    def __call__(self, candidate: Candidate, fold: int, share: float) -> Trial:
        """The trial of a candidate on a fold, for a share of its epochs; its last weights are what is scored."""
        scored = self.rows[self.assigned == fold]
        if (tried := self.record.find(candidate.name, fold, share, rows=len(scored))) is not None:
            return self._trial(candidate, fold, share, tried.rights, tried.losses, tried.seconds, "")
        trial = self._run(candidate, fold, share)
        # What failed, for want of memory perhaps, is tried again when the run is.
        if not trial.failed:
            self.record.keep(trial)
        return trial

    def _run(self, candidate: Candidate, fold: int, share: float) -> Trial:
        if self.should_stop():
            raise StoppedError
        began = time.perf_counter()
        material = self.material
        plan = shorten(self.plans[candidate.name], share)
        held = self.assigned == fold
        train, scored = self.rows[~held], self.rows[held]
        failed = ""
        losses: tuple[float, ...] = ()
        right = np.zeros(len(scored), dtype=bool)
        try:
            if not len(scored):
                raise UnfreezeError(f"No row can be held out in half {fold + 1}.")
            head = self._head(plan, fold, train)
            trained, result = run_plan(
                material,
                # Without validation rows no epoch is preferred for what it says of the rows that are scored.
                Training(plan, head, train, None),
                should_stop=self.should_stop,
                progress=Inside(material.progress, f"Trial of {candidate.name}, half {fold + 1}"),
            )
            losses = tuple(record.train_loss for record in result.history)
            network = settle(trained, plan.graft) if plan.graft else trained
            exact = material.exact_executor(network, train).executor
            shipped = (
                fitted_anew(material, exact, train)
                if plan.ends_in_pairs
                else from_module(head.cpu(), boundaries=(len(network.stages),))
            )
            logits = shipped.logits(pooled_features(material, exact, scored))
            right = np.asarray(logits.argmax(axis=1) == material.dataset.label[scored])
        except (StoppedError, DataError):
            # That a store does not give its data any more is no candidate's fault.
            raise
        except UnfreezeError as problem:
            # A candidate that breaks is an answer; the others go on.
            failed = str(problem)
        except BREAKS as problem:
            if not material.ranks.alone:
                # Other processes may wait for this one, and notice by its end alone.
                raise
            failed = f"{first_line(problem).rstrip('.')}."
        seconds = time.perf_counter() - began
        return self._trial(candidate, fold, share, right, losses, seconds, failed)

    def _trial(
        self,
        candidate: Candidate,
        fold: int,
        share: float,
        right: NDArray[np.bool_],
        losses: tuple[float, ...],
        seconds: float,
        failed: str,
    ) -> Trial:
        held, material = self.assigned == fold, self.material
        scored = self.rows[held]
        return Trial(
            candidate=candidate,
            fold=fold,
            share=share,
            right=right,
            floor_right=self.floor_right[held],
            y=material.dataset.label[scored].astype(np.intp),
            train=np.isin(scored, material.part("train")),
            losses=losses,
            seconds=seconds,
            failed=failed,
            groups=material.together(scored),
        )

    def _head(self, plan: Plan, fold: int, train: NDArray[np.intp]) -> nn.Module:
        """A copy of the head that such plans start from on this half, which is fitted once."""
        key = (fold, plan.head, plan.dropout)
        if key not in self.heads:
            self.heads[key] = starting_head(self.material, plan, train)
        return copy.deepcopy(self.heads[key])
