"""What is worth trying: strategies with settings, by rule, in the order of what may be hoped of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from unfreeze.choose.facts import Facts, Turning
from unfreeze.config import AUTO, GRAFTING, ON_PAIRS, READ_BY, reads
from unfreeze.contracts import Backbone
from unfreeze.engine.trainable import has_statistics
from unfreeze.grafts.targets import targetable
from unfreeze.strategies.settings import BACKBONE_RATE, GRAFT_RATE, LAYER_DECAY

# The share of a probe's errors that the right fine-tuning removes, of many rows. Measured (EfficientNet-Lite0, DINOv2
# ViT-S, MiniLM): 25 and 28 % of 1,968 solar cells, 26 % of 2,000 small pictures, 35 and 65 % of 500 texts, 47 % of
# 6,879 texts, 94 % of 1,000 pictures of small defects.
HOPE = 0.35
# Rows at which half of it may be hoped for: with a few dozen rows fine-tuning mostly learns them by heart. The best
# strategy removed, of 85 cells, 12 % of the errors, of 212 11 %, of 425 17 %, of 425 mails 22 %
# (bench/results/chooser.jsonl), of 500 other texts 35 and 65 %, and of 225 pictures of a far domain 27 to 40 %
# (RESISC45, five a class, arXiv 2409.16434).
HALF_HOPE_ROWS = 150
# Training rows up to which nothing is hoped for where the probe is good already: on 27 and 85 mails, of which it gets 5
# to 8 % wrong, every thawing lost to it, by 1.6 to 5.3 points over five seeds. On 85 solar cells, of which it gets 21 %
# wrong, the best one gained 2.5 over five (bench/results/chooser.jsonl).
NEAR_ROWS = 100
# From this share of errors on the features are far from the task, as they are where a head is well ahead of the most
# similar rows (facts.py). Low-rank updates need more rank then: on 5 images a class rank 8 gave 66.7 % and rank 64
# 73.0 % of a far domain, but rank 1 was best for a near one (arXiv 2409.16434).
FAR_ERROR = 0.15
# A few rows tell little of it: as if so many more had been asked, of which one was wrong, about as many as of the tasks
# that were measured.
MORE_ROWS = 10
NEAR_RANK, FAR_RANK = 8, 32
# Texts of a class up to which pairs are tried (SetFit is ahead of fine-tuning up to about as many, Tunstall et al.
# 2022), and the share of the probe's errors that they removed, of up to so many: 48 and 37 % on 8 and 16 mails a class,
# 17 and 26 % on 32 and 64 (bench/RESULTS.md).
FEW_TEXTS, FEW_TEXTS_HOPE, FEWEST_TEXTS = 64, 0.4, 16
# Of so many classes a batch of 32 holds two texts each, so that every step compares all of them, as it does of the two
# classes on which pairs were measured.
MOST_PAIRED_CLASSES = 16
# How many times the texts of the smallest class the largest may have: of 32 and 100 mails, of which two thirds are of
# one class, pairs made the probe worse.
EVEN = 1.5
# Flips and quarter turns of pictures that stand them gained 0.4 points of full fine-tuning on average, between -1.2 and
# 1.5 (four pairs of settings, solar cells, bench/RESULTS.md), which is no ground to hope for more than usual.
TURNED_SHARE = 0.95
# What training on pairs does not read, of what all other candidates do.
NOT_OF_PAIRS = frozenset(
    name for name in READ_BY if reads(AUTO, name) and not any(reads(pairs, name) for pairs in ON_PAIRS)
)
# Parameters from which low-rank updates lead: of ViT-B on VTAB-1k they are at 75.2, full fine-tuning at 69.0 (arXiv
# 2409.16434). Of DINOv2 ViT-S both are level on 1,574 solar cells (0.899, two seeds), and on 85 they are at 0.769 and
# 0.783, discriminative rates at 0.791 (two seeds, bench/RESULTS.md).
LARGE = 80_000_000
# Batch norms that learn their statistics stand three times the rate (1,000 pictures of small defects: trained
# statistics 99.4 % at 3e-4 and 100 % at 1e-3, frozen ones 98.7 % at 1e-4 and 75 % at 3e-4).
NORM_FACTOR = 3.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A strategy with the settings in which it differs from its defaults.

    ``changes``: fields of ``StrategySettings``. ``hope``: the share of the floor's errors that it is expected to remove
    before anything is tried, and ``behind`` how much less of them it is expected to in its trials, which learn from
    fewer rows. ``reason`` says why it is tried.
    """

    strategy: str
    hope: float
    reason: str
    changes: Mapping[str, object] = field(default_factory=dict)
    behind: float = 0.0

    @property
    def name(self) -> str:
        """Short and unique among candidates, such as ``full, rate 1e-4, norm train``."""
        shown = [
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.changes.items()
        ]
        return ", ".join((self.strategy, *shown))

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form."""
        return {
            "name": self.name,
            "strategy": self.strategy,
            "changes": dict(self.changes),
            "hope": self.hope,
            "behind": self.behind,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        """The candidate that ``to_dict`` gave. LookupError, TypeError or ValueError where it gave no such thing."""
        return cls(
            strategy=str(values["strategy"]),
            hope=float(values["hope"]),
            reason=str(values["reason"]),
            changes=dict(values["changes"]),
            behind=float(values["behind"]),
        )


def list_candidates(
    backbone: Backbone,
    *,
    rows: int,
    trial_rows: int,
    classes: int,
    floor_error: float,
    facts: Facts,
    said: Mapping[str, object],
) -> tuple[Candidate, ...]:
    """The candidates for a backbone, the most hopeful first.

    ``rows`` to train on, of so many ``classes``, and ``trial_rows`` that a trial trains on; ``floor_error``: the share
    of rows that the probe gets wrong. ``facts``: of the same rows. ``said``: fields of ``StrategySettings`` that the
    user fixed; candidates do not differ in them.
    """
    scored = facts.distance.rows
    error = (floor_error * scored + 1) / (scored + MORE_ROWS)
    far = error >= FAR_ERROR or facts.distance.far
    hope = _hope(rows, far=far)
    lost = 1 - _hope(min(rows, trial_rows), far=far) / hope if hope else 0.0
    family = backbone.family
    if family in ("encoder", "decoder"):
        found = _for_texts(family, hope, far=far)
        sizes = facts.counts.per_class.values()
        even = max(sizes) <= EVEN * min(sizes)
        few = rows <= FEW_TEXTS * classes and classes <= MOST_PAIRED_CLASSES
        if few and even and NOT_OF_PAIRS.isdisjoint(said):
            found.append(_in_pairs(rows, trial_rows, classes))
    elif has_batch_norm(backbone):
        found = _for_batch_norm(family, hope)
    else:
        found = _for_transformers(backbone, hope, far=far)
    if facts.turning is not None and facts.turning.harmless:
        upright = next(one.hope for one in found if one.strategy == "full")
        found.append(_turned(facts.turning, upright))
    # What one setting may remove less than another, here and below, is a choice: the order in which they are tried, and
    # what is hoped of the one that is taken.
    found.append(
        Candidate(strategy="partial", hope=0.6 * hope, reason="cheap: most of the network is computed once")
    )
    kept: dict[tuple[object, ...], Candidate] = {}
    for candidate in found:
        if candidate.strategy == "lora" and not targetable(backbone):
            continue
        if "norm" in said and candidate.strategy in GRAFTING:
            # Statistics that moved are no part of a graft.
            continue
        changes = {name: value for name, value in candidate.changes.items() if name not in said}
        asked = [name for name in dict.fromkeys(("rate", *candidate.changes)) if name in said]
        reason = f"with the {' and '.join(asked)} that you gave" if asked else candidate.reason
        behind = candidate.behind if candidate.strategy in ON_PAIRS else lost * candidate.hope
        made = replace(candidate, changes=changes, reason=reason, behind=behind)
        kept.setdefault((made.strategy, *sorted(changes.items(), key=str)), made)
    return tuple(sorted(kept.values(), key=lambda candidate: -candidate.hope))


def _hope(rows: int, *, far: bool) -> float:
    """The share of the probe's errors that the best thawing is expected to remove."""
    grown = HOPE * rows / (rows + HALF_HOPE_ROWS)
    return grown if far else grown * max(0.0, 1 - NEAR_ROWS / rows)


