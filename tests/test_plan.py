"""A plan that means nothing cannot be made."""

from dataclasses import replace

import numpy as np
import pytest

from unfreeze.config import MOST_RATE
from unfreeze.engine.inputs import TextInputs
from unfreeze.engine.task import Rows
from unfreeze.errors import RequestError
from unfreeze.plan import Adapters, Lora, Phase, Plan, Thaw, check_modality

PAIRS = {"thaw": (Thaw(1, "weights", 0.1),), "head_rate": None, "objective": "pairs"}


def test_the_boundary_is_the_lowest_thawed_stage_or_lies_above_all():
    thaw = (Thaw(3, "weights", 0.1), Thaw(2, "norm", 0.1))
    assert Phase(name="p", epochs=1, thaw=thaw).boundary(5) == 2
    assert Phase(name="p", epochs=1).boundary(5) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "Phase 'p': epochs must be a whole number from 1 to 10000, and 0 is not"),
        ({"head_rate": None}, "trains nothing"),
        ({"thaw": (Thaw(1, "bias", 0.1), Thaw(1, "bias", 0.02))}, "names a stage twice"),
        ({"thaw": (Thaw(1, "bias", 0.1),), "objective": "pairs"}, "the head has no part"),
        (PAIRS | {"patience": 2}, "the head has no part"),
    ],
)
def test_a_phase_that_means_nothing_is_refused(settings, message):
    with pytest.raises(RequestError, match=message):
        Phase(**({"name": "p", "epochs": 1} | settings))


def test_a_plan_has_phases_of_different_names():
    with pytest.raises(RequestError, match="phases must be a tuple of Phase values"):
        Plan(strategy="own", phases=())
    phase = Phase(name="p", epochs=2)
    with pytest.raises(RequestError, match="repeat: p, p"):
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
    with pytest.raises(RequestError, match="put it last"):
        Plan(strategy="own", phases=(pairs, classes))
    for settings in ({"mixup": 0.2}, {"label_smoothing": 0.1}, {"interpolate": True}):
        with pytest.raises(RequestError, match="Pairs know no"):
            Plan(strategy="own", phases=(pairs,), **settings)


THAW, PHASE = Thaw(1, "weights", 0.1), Phase(name="p", epochs=1)
PLAN = Plan(strategy="own", phases=(PHASE,))
NUMBER = "must be a number"


@pytest.mark.parametrize(
    "rate", [0.0, -1.0, float("nan"), float("inf"), 1e9, MOST_RATE * 1.01, "1e-3", None, True]
)
def test_a_rate_is_a_number_that_the_command_line_would_take(rate):
    with pytest.raises(
        RequestError, match=r"Thaw of stage 7: rate must be a number above 0 and at most 0\.1, and "
    ):
        Thaw(7, "norm", rate)
    if rate is not None and rate != MOST_RATE * 1.01:
        with pytest.raises(
            RequestError, match="Phase 'p': head_rate must be a number above 0 and at most 1, and "
        ):
            replace(PHASE, head_rate=rate)


