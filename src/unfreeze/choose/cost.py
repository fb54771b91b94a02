"""What a plan costs on this machine: seconds, memory and disk, put together from what a few batches took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from unfreeze.amounts import counted, duration, size
from unfreeze.engine.estimate import Estimate, Use, served_together, views_of, weigh_store
from unfreeze.plan import Phase, Plan


@dataclass(frozen=True)
class Load:
    """The batches of one pass over a part: how many rows and batches, and their ``units`` together.

    A unit is what time grows with: an image, or a token of a text, padding included.
    """

    rows: int
    batches: int
    units: float


@dataclass(frozen=True)
class Line:
    """Seconds of a batch: ``fixed``, and ``each`` for every unit in it."""

    fixed: float = 0.0
    each: float = 0.0

    def batch(self, units: float) -> float:
        """Seconds of one batch."""
        return self.fixed + self.each * units

    def of(self, load: Load) -> float:
        """Seconds of a whole pass."""
        return self.fixed * load.batches + self.each * load.units


def line_through(points: Sequence[tuple[float, float]]) -> Line:
    """The line through (units, seconds) of a small and a large batch; one that falls anywhere is taken for noise.

    Of a single point the seconds are shared out among its units.
    """
    units = sum(point[0] for point in points)
    seconds = sum(point[1] for point in points)
    if len(points) == 2 and points[0][0] != points[1][0]:
        (first, low), (second, high) = points
        each = (high - low) / (second - first)
        if each > 0 and low - each * first >= 0:
            return Line(low - each * first, each)
    return Line(0.0, seconds / max(units, 1.0))


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the batches of a phase take, measured for one trainable part above one boundary.

    ``input``: a raw batch, varied and on the device; ``frozen``: the stages below the boundary; ``step``: both passes
    above it and the optimizer; ``judged``: the forward pass above it alone; ``read`` and ``write``: stored activations
    of a batch. ``preparing``: seconds before the first step, of the executor and of measuring. ``unit_bytes``: stored
    activations of a unit. ``memory_bytes``: gradients, moments, copies of weights, and activations of a batch.
    """

    input: Line
    step: Line
    judged: Line
    frozen: Line = Line()
    read: Line = Line()
    write: Line = Line()
    preparing: float = 0.0
    unit_bytes: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a thawing does beside its phases, in seconds.

    ``starting``: the head to start from, and a copy of the network; ``decoding``: every row, once; ``drift``: the
    first look at the features; ``drift_again``: a later one, at how far they have moved; ``temperature``: fitting one;
    ``calibrating``: the trained network on the validation rows from the raw inputs, for the weights that are taken and
    for those that are kept beside them; ``refitting``: a head for each of them, fitted on what the trained network
    makes of the training rows, where the plan ends in pairs. ``memory_bytes``: what the program holds before the first
    phase.
    """

    starting: float
    decoding: float
    drift: float
    drift_again: float
    temperature: float
    calibrating: float
    refitting: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class PhaseCost:
    """A phase: ``stored`` says whether its frozen part is expected to be stored, ``reason`` why.

    ``epoch_seconds``: an epoch and its validation, as it will be run; ``plain_epoch_seconds``: without the store.
    ``once_seconds``: preparing, the first validation, the ledger. ``store_bytes``: of the store, used or not.
    """

    name: str
    boundary: int
    rows: int
    epochs: int
    stored: bool
    epoch_seconds: float
    plain_epoch_seconds: float
    filling_seconds: float
    once_seconds: float
    store_bytes: int
    memory_bytes: int
    reason: str

    @property
    def seconds(self) -> float:
        """All of it, as it will be run."""
        filling = self.filling_seconds if self.stored else 0.0
        return self.once_seconds + filling + self.epochs * self.epoch_seconds

    @property
    def plain_seconds(self) -> float:
        """All of it, without the store."""
        return self.once_seconds + self.epochs * self.plain_epoch_seconds

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self) | {"seconds": self.seconds, "plain_seconds": self.plain_seconds}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a plan is expected to take.

    ``around``: seconds before, between and after the phases, by name. ``memory_bytes``: the most that the process
    holds (on an accelerator: that the device holds). All epochs of a phase count, even where patience may end it early.
    """

    strategy: str
    phases: tuple[PhaseCost, ...]
    around: Mapping[str, float]
    memory_bytes: int

    @property
    def seconds(self) -> float:
        """The whole thawing, as it will be run."""
        return sum(self.around.values()) + sum(phase.seconds for phase in self.phases)

    @property
    def plain_seconds(self) -> float:
        """The whole thawing without the store."""
        return sum(self.around.values()) + sum(phase.plain_seconds for phase in self.phases)

    @property
    def disk_bytes(self) -> int:
        """The largest store; each is removed when the last phase that reads it ends."""
        sizes = [0]
        for phase in self.phases:
            if phase.stored and phase.filling_seconds:
                sizes.append(phase.store_bytes)
            elif phase.stored:
                sizes[-1] += phase.store_bytes
        return max(sizes)

    def for_epochs(self, done: Mapping[str, int]) -> Cost:
        """The same for the epochs that were really run, by phase; a phase that is not named was not run."""
        phases = [
            replace(phase, epochs=done[phase.name]) for phase in self.phases if done.get(phase.name, 0) > 0
        ]
        return replace(self, phases=tuple(phases))

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return {
            "strategy": self.strategy,
            "seconds": self.seconds,
            "plain_seconds": self.plain_seconds,
            "disk_bytes": self.disk_bytes,
            "memory_bytes": self.memory_bytes,
            "around": dict(self.around),
            "phases": [phase.to_dict() for phase in self.phases],
        }


