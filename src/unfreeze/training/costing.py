"""The cost model: what any plan would take on this machine, from a few batches that are really run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from unfreeze.choose.cost import Around, Cost, Line, Load, Pace, cost_of
from unfreeze.choose.likeness import evenly
from unfreeze.config import bytes_of
from unfreeze.contracts import Backbone
from unfreeze.data.chance import order
from unfreeze.engine import drift
from unfreeze.engine.devices import has_room
from unfreeze.engine.inputs import TextInputs
from unfreeze.engine.pairing import batches_of
from unfreeze.engine.suffix import LEAST_STEPS
from unfreeze.evaluate.calibration import fit_temperature
from unfreeze.heads.folds import stratified_sample
from unfreeze.heads.module import new_head
from unfreeze.plan import Graft, Phase, Plan
from unfreeze.runtime.padding import padded
from unfreeze.runtime.preprocess import ImagePreprocess
from unfreeze.training.material import Material
from unfreeze.training.pacing import Pacer, resident_bytes, some_batches, time_line, two_batches
from unfreeze.training.starting import starting_head

if TYPE_CHECKING:
    from unfreeze.engine.estimate import Use
    from unfreeze.heads.head import HeadKind

# Texts that are tokenised, which is cheap, to know their lengths; of images one batch is decoded.
MOST_TEXTS = 20_000
# Rows of a look at the drift that are run; the others are counted in proportion.
DRIFT_ROWS = 16
# Rows on which a starting head is fitted to measure it; more are counted in proportion.
HEAD_ROWS = 5_000


@dataclass(frozen=True, eq=False)
class _Sample:
    """What is measured with: the material of a few rows, those of its training part, and the loads of whole passes.

    ``decoding``: seconds for every row of the whole material. ``drift``: units of one look at the drift.
    """

    material: Material
    rows: NDArray[np.intp]
    train: Load
    val: Load
    drift: float
    decoding: float


@dataclass(frozen=True)
class _End:
    """What follows the last step, in seconds.

    ``temperature``: fitting one; ``building``: an executor of the trained network; ``run``: a batch through it;
    ``reading``: a row from its raw input.
    """

    temperature: float
    building: float
    run: Line
    reading: float


class CostModel:
    """Predicts the cost of plans; what is equal in two of them is measured once.

    Everything runs on copies: the material's backbone keeps its weights, statistics and modes. ``spent``: seconds that
    measuring has taken so far.
    """

    def __init__(self, material: Material) -> None:
        self.spent = 0.0
        self._material = material
        self._base = resident_bytes(material.device)
        self._samples: dict[tuple[int, bool], _Sample] = {}
        self._paces: dict[tuple[object, ...], Pace] = {}
        self._looks: dict[Graft | None, list[float]] = {}
        self._starts: dict[str, float] = {}
        self._ends: _End | None = None
        self._network: tuple[Graft | None, Backbone, float] | None = None

    def predict(self, plan: Plan) -> Cost:
        """Seconds, memory and disk of a whole thawing by this plan, with the store and without."""
        began = time.perf_counter()
        sample = self._sample(plan)
        try:
            paces = [self._pace(plan, phase, sample) for phase in plan.phases]
            around = self._around(plan, sample)
        finally:
            if self._network is not None:
                # Trainings follow, and an accelerator's memory is theirs.
                self._network[1].module.to("cpu")
        self.spent += time.perf_counter() - began
        decisions = self._material.decisions
        cost = cost_of(
            plan,
            paces,
            around,
            train=sample.train,
            val=sample.val,
            stages=len(self._material.backbone.stages),
            use=cast("Use", decisions.text("store")),
            budget=bytes_of(decisions.text("store_budget")),
        )
        # Held beside it by an accelerator that has room for it (StoredPrefix).
        stored = max((phase.store_bytes for phase in cost.phases if phase.stored), default=0)
        if not has_room(self._material.device, stored):
            return cost
        return replace(cost, memory_bytes=cost.memory_bytes + stored)

    def _sample(self, plan: Plan) -> _Sample:
        key = (plan.batch_size, plan.ends_in_pairs)
        if key not in self._samples:
            self._samples[key] = draw_sample(self._material, plan)
        return self._samples[key]

    def _copy(self, plan: Plan) -> tuple[Backbone, float]:
        """A copy with the plan's graft, and the seconds that it took; only the latest is kept."""
        if self._network is None or self._network[0] != plan.graft:
            began = time.perf_counter()
            copied = self._material.grafted(plan)
            self._network = (plan.graft, copied, time.perf_counter() - began)
        return self._network[1], self._network[2]

    def _pace(self, plan: Plan, phase: Phase, sample: _Sample) -> Pace:
        steps = phase.epochs * sample.train.batches
        captured = self._material.device.type == "cuda" and steps >= LEAST_STEPS
        trained = frozenset((thaw.stage, thaw.what) for thaw in phase.thaw)
        # Rates, epochs and regularisation by numbers cost nothing; what is computed in a step does.
        key = (
            *(plan.graft, trained, phase.head_rate is None, phase.norm, captured),
            *(plan.batch_size, plan.augment, plan.token_dropout, self._head(plan), bool(plan.mixup)),
            *(plan.ema is None, bool(plan.pull), bool(plan.clip), plan.interpolate),
        )
        if key not in self._paces:
            self._paces[key] = self._measure(plan, phase, sample, steps)
        return self._paces[key]

    def _measure(self, plan: Plan, phase: Phase, sample: _Sample, steps: int) -> Pace:
        network, _ = self._copy(plan)
        task = sample.material.task(plan, sample.rows, None)
        classes = len(self._material.dataset.labels)
        head = new_head(self._head(plan), network.dim, classes, dropout=plan.dropout, seed=0)
        pacer = Pacer(plan, network, head, task, sample.material.maker(network, plan, task))
        return pacer.measure(phase, steps=steps)

    def _head(self, plan: Plan) -> HeadKind:
        kind = self._material.decisions.text("head") if plan.head == "fitted" else plan.head
        return cast("HeadKind", kind)

    def _around(self, plan: Plan, sample: _Sample) -> Around:
        _, copying = self._copy(plan)
        if plan.graft not in self._looks:
            self._looks[plan.graft] = self._time_drift(plan, sample)
        looks = self._looks[plan.graft]
        lowest = plan.boundary(len(looks) - 1)
        if plan.head not in self._starts:
            self._starts[plan.head] = self._time_start(plan)
        if self._ends is None:
            self._ends = self._time_end(plan, sample)
        end, start = self._ends, self._starts[plan.head]
        calibrating = (
            end.building + end.run.of(sample.val) + end.reading * sample.val.rows + 2 * end.temperature
        )
        refitting = end.run.of(sample.train) + start if plan.ends_in_pairs else 0.0
        # The best epoch is seldom the last one: both are calibrated.
        classifiers = 1 + bool(self._material.decisions.value("keep_both"))
        return Around(
            starting=copying + start,
            decoding=sample.decoding,
            drift=looks[0] if looks[lowest] else 0.0,
            drift_again=looks[lowest],
            temperature=end.temperature,
            calibrating=classifiers * calibrating,
            refitting=classifiers * refitting,
            memory_bytes=self._base + self._held(),
        )

    def _time_drift(self, plan: Plan, sample: _Sample) -> list[float]:
        """Seconds of a look at the drift that begins at each boundary, from some of its rows; fewer warm up.

        The first is a whole look; at the last boundary there is nothing to run.
        """
        network, _ = self._copy(plan)
        network.module.to(self._material.device).eval()
        inputs = sample.material.inputs(plan)
        units, ends, kept = 0, [0.0], [False]
        for count in (DRIFT_ROWS // 4, DRIFT_ROWS):
            rows = np.arange(min(count, len(sample.rows)))
            began = time.perf_counter()
            raw = inputs.batch(rows, None)
            units = raw.h.shape[0] * (1 if raw.mask is None else raw.h.shape[1])
            ends, kept = [0.0], [False]
            for state, _ in drift.passed(network, raw, 0):
                ends.append(time.perf_counter() - began)
                kept.append(drift.is_kept(state, rows=drift.ROWS))
        per_unit = sample.drift / units
        return [
            float((ends[-1] - (end if fits else 0.0)) * per_unit)
            for end, fits in zip(ends[:-1], kept[:-1], strict=True)
        ] + [0.0]

    def _time_start(self, plan: Plan) -> float:
        """Seconds of the head that the plan starts from; on many rows in proportion."""
        rows = self._material.part("train")
        y = self._material.dataset.label[rows].astype(np.intp)
        some = rows[stratified_sample(y, size=HEAD_ROWS, seed=0)]
        began = time.perf_counter()
        starting_head(self._material, plan, some)
        return (time.perf_counter() - began) * len(rows) / len(some)

    def _time_temperature(self, sample: _Sample) -> float:
        classes, rows = len(self._material.dataset.labels), max(sample.val.rows, 1)
        logits = np.random.default_rng(0).normal(size=(rows, classes)).astype(np.float32)
        began = time.perf_counter()
        fit_temperature(logits, np.arange(rows) % classes)
        return time.perf_counter() - began

    def _time_end(self, plan: Plan, sample: _Sample) -> _End:
        """The trained network on rows that nothing was stored of, in an executor of its own."""
        bare = replace(plan, graft=None)
        network, _ = self._copy(bare)
        network.module.to("cpu")
        began = time.perf_counter()
        executor = self._material.exact_executor(network, self._material.part("train")).executor
        building = time.perf_counter() - began
        inputs = sample.material.inputs()
        small, large = two_batches(some_batches(inputs, inputs.batches(0, 0, plan.batch_size)))
        run = time_line(lambda batch: executor(batch.raw), small, large)
        reading = sample.decoding / max(sample.train.rows + sample.val.rows, 1)
        return _End(self._time_temperature(sample), building, run, reading)

    def _held(self) -> int:
        """Bytes of a copy of the network, of an executor's, and of all decoded rows."""
        module = self._material.backbone.module
        weights = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
        preprocess, rows = self._material.backbone.preprocess, len(self._material.features.rows)
        pixels = preprocess.height * preprocess.width if isinstance(preprocess, ImagePreprocess) else 0
        return int(2 * weights + rows * pixels * 3)


def draw_sample(material: Material, plan: Plan) -> _Sample:
    """The rows to measure with, and what a pass over all of them holds."""
    train, val = material.part("train"), material.part("val")
    texts = material.dataset.modality == "text"
    chosen = train[evenly(len(train), MOST_TEXTS if texts else plan.batch_size)]
    held = val[evenly(len(val), MOST_TEXTS)] if texts else val[:0]
    rows = np.union1d(chosen, held)
    digests = material.features.digests[material.places(rows)]
    few = replace(material, features=replace(material.features, rows=rows, arrays={}, digests=digests))
    began = time.perf_counter()
    few.inputs(plan)
    decoding = (time.perf_counter() - began) / (len(chosen) + len(held)) * (len(train) + len(val))
    seed, size = material.decisions.number("seed"), plan.batch_size
    if not texts:
        batches = max(1, -(-len(train) // size))
        return _Sample(
            few,
            chosen,
            Load(len(train), batches, float(len(train))),
            Load(len(val), -(-len(val) // size), float(len(val))),
            float(min(drift.ROWS, len(train))),
            decoding,
        )
    everything = cast("TextInputs", few.inputs(plan))
    trained = everything.select(few.places(chosen))
    judged = everything.select(few.places(held))
    looked = order(seed, 0, len(trained))[: drift.ROWS].astype(np.intp)
    y, pairs = material.dataset.label[chosen], plan.ends_in_pairs
    parts = batches_of(trained, y, pairs=pairs, seed=seed, epoch=0, batch_size=size)
    return _Sample(
        few,
        chosen,
        _text_load(trained, parts, len(train)),
        _text_load(judged, _as_judged(judged, size), len(val)),
        _text_load(trained, [looked[: drift.BATCH_ROWS], looked[drift.BATCH_ROWS :]], len(looked)).units,
        decoding,
    )


def _text_load(inputs: TextInputs, batches: list[NDArray[np.intp]], rows: int) -> Load:
    """The load of these batches, for so many rows."""
    most = int(inputs.lengths.max()) if len(inputs) else 0
    units = sum(
        len(batch) * padded(int(inputs.lengths[batch].max()), most=most) for batch in batches if len(batch)
    )
    share = rows / max(sum(len(batch) for batch in batches), 1)
    return Load(rows, round(len(batches) * share), units * share)


def _as_judged(inputs: TextInputs, batch_size: int) -> list[NDArray[np.intp]]:
    rows = inputs.by_length(np.arange(len(inputs)))
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