def _in_pairs(rows: int, trial_rows: int, classes: int) -> Candidate:
    """Of fewer texts, as in trials, pairs remove more of the errors."""
    share, in_trials = (min(1.0, FEWEST_TEXTS * classes / count) for count in (rows, trial_rows))
    return Candidate(
        strategy="contrastive",
        hope=FEW_TEXTS_HOPE * share,
        reason=f"few texts a class: {rows} texts have {rows * (rows - 1) // 2:,} pairs",
        behind=FEW_TEXTS_HOPE * (share - in_trials),
    )


def _for_batch_norm(family: str, hope: float) -> list[Candidate]:
    """The rate first, then the norm policy: each was best on one task and destroyed the backbone on another."""
    rate = BACKBONE_RATE[family]
    return [
        Candidate(strategy="full", hope=hope, reason="the usual rate, statistics frozen"),
        Candidate(
            strategy="full",
            hope=0.9 * hope,
            reason="a third of the rate: the usual one destroys some backbones",
            changes={"rate": rate / 3},
        ),
        Candidate(
            strategy="full",
            hope=0.8 * hope,
            reason="statistics trained, which stands a higher rate",
            changes={"rate": NORM_FACTOR * rate, "norm": "train"},
        ),
    ]


def _turned(turning: Turning, hope: float) -> Candidate:
    return Candidate(
        strategy="full",
        hope=TURNED_SHARE * hope,
        reason=f"flips and quarter turns, which cost a head nothing (right with such copies {turning.beside:.1%} of "
        f"{turning.rows}, without {turning.without:.1%})",
        changes={"augment": "dihedral"},
    )