def cost_of(
    plan: Plan,
    paces: Sequence[Pace],
    around: Around,
    *,
    train: Load,
    val: Load,
    stages: int,
    use: Use,
    budget: int,
) -> Cost:
    """The cost of a plan whose phases have these ``paces``, over one pass of ``train`` and ``val`` an epoch.

    ``use`` and ``budget`` (bytes) of the store are those of the training.
    """
    stores = _stores(plan, paces, train, val, stages=stages, use=use, budget=budget)
    phases = [
        _phase_cost(phase, pace, store, around, train, val, stages=stages)
        for phase, pace, store in zip(plan.phases, paces, stores, strict=True)
    ]
    first = _judging(phases[0], paces[0], around, val)
    phases[0] = replace(phases[0], once_seconds=phases[0].once_seconds + first)
    named = {
        "starting head": around.starting,
        "decoding every row": around.decoding,
        "features before": around.drift,
        "head fitted anew": around.refitting,
        "calibrating on raw inputs": around.calibrating,
    }
    if plan.interpolate:
        # Four mixes of weights are judged, without the store.
        lowest = min(range(len(phases)), key=lambda index: phases[index].boundary)
        named["mixing with the start"] = paces[lowest].preparing + 4 * (
            paces[lowest].frozen.of(val) + paces[lowest].judged.of(val) + around.temperature
        )
    return Cost(
        strategy=plan.strategy,
        phases=tuple(phases),
        around=named,
        memory_bytes=around.memory_bytes + max(phase.memory_bytes for phase in phases),
    )


@dataclass(frozen=True)
class _Store:
    """What a phase's store is expected to be; ``filling`` is 0 where an earlier phase's pass fills it."""

    used: bool
    reason: str
    filling: float
    bytes: int


