"""The verdict in words: what is best, what is tied with it, which of those is cheapest, and if it was worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfreeze.amounts import duration
from unfreeze.comparing.ranking import Ranked
from unfreeze.comparing.results import Result
from unfreeze.config import FLOOR
from unfreeze.report import words
from unfreeze.report.content import Estimate


@dataclass(frozen=True)
class Verdict:
    """What one size comes to. ``tied``: all that the test rows cannot tell from the ``best``, itself first."""

    best: Result
    tied: tuple[Result, ...]
    sentences: tuple[str, ...]


def judge(results: Sequence[Result]) -> Verdict | None:
    """The verdict on the results of one size, or None when none of them finished."""
    finished = [result for result in results if result.accuracy is not None]
    best = next((result for result in finished if result.is_best), None)
    if best is None:
        return None
    tied = (best, *(result for result in finished if result is not best and _contains_zero(result.to_best)))
    floor = next(
        (result for result in finished if result.strategy == FLOOR and result.backbone == best.backbone), None
    )
    several = len({result.backbone for result in results}) > 1
    return Verdict(
        best=best,
        tied=tied,
        sentences=tuple(_sentences(best, tied, floor, finished, several=several)),
    )


def name_of(result: Result, *, several: bool) -> str:
    """What a result is called in a sentence; ``several``: there is more than one backbone."""
    return f"{result.strategy} on {result.backbone}" if several else result.strategy


def points(estimate: Estimate) -> str:
    """The size of a difference in points, such as ``4.2 points (95 % interval 2.1 to 6.3)``.

    Of a negative one the bounds are turned round with it: "behind by 4.2 points (95 % interval 2.1 to 6.3)".
    """
    said = f"{abs(estimate.value) * 100:.1f} points"
    if estimate.low is None or estimate.high is None:
        return said
    ends = (estimate.low, estimate.high) if estimate.value >= 0 else (-estimate.high, -estimate.low)
    return f"{said} (95 % interval {in_points(ends[0])} to {in_points(ends[1])})"


def in_points(share: float) -> str:
    """A difference of shares in points: a minus sign where it is one, no plus, never minus zero."""
    text = f"{share * 100:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def _contains_zero(estimate: Estimate | None) -> bool:
    if estimate is None or estimate.low is None or estimate.high is None:
        return False
    return estimate.low <= 0.0 <= estimate.high


def _least(results: Sequence[Result], name: str) -> Result | None:
    """The one with the lowest number of that name, of equal ones the quickest; None where none is known."""
    known = [result for result in results if getattr(result, name) is not None]
    return min(known, key=lambda result: (getattr(result, name), result.seconds or 0.0), default=None)


def _sentences(
    best: Result, tied: tuple[Result, ...], floor: Result | None, finished: list[Result], *, several: bool
) -> list[str]:
    at = f"at n={best.rows:,}"
    if floor is not None and floor in tied:
        # Of another backbone, a floor that is easier to beat.
        same = [result for result in finished if result.backbone == best.backbone]
        above = [result for result in same if result.to_floor is not None and _is_above(result.to_floor)]
        if above and best is not floor:
            said = _others_beat(
                best, max(above, key=lambda result: result.mean), tied, floor, at, several=several
            )
        else:
            said = _nothing_beats(best, tied, floor, at, several=several, alone=len(finished) == 1)
    elif len(tied) > 1:
        said = [f"{_listed(tied, several=several)} are tied {at}{_cheapest(tied, several=several)}."]
        said += _above(best, several=several)
    else:
        value = "" if best.accuracy is None else f" with {words.percent(best.accuracy.value)}"
        said = [f"{name_of(best, several=several)} is best {at}{value}."]
        said += _above(best, several=several)
    for result in finished:
        if len(result.seeds) < len(best.seeds) and result.mean > best.mean:
            said.append(
                f"{name_of(result, several=several)} has {words.percent(result.mean)}, but finished under "
                f"{len(result.seeds)} of {result.asked} seeds alone, and is not called best for it."
            )
    if len(best.seeds) == 1:
        said.append(
            "With one seed the intervals know the draw of the test rows alone: --seeds 3 would also tell how "
            "results wander from split to split."
        )
    return said


def _is_above(gain: Estimate) -> bool:
    return gain.low is not None and gain.low > 0


def _others_beat(
    best: Result, above: Result, tied: tuple[Result, ...], floor: Result, at: str, *, several: bool
) -> list[str]:
    """The highest mean is within chance of the floor, and a lower one, which differs less by row, is not."""
    assert above.to_floor is not None
    ahead = f", by {points(best.to_floor)}," if best.to_floor is not None else ""
    return [
        f"{name_of(above, several=several)} is above the floor {at} by {points(above.to_floor)}.",
        f"{name_of(best, several=several)} has the highest mean, but is ahead of "
        f"{name_of(floor, several=several)}{ahead} within chance{_cheapest(tied, several=several)}.",
    ]


def _nothing_beats(
    best: Result, tied: tuple[Result, ...], floor: Result, at: str, *, several: bool, alone: bool
) -> list[str]:
    """The floor is as good as the best, or is it."""
    name = name_of(floor, several=several)
    value = "" if best.accuracy is None else f" ({words.percent(best.accuracy.value)})"
    if alone:
        return [f"Nothing was compared with {name}{value} {at}."]
    if best is floor:
        others = [result for result in tied if result is not floor]
        said = f"Nothing beats the floor {at}: {name} is best{value}"
        if others:
            said += (
                f", and {_listed(others, several=several)} {'is' if len(others) == 1 else 'are'} tied with it"
            )
        return [f"{said}."]
    gap = points(best.to_floor) if best.to_floor is not None else ""
    return [
        f"Nothing beats the floor {at}: {name_of(best, several=several)} is ahead of {name} by {gap}, which is "
        f"within chance{_cheapest(tied, several=several)}."
    ]


def _above(best: Result, *, several: bool) -> list[str]:
    if best.to_floor is None:
        return []
    return [f"{name_of(best, several=several)} is above the floor by {points(best.to_floor)}."]


def _cheapest(tied: Sequence[Result], *, several: bool) -> str:
    """Which of the tied trains the fewest parameters, and which takes least time."""
    smallest, quickest = _least(tied, "trained"), _least(tied, "seconds")
    said = ""
    if smallest is not None and smallest.share is not None:
        said = f"; {name_of(smallest, several=several)} trains {share_text(smallest.share)} of the parameters"
    if quickest is None or quickest.seconds is None:
        return said
    took = duration(quickest.seconds)
    if quickest is smallest and said:
        return f"{said} and takes least time ({took})"
    return f"{said}{' and' if said else ';'} {name_of(quickest, several=several)} takes least time ({took})"


def share_text(share: float) -> str:
    """A share of parameters with as many digits as it needs: ``100 %``, ``3 %``, ``0.2 %``, ``0.004 %``."""
    if share >= 0.01:
        return f"{share * 100:.0f} %"
    return f"{float(f'{share * 100:.1g}'):.10f}".rstrip("0").rstrip(".") + " %"


def _listed(results: Sequence[Result], *, several: bool) -> str:
    names = [name_of(result, several=several) for result in results]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def judge_backbones(ranking: Sequence[Ranked]) -> tuple[str, ...]:
    """Which backbone's probe is best, and which of those that are tied with it is the fastest; empty without any."""
    finished = [entry for entry in ranking if entry.accuracy is not None]
    if len(finished) < 2:
        return ()
    best = finished[0]
    tied = [best, *(entry for entry in finished[1:] if _contains_zero(entry.to_best))]
    value = words.percent(best.mean)
    if len(tied) == 1:
        return (f"The probe on {best.backbone} is best ({value}).",)
    fastest = min(tied, key=lambda entry: entry.latency_seconds or 0.0)
    names = [entry.backbone for entry in tied]
    said = f"The probes on {', '.join(names[:-1])} and {names[-1]} are tied, the best with {value}"
    if fastest.latency_seconds is not None:
        said += f"; {fastest.backbone} is the fastest ({fastest.latency_seconds * 1000:.3g} ms a row)"
    return (f"{said}.",)