def _for_transformers(backbone: Backbone, hope: float, *, far: bool) -> list[Candidate]:
    family = backbone.family
    rank = FAR_RANK if far else NEAR_RANK
    large = sum(tensor.numel() for tensor in backbone.module.parameters()) >= LARGE
    return [
        Candidate(
            strategy="lora",
            hope=(1.0 if large else 0.85) * hope,
            reason="few parameters, and ahead of full fine-tuning on networks of base size"
            if large
            else "few parameters; below base size no better than full fine-tuning",
            changes={"rank": rank},
        ),
        Candidate(strategy="full", hope=(0.9 if large else 1.0) * hope, reason="the usual rate"),
        Candidate(
            strategy="full",
            hope=0.8 * hope,
            reason="three times the rate: data far from the pretraining need to move further",
            changes={"rate": 3 * BACKBONE_RATE[family]},
        ),
        Candidate(
            strategy="discriminative",
            hope=(0.85 if large else 0.95) * hope,
            reason=f"lower stages move less (decay {LAYER_DECAY[family]:g})",
        ),
    ]


def _for_texts(family: str, hope: float, *, far: bool) -> list[Candidate]:
    rank = FAR_RANK if far else NEAR_RANK
    return [
        Candidate(strategy="full", hope=hope, reason="the usual rate"),
        Candidate(
            strategy="full",
            hope=0.9 * hope,
            reason="three times the rate: very short texts gained a point by it",
            changes={"rate": 3 * BACKBONE_RATE[family]},
        ),
        Candidate(
            strategy="lora",
            hope=0.85 * hope,
            reason=f"few parameters, at {GRAFT_RATE[family]:g}",
            changes={"rank": rank},
        ),
    ]


def has_batch_norm(backbone: Backbone) -> bool:
    """Whether the network has norms with running statistics."""
    return any(has_statistics(module) for module in backbone.module.modules())