def _stores(
    plan: Plan, paces: Sequence[Pace], train: Load, val: Load, *, stages: int, use: Use, budget: int
) -> list[_Store]:
    """The store of each phase, decided as ``StoringMaker`` does."""
    varied = plan.augment != "none" or plan.token_dropout > 0
    views = [views_of(plan.views, phase.epochs, varied=varied) for phase in plan.phases]
    estimates = [
        Estimate(
            frozen=pace.frozen.of(train) / train.rows,
            trained=pace.step.of(train) / train.rows / 3,
            input=pace.input.of(train) / train.rows,
            rows=train.rows,
            rounds=phase.epochs,
            views=count,
            bytes=round((count * train.units + val.units) * pace.unit_bytes),
            preparing=pace.preparing,
        )
        for phase, pace, count in zip(plan.phases, paces, views, strict=True)
    ]
    writing = [
        count * pace.write.of(train) + pace.write.of(val) for pace, count in zip(paces, views, strict=True)
    ]
    found: list[_Store] = []
    while len(found) < len(estimates):
        first = len(found)
        group = range(first, first + served_together(plan.phases[first:], stages))
        for together in (group, group[:1]):
            most = max(views[one] for one in together)
            served = [replace(estimates[one], views=0) for one in together]
            served[0] = replace(estimates[first], views=most)
            boundary = plan.phases[first].boundary(stages)
            used, reason = is_stored(served, boundary=boundary, use=use, budget=budget)
            if used:
                break
        pace = paces[first]
        filling = most * (pace.input.of(train) + pace.frozen.of(train)) + pace.frozen.of(val)
        filling += sum(writing[one] for one in (together if used else together[:1]))
        found.append(_Store(used, reason, filling, estimates[first].bytes))
        if used:
            shared = "Its frozen part is stored in the pass of an earlier phase."
            found += [_Store(True, shared, 0.0, estimates[one].bytes) for one in together[1:]]
    return found


def _phase_cost(
    phase: Phase, pace: Pace, store: _Store, around: Around, train: Load, val: Load, *, stages: int
) -> PhaseCost:
    judged = pace.judged.of(val) + around.temperature
    plain = pace.input.of(train) + pace.frozen.of(train) + pace.step.of(train) + pace.frozen.of(val) + judged
    short = pace.read.of(train) + pace.step.of(train) + pace.read.of(val) + judged
    reason = store.reason
    if phase.patience is not None and phase.patience < phase.epochs:
        reason += f" It may end after {counted(phase.patience, 'epoch')} without gain; all {phase.epochs} are counted."
    return PhaseCost(
        name=phase.name,
        boundary=phase.boundary(stages),
        rows=train.rows,
        epochs=phase.epochs,
        stored=store.used,
        epoch_seconds=short if store.used else plain,
        plain_epoch_seconds=plain,
        filling_seconds=store.filling,
        once_seconds=pace.preparing + (around.drift_again if phase.thaw else 0.0),
        store_bytes=store.bytes,
        memory_bytes=pace.memory_bytes,
        reason=reason,
    )


def describe_cost(cost: Cost) -> str:
    """A sentence to read before it begins."""
    shorter = any("may end after" in phase.reason for phase in cost.phases)
    epochs = sum(phase.epochs for phase in cost.phases)
    disk = f", {size(cost.disk_bytes)} of disk" if cost.disk_bytes else ""
    return (
        f"Expected: {duration(cost.seconds)} for {counted(epochs, 'epoch')}"
        f"{' if none ends early' if shorter else ''}, {size(cost.memory_bytes)} of memory{disk}."
    )


def is_stored(group: Sequence[Estimate], *, boundary: int, use: Use, budget: int) -> tuple[bool, str]:
    """Whether ``StoringMaker`` would store the first phase of these, which one pass would serve, and why."""
    if boundary == 0:
        return False, "Nothing is frozen below it."
    if use == "off":
        return False, "The store is off."
    verdict = weigh_store(group, use=use, budget=budget)
    if verdict == "too large":
        needed = size(sum(one.bytes for one in group))
        return False, f"Its store would take {needed}, more than --store-budget allows."
    if verdict == "does not pay":
        return False, "Storing its frozen part does not pay."
    return True, f"Its frozen part is stored: an epoch is {group[0].epoch_speedup:.1f} times faster."


def _judging(phase: PhaseCost, pace: Pace, around: Around, val: Load) -> float:
    """The start, too, is judged on validation."""
    reading = pace.read.of(val) if phase.stored else pace.frozen.of(val)
    return reading + pace.judged.of(val) + around.temperature
