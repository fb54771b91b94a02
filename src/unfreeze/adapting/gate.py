"""Whether a proposal is taken: without labels several weak signs must agree, and where they do not the source stays.

The numbers below were set on solar cells (the other kind of cell, ten corruptions) and turned digits, with traps among
them; bench/adapt.py checks them on all of those and on mails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unfreeze.adapting.scene import Proposal, Scene
from unfreeze.adapting.shift import ALIKE, FLAT, UNEVEN, Shift
from unfreeze.adapting.signs import FEWEST_EXPECTED, Signs
from unfreeze.report.words import points

Kind = Literal["adapted", "kept source", "needs labels"]

# With fewer rows than this the target's own means are as uncertain as what they are to mend.
FEWEST_ROWS = 50
# Answers on the source's validation rows may get worse by this much beyond what chance explains (two sided, 95 %).
SOURCE_MARGIN = 0.05
# A collapse is sure when what can be learnt from the answers is less than this share of what a proposal's teach.
COLLAPSED_SKILL = 0.4
COLLAPSE_GAIN = 0.08
# Where the answers are spread over the classes about as they were, milder gains are believed: the two scores on
# labelled rows rise by this much on average and neither falls by more than the slack, and most of the three signs
# without labels rise.
MILD_GAIN = 0.03
SLACK = 0.01
MOST_DOUBTS = 1
# Where more than half of the answers would have to be others for the source's shares, the shares have changed: mails of
# which four fifths are spam beside a source of as much ham have 0.6, blurred solar cells up to 0.4.
MOST_DISPLACED = 0.5
# A class with less than a twentieth of its answers may be missing, and a method would give it rows. Digits turned by 20
# degrees, five seeds: 0.00 to 0.04 without three or five of their classes, 0.07 to 0.24 with all of them.
LEAST_ANSWERED = 0.05
AGREEMENT_FALL = 0.02
# So much less estimated accuracy than on the source's own rows asks for labels.
LOST = 0.10
NO_BETTER_CLUSTERS = "its answers fit the clusters of the target no better"
# Labels that a person gave decide from this many on.
FEWEST_ANSWERS = 10
# What trying several methods must not explain, at this level, to be a gain on the labels. Where none changes anything,
# the best of five is above its standard error in a sixth to a half of simulated cases, above this limit in 5 % at most.
LEVEL = 0.05


@dataclass(frozen=True)
class Candidate:
    """A proposal beside the classifier as it is.

    ``source_change``: accuracy on the source's validation rows, after less before, and ``source_error`` its standard
    error; None without a source. ``agreement``: of the method's answers from two halves of the source. ``answered``:
    accuracy on the rows that a person labelled, none of which its labels were learnt from, less that before, with its
    standard error. ``refused``: why it is not taken, empty when it may be.
    """

    method: str
    signs: Signs
    source_change: float | None
    source_error: float | None
    agreement: float | None
    answered: tuple[float, float] | None
    refused: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """What to do: ``method`` is that of the proposal that is taken.

    ``labels``: how many labels that a person gave have decided it, 0 where the signs did. ``against``: what speaks
    against every method, whatever its signs, or None.
    """

    kind: Kind
    method: str | None
    reasons: tuple[str, ...]
    labels: int = 0
    against: str | None = None


def source_change(scene: Scene, proposal: Proposal) -> tuple[float, float] | None:
    """Accuracy on the source's validation rows after less before, and its standard error."""
    if scene.val is None or scene.val_answers is None or proposal.val_logits is None:
        return None
    before = scene.val_answers.argmax(axis=1) == scene.val.y
    after = proposal.val_logits.argmax(axis=1) == scene.val.y
    return paired(before, after)


def paired(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float]:
    """The mean difference of right answers, and its standard error; one row more each way keeps that above zero."""
    difference = after.astype(float) - before
    lost, won = int((difference < 0).sum()) + 1, int((difference > 0).sum()) + 1
    rows = len(difference)
    return float(difference.mean()), float(np.sqrt(lost + won - (won - lost) ** 2 / rows) / rows)