@pytest.mark.parametrize(
    ("good", "settings", "message"),
    [
        (THAW, {"what": "wieghts"}, "what must be weights, norm, bias or graft, and 'wieghts' is not.*'weights'"),
        (THAW, {"what": None}, "Thaw of stage 1: what must be .*, and None is not"),
        (THAW, {"stage": -1}, "Thaw: stage must be a whole number from 0 on, and -1 is not"),
        (THAW, {"stage": 1.5}, "Thaw: stage .* 1.5 is not"),
        (PHASE, {"name": ""}, "Phase: name must be a word"),
        (PHASE, {"thaw": THAW}, "Phase 'p': thaw must be a tuple of Thaw values"),
        (PHASE, {"thaw": ((1, "norm", 0.1),)}, "thaw must be a tuple of Thaw values"),
        (PHASE, {"epochs": 2.5}, "epochs must be a whole number from 1 to 10000, and 2.5 is not"),
        (PHASE, {"warmup": 10}, f"warmup {NUMBER} from 0 to 1, and 10 is not"),
        (PHASE, {"schedule": "cosin"}, "schedule must be cosine, linear or constant, and 'cosin'.*'cosine'"),
        (PHASE, {"weight_decay": -0.01}, f"weight_decay {NUMBER} from 0 on, and -0.01 is not"),
        (PHASE, {"norm": "trian"}, "norm must be freeze or train, and 'trian' is not.*'train'"),
        (PHASE, {"patience": 0}, "patience must be a whole number from 1"),
        (PHASE, {"objective": "pair"}, "objective must be classes or pairs, and 'pair' is not.*'pairs'"),
        (PLAN, {"strategy": None}, "Plan: strategy must be a word"),
        (PLAN, {"phases": PHASE}, "Plan 'own': phases must be a tuple of Phase values"),
        (PLAN, {"start": "pretrianed"}, "start must be pretrained or random.*'pretrained'"),
        (PLAN, {"head": "mpl"}, "head must be fitted, linear or mlp, and 'mpl' is not.*'mlp'"),
        (PLAN, {"graft": "lora"}, r"graft must be Lora\(...\), Adapters\(...\) or None, and 'lora' is not"),
        (PLAN, {"batch_size": 0}, "batch_size must be a whole number from 1 to 65536, and 0 is not"),
        (PLAN, {"augment": "lite"}, "augment must be none, light, strong or dihedral, and 'lite' is not"),
        (PLAN, {"views": 0}, "views must be a whole number from 1 to 256, and 0 is not"),
        (PLAN, {"dropout": 1.0}, f"dropout {NUMBER} from 0 to 0.9, and 1 is not"),
        (PLAN, {"token_dropout": 1.0}, f"token_dropout {NUMBER} from 0 to 0.9"),
        (PLAN, {"label_smoothing": 1.0}, f"label_smoothing {NUMBER} from 0 to 0.5"),
        (PLAN, {"mixup": -0.2}, f"mixup {NUMBER} from 0 to 10"),
        (PLAN, {"clip": float("nan")}, f"clip {NUMBER} from 0 on, and nan is not"),
        (PLAN, {"ema": 1.5}, f"ema {NUMBER} from 0 to 0.99999, and 1.5 is not"),
        (PLAN, {"interpolate": 0.5}, "interpolate must be True or False"),
        (PLAN, {"pull": -1}, f"pull {NUMBER} from 0 to 100"),
        (Lora(rank=2, alpha=2.0, dropout=0.0, targets=("qkv",)), {"rank": 0}, "Lora: rank .* 0 is not"),
        (Lora(rank=2, alpha=2.0, dropout=0.0, targets=("qkv",)), {"alpha": 0.0}, "Lora: alpha .* 0 is not"),
        (Lora(rank=2, alpha=2.0, dropout=0.0, targets=("qkv",)), {"dropout": 1.0}, "Lora: dropout .* 1 is not"),
        (Lora(rank=2, alpha=2.0, dropout=0.0, targets=("qkv",)), {"targets": "qkv"}, "Lora: targets .* 'qkv'"),
        (Adapters(reduction=2, blocks=("b",)), {"reduction": 0}, "Adapters: reduction .* 0 is not"),
        (Adapters(reduction=2, blocks=("b",)), {"blocks": ()}, "Adapters: blocks must be a tuple of module paths"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_stand_there_is_named(good, settings, message):
    with pytest.raises(RequestError, match=message):
        replace(good, **settings)


def test_numbers_of_numpy_are_numbers():
    thaw = Thaw(np.int64(2), "norm", np.float32(1e-3))
    phase = Phase(name="p", epochs=np.int64(2), thaw=(thaw,), head_rate=np.float64(1.0))
    assert Plan(strategy="own", phases=(phase,), batch_size=np.int32(4)).boundary(5) == 2


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(2, np.int64), "3 inputs have 2 labels: give each its own"),
        (np.zeros(4, np.int64), "3 inputs have 4 labels"),
        (np.array([0, 1, -1]), "y holds -1: number the classes from 0 on"),
        (np.zeros(3), r"an int64 array \(rows,\) of class indices, and float64 \(3,\) is none"),
        (np.zeros((3, 2), np.int64), r"int64 \(3, 2\) is none"),
        (["a", "b", "a"], "list is none: number the classes"),
    ],
)
def test_every_row_has_the_index_of_a_class(y, message):
    inputs = TextInputs([np.array([1, 2])] * 3, np.arange(3, dtype=np.uint64), 0, 0, None)
    with pytest.raises(RequestError, match=f"^Rows: .*{message}"):
        Rows(inputs, y)
    assert len(Rows(inputs, np.array([0, 1, 0], np.int64)).y) == 3
