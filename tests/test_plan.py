"""A plan that means nothing cannot be made."""

import pytest

from unfreeze.errors import RequestError
from unfreeze.plan import Phase, Plan, Thaw, check_modality

PAIRS = {"thaw": (Thaw(1, "weights", 0.1),), "head_rate": None, "objective": "pairs"}


def test_the_boundary_is_the_lowest_thawed_stage_or_lies_above_all():
    thaw = (Thaw(3, "weights", 0.1), Thaw(2, "norm", 0.1))
    assert Phase(name="p", epochs=1, thaw=thaw).boundary(5) == 2
    assert Phase(name="p", epochs=1).boundary(5) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "0 epochs"),
        ({"head_rate": None}, "trains nothing"),
        ({"thaw": (Thaw(1, "bias", 0.1), Thaw(1, "bias", 0.2))}, "names a stage twice"),
        ({"thaw": (Thaw(1, "bias", 0.1),), "objective": "pairs"}, "the head has no part"),
        (PAIRS | {"patience": 2}, "the head has no part"),
    ],
)
def test_a_phase_that_means_nothing_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Phase(**({"name": "p", "epochs": 1} | settings))


def test_a_plan_has_phases_of_different_names():
    with pytest.raises(ValueError, match="at least one"):
        Plan(strategy="own", phases=())
    phase = Phase(name="p", epochs=2)
    with pytest.raises(ValueError, match="repeat: p, p"):
        Plan(strategy="own", phases=(phase, phase))
    assert Plan(strategy="own", phases=(phase, Phase(name="q", epochs=3))).epochs == 5


@pytest.mark.parametrize(
    ("settings", "modality"),
    [({"mixup": 0.1}, "text"), ({"augment": "light"}, "text"), ({"token_dropout": 0.1}, "image")],
)
def test_inputs_are_varied_in_ways_of_their_own_kind(settings, modality):
    plan = Plan(strategy="own", phases=(Phase(name="p", epochs=1),), **settings)
    with pytest.raises(RequestError, match="--"):
        check_modality(plan, modality)
    check_modality(plan, "image" if modality == "text" else "text")


def test_pairs_come_last_and_know_nothing_of_the_head():
    pairs, classes = Phase(name="pairs", epochs=1, **PAIRS), Phase(name="classes", epochs=1)
    assert Plan(strategy="own", phases=(classes, pairs)).ends_in_pairs
    assert not Plan(strategy="own", phases=(classes,)).ends_in_pairs
    with pytest.raises(ValueError, match="put it last"):
        Plan(strategy="own", phases=(pairs, classes))
    for settings in ({"mixup": 0.2}, {"label_smoothing": 0.1}, {"interpolate": True}):
        with pytest.raises(ValueError, match="pairs know no"):
            Plan(strategy="own", phases=(pairs,), **settings)