def refuse(
    before: Signs,
    after: Signs,
    *,
    scene: Scene,
    change: tuple[float, float] | None,
    agreement: tuple[float, float] | None,
) -> tuple[str, ...]:
    """Every reason against a proposal; ``agreement``: of halves of the source, before and with the method."""
    if before.reverse is None or after.reverse is None:
        return ("without the source's data its gain cannot be checked",)
    problems = []
    if change is not None and change[0] + 1.96 * change[1] < -SOURCE_MARGIN:
        problems.append(f"accuracy on the source changes by {points(change[0])}")
    gain = after.reverse - before.reverse
    if has_collapsed(before, after, scene):
        # A collapsed classifier is as sure as it is wrong: signs that rest on its confidence say nothing.
        if gain < COLLAPSE_GAIN:
            problems.append(f"what its answers teach hardly rises ({points(gain)} in reverse)")
        if after.evenness <= before.evenness:
            problems.append("its answers are no more spread over the classes")
        if after.ami <= before.ami:
            problems.append(NO_BETTER_CLUSTERS)
        return tuple(problems)
    if not UNEVEN < before.evenness < 1 / UNEVEN:
        problems.append(
            f"class shares look changed (spread {before.evenness:.2f} of the source's), which adaptation would undo"
        )
    elif before.displaced > MOST_DISPLACED:
        problems.append(
            f"class shares look changed ({before.displaced:.0%} of the answers displaced), which adaptation would undo"
        )
    elif before.scarcest < LEAST_ANSWERED:
        problems.append(
            f"a class has {before.scarcest:.0%} of the answers that the source's shares give it: it may be missing, "
            "and adaptation would fill it"
        )
    if after.evenness <= UNEVEN < before.evenness:
        problems.append(
            f"its answers would collapse (spread {after.evenness:.2f} of the source's, {before.evenness:.2f} before)"
        )
    gains = {"what its answers teach": gain}
    if before.transported is not None and after.transported is not None:
        gains["accuracy on the source's rows as the target would show them"] = (
            after.transported - before.transported
        )
    if min(gains.values()) < -SLACK or np.mean(list(gains.values())) < MILD_GAIN:
        problems += [f"{what} changes by {points(change)}" for what, change in gains.items()]
    doubts = _doubts(before, after)
    if len(doubts) > MOST_DOUBTS:
        problems += doubts
    if agreement is not None and agreement[1] < agreement[0] - AGREEMENT_FALL:
        problems.append("heads from two halves of the source agree less")
    return tuple(problems)


def _doubts(before: Signs, after: Signs) -> list[str]:
    """The signs without labels, of three, that a proposal does not raise."""
    found = []
    if after.nuclear <= before.nuclear:
        found.append("its answers are no surer and more varied (nuclear norm)")
    if after.ami <= before.ami:
        found.append(NO_BETTER_CLUSTERS)
    if after.estimate is not None and before.estimate is not None and after.estimate < before.estimate:
        found.append("its estimated accuracy falls")
    return found


def skill(reverse: float, classes: int) -> float:
    """Balanced accuracy as a share of what there is above chance."""
    return max(0.0, (reverse - 1 / classes) / (1 - 1 / classes))


def has_collapsed(before: Signs, after: Signs, scene: Scene) -> bool:
    """Whether the classifier answers a few classes only, and nothing can be learnt from its answers."""
    if before.reverse is None or after.reverse is None:
        return False
    known, new = skill(before.reverse, scene.classes), skill(after.reverse, scene.classes)
    return before.evenness <= UNEVEN and known <= COLLAPSED_SKILL * new


def decide(
    scene: Scene, shift: Shift, before: Signs, candidates: Sequence[Candidate], *, rows: int
) -> Verdict:
    """The verdict over all candidates; ``rows``: of the target, the scene's first. Of steps the newest one's count."""
    given = len(scene.asked)
    answered = [one for one in candidates if one.answered is not None]
    if given >= FEWEST_ANSWERS and answered:
        return _by_answers(answered, given)
    newest = int(np.count_nonzero(scene.newest < rows))
    against = _against_all(shift, newest)
    found = _by_signs(scene, shift, before, candidates, against, newest)
    if 0 < given < FEWEST_ANSWERS:
        few = (
            f"{f'{given} labels are' if given > 1 else '1 label is'} fewer than the {FEWEST_ANSWERS} that can decide: "
            "methods learn from them, the signs judge"
        )
        found = replace(found, reasons=(*found.reasons, few))
    return found


def _against_all(shift: Shift, rows: int) -> str | None:
    """What speaks against every method, whatever its signs."""
    if rows < FEWEST_ROWS:
        few = f"{rows} target rows are" if rows > 1 else "1 target row is"
        return f"{few} too few to adapt to ({FEWEST_ROWS} is the least)"
    if shift.alike:
        return (
            f"apart from class shares, the target looks like the source (AUC {shift.within_classes:.2f}, less than "
            f"{ALIKE}): there is nothing that adapting could mend"
        )
    if shift.flat:
        return (
            f"the target's rows hardly differ from each other (their features vary by {shift.variation:.2f} of the "
            f"source's deviations, {FLAT} is the least): they may not be data of this kind"
        )
    return None


