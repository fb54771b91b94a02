"""The methods by name: each is a function from a scene to a proposal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unfreeze.adapting.methods import align, gradual, labels, norm, pseudo_label, self_training, strong
from unfreeze.adapting.scene import Proposal, Scene

Method = Callable[[Scene], Proposal]

METHODS: Mapping[str, Method] = {
    "norm": norm.propose,
    "align": align.propose,
    "self-training": self_training.propose,
    "gradual": gradual.propose,
    "labels": labels.propose,
    "pseudo-label": pseudo_label.propose,
    "strong": strong.propose,
}
# What ``auto`` tries: a fixed confidence threshold is unsafe (with answers above 0.9 nothing was gained from one
# kind of solar cell to the other, where a model is sure of one class; bench/RESULTS.md), and
# varied source views alone are a baseline.
SOUND = ("norm", "align", "self-training", "gradual")


def sound_for(scene: Scene) -> tuple[str, ...]:
    """What ``auto`` tries on this scene: labels that a person gave are worth a fit of their own."""
    return (*SOUND, "labels") if len(scene.asked) else SOUND