def _by_signs(
    scene: Scene,
    shift: Shift,
    before: Signs,
    candidates: Sequence[Candidate],
    against: str | None,
    rows: int,
) -> Verdict:
    if against is None:
        possible = [one for one in candidates if not one.refused]
        if possible:
            best = max(possible, key=lambda one: one.signs.ami)
            return Verdict("adapted", best.method, _praise(scene, before, best))
        reasons = [f"{one.method}: {'; '.join(one.refused)}" for one in candidates]
    else:
        reasons = [against]
    trouble = _trouble(scene, shift, before, candidates, rows)
    if trouble:
        return Verdict("needs labels", None, (*trouble, *reasons), against=against)
    return Verdict(
        "kept source", None, tuple(reasons or ("no method had anything to propose",)), against=against
    )


def _by_answers(candidates: Sequence[Candidate], count: int) -> Verdict:
    """The given labels decide: the largest gain on rows that were held out, of those that chance does not explain.

    A one-sided test at 5 %, Bonferroni over the methods tried. ``paired`` makes errors wide enough for the normal
    quantile from ten rows on.
    """
    gains = [(*one.answered, one.method) for one in candidates if one.answered is not None]
    limit = NormalDist().inv_cdf(1 - LEVEL / len(gains))
    sure = [found for found in gains if found[0] > limit * found[1]]
    gain, error, method = max(sure or gains, key=lambda found: found[0])
    tried = "1 method is" if len(gains) == 1 else f"{len(gains)} methods are"
    told = (
        f"on the {count} labelled rows accuracy changes by {points(gain)} with {method} (standard error "
        f"{100 * error:.1f}; chance explains up to {limit:.1f} of these where {tried} tried)"
    )
    if sure:
        return Verdict("adapted", method, (told,), labels=count)
    return Verdict("kept source", None, (f"{told}, which is no gain beyond chance",), labels=count)


def _praise(scene: Scene, before: Signs, best: Candidate) -> tuple[str, ...]:
    after = best.signs
    assert before.reverse is not None
    assert after.reverse is not None
    told = []
    if has_collapsed(before, after, scene):
        told += [
            f"the source's answers have collapsed on the target: {before.largest:.0%} of them are one class, and next "
            "to nothing can be learnt from them",
            "this takes for granted that the target holds the classes about as the source does, which no row without a "
            "label can show: where nearly all of it may be one class, label some rows instead",
        ]
    if before.transported is not None and after.transported is not None:
        told.append(
            f"of the source's validation rows, brought to the target's means and correlations, it is right on "
            f"{after.transported:.0%} (balanced), {before.transported:.0%} as it was"
        )
    told += [
        f"heads that learn from its answers alone are right on {after.reverse:.0%} of the source's validation rows "
        f"(balanced), {before.reverse:.0%} with the answers before",
        f"its commonest class takes {after.largest:.0%} of the answers, {before.largest:.0%} before",
        f"its answers agree better with the clusters of the target (AMI {after.ami:.2f}, {before.ami:.2f} before)",
    ]
    if best.source_change is not None:
        told.append(f"accuracy on the source, read in its own units, changes by {points(best.source_change)}")
    return tuple(told)


def _trouble(
    scene: Scene, shift: Shift, before: Signs, candidates: Sequence[Candidate], rows: int
) -> tuple[str, ...]:
    """Signs that the classifier fails on the target; none where it looks like the source, or has few rows."""
    # The shares of a few answers are uneven by chance, and less than all classes teach nothing: a single answer is one
    # class in any case.
    if shift.alike or rows < max(scene.classes, min(FEWEST_EXPECTED * scene.classes, FEWEST_ROWS)):
        return ()
    found = []
    if before.evenness <= UNEVEN:
        found.append(
            f"the model calls {before.largest:.0%} of the target one class: either the shares of the classes are "
            "different there, or it fails"
        )
    if before.estimate is not None and scene.val is not None and scene.val_answers is not None:
        right = float((scene.val_answers.argmax(axis=1) == scene.val.y).mean())
        if before.estimate < right - LOST:
            found.append(
                f"about {before.estimate:.0%} of its answers are right by its confidence, {right:.0%} on the source"
            )
    if before.reverse is not None:
        best = max((one.signs.reverse or 0.0 for one in candidates), default=0.0)
        if skill(before.reverse, scene.classes) <= COLLAPSED_SKILL * skill(best, scene.classes):
            found.append("next to nothing can be learnt from its answers")
    return tuple(found)
