"""From a request to its plan: nothing that was said and accepted is without effect."""

import pytest

from unfreeze.choose.settings import Decisions
from unfreeze.config import CHOICES, FLOOR, ON_PAIRS, READ_BY, STRATEGIES, TrainRequest
from unfreeze.errors import RequestError
from unfreeze.plan import Lora
from unfreeze.strategies import classic
from unfreeze.training.planning import follow_guide, idle_settings, make_plan

# For each setting a value that no strategy has by itself.
VALUES = {
    "freeze": 1,
    "layer_decay": 0.33,
    "rank": 3,
    "alpha": 5.0,
    "lora_dropout": 0.3,
    "targets": "qkv,fc1",
    "lora_blocks": 1,
    "reduction": 2,
    "epochs": 7,
    "lr": 3.3e-4,
    "schedule": "constant",
    "patience": 11,
    "bn": "train",
    "augment": "dihedral",
    "views": 5,
    "mixup": 0.3,
    "token_dropout": 0.2,
    "label_smoothing": 0.1,
    "pull_to_start": 0.2,
    "ema": 0.97,
    "interpolate": True,
}


def plan_of(backbone, **settings):
    request = TrainRequest(data="x", **settings)
    request.check()
    decisions = Decisions(request)
    return make_plan(backbone, 1000, 2, decisions), decisions


def test_every_setting_of_a_strategy_has_a_value_here():
    assert set(VALUES) == set(READ_BY)


@pytest.mark.parametrize(("name", "strategy"), [(name, s) for name, found in READ_BY.items() for s in found])
def test_every_setting_changes_the_plan_of_each_strategy_that_reads_it(t, name, strategy):
    backbone = t.toy("text" if name == "token_dropout" or strategy in ON_PAIRS else "vit")
    given = {name: VALUES[name]}
    if (name, strategy) == ("bn", "scratch"):
        given = {"bn": "freeze"}
    plain, _ = plan_of(backbone, strategy=strategy)
    changed, _ = plan_of(backbone, strategy=strategy, **given)
    assert changed != plain


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("cnn", {"strategy": "full", "views": 3, "store": "on"}, ["--views 3", "--store on"]),
        ("cnn", {"strategy": "full", "store": "off"}, []),
        ("cnn", {"strategy": "full", "store_budget": "1GB"}, ["--store-budget 1GB"]),
        ("cnn", {"strategy": "partial", "store_budget": "1GB"}, []),
        ("cnn", {"strategy": "partial", "views": 3, "store": "on"}, []),
        ("cnn", {"strategy": "partial", "views": 3, "augment": "none"}, ["--views 3"]),
        ("text", {"strategy": "partial", "views": 2}, ["--views 2"]),
        ("text", {"strategy": "partial", "views": 2, "token_dropout": 0.1}, []),
        ("vit", {"strategy": "full", "bn": "train"}, ["--bn train"]),
        ("cnn", {"strategy": "full", "bn": "train"}, []),
        ("vit", {"strategy": "full"}, []),
    ],
    ids=str,
)
def test_what_is_said_without_effect_is_told(t, kind, settings, told):
    backbone = t.toy(kind)
    plan, decisions = plan_of(backbone, **settings)
    found = idle_settings(plan, backbone, decisions.request)
    assert [sentence.partition(" changes nothing here: ")[0] for sentence in found] == told


def test_the_head_alone_has_no_use_for_a_budget_of_activations(t):
    backbone = t.toy("cnn")
    (told,) = idle_settings(None, backbone, TrainRequest(data="x", store_budget="1GB"))
    assert told.startswith("--store-budget 1GB changes nothing here: ")
    assert idle_settings(None, backbone, TrainRequest(data="x", store="on")) == []


def test_targets_are_patterns_between_commas(t):
    plan, _ = plan_of(t.toy("vit"), strategy="lora", targets=" qkv, fc1 ,", rank=4)
    paths = tuple(f"block{index}.{name}" for index in (1, 2, 3) for name in ("qkv", "fc1"))
    assert plan.graft == Lora(rank=4, alpha=4.0, dropout=0.0, targets=paths)


def test_what_holds_for_the_whole_plan_is_recorded_with_its_value(t):
    plan, decisions = plan_of(t.toy("vit"), strategy="lora", mixup=0.2)
    told = {name: (entry.value, entry.origin) for name, entry in decisions.entries.items()}
    assert told["ema"] == (plan.ema, "default")
    assert told["mixup"] == (0.2, "user")
    assert told["rank"] == (plan.graft.rank, "default")
    assert told["alpha"] == (plan.graft.alpha, "default")
    assert told["lora_dropout"] == (plan.graft.dropout, "default")
    assert told["targets"] == ("12 layers: fc1, fc2, proj, qkv", "default")
    assert told["views"] == (plan.views, "default")
    assert told["gradient_norm"] == (plan.clip, "default")
    assert told["trained_head"] == ("the one fitted on the training rows", "default")
    assert "token_dropout" not in told
    assert told["phase lora"][0]["weight decay"] == plan.phases[0].weight_decay


def test_a_new_head_is_told_apart_from_the_probe_s(t):
    plan, decisions = plan_of(t.toy("vit"), strategy="gradual", recipe="classic")
    assert plan.head == "mlp"
    assert decisions.entries["trained_head"].value == "a new mlp one"
    # The floor beside it stays what it is.
    assert decisions.text("head") == "linear"


def test_an_average_with_decay_zero_is_none(t):
    assert plan_of(t.toy("vit"), strategy="full", ema=0.0)[0].ema is None
    assert plan_of(t.toy("vit"), strategy="lora")[0].ema == 0.99
    assert plan_of(t.toy("text"), strategy="full")[0].ema is None


def test_a_plan_from_a_new_head_takes_the_kind_that_was_asked_for(t):
    assert plan_of(t.toy("vit"), strategy="scratch", head="mlp")[0].head == "mlp"
    assert plan_of(t.toy("vit"), strategy="full", head="mlp")[0].head == "fitted"


@pytest.mark.parametrize("strategy", classic.PLANS)
def test_the_classic_recipe_is_recorded_with_its_schedule_and_batch(t, strategy):
    plan, decisions = plan_of(t.toy("text"), strategy=strategy, recipe="classic")
    assert decisions.thaws
    assert plan.head == "linear"
    assert decisions.number("batch_size") == 16
    recipe = decisions.entries["recipe"]
    assert (recipe.value, recipe.origin) == ("classic", "user")
    assert ("the keys are updated too" in recipe.reason) == (strategy == "lora")
    for phase in plan.phases:
        entry = decisions.entries[f"phase {phase.name}"]
        assert (entry.value["epochs"], entry.value["head rate"]) == (phase.epochs, phase.head_rate)
        assert (entry.origin, entry.reason) == ("default", "the classic guide's schedule")


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in classic.PLANS])
def test_a_strategy_that_the_classic_guide_has_not_is_refused_by_name(t, strategy):
    with pytest.raises(RequestError, match=f"The classic guide has no {strategy}: choose another --strategy"):
        plan_of(t.toy("text"), strategy=strategy, recipe="classic")


@pytest.mark.parametrize(
    ("rows", "strategy"), [(999, "feature-extraction"), (1_000, "gradual"), (10_000, "discriminative")]
)
def test_the_classic_recipe_alone_takes_the_strategy_of_its_table(rows, strategy):
    decisions = Decisions(TrainRequest(data="x", recipe="classic"))
    follow_guide(decisions, rows)
    assert decisions.text("strategy") == strategy
    assert f"for {rows:,} rows" in decisions.entries["strategy"].reason


def test_only_the_head_alone_has_no_plan():
    for strategy in STRATEGIES:
        for recipe in CHOICES["recipe"]:
            request = TrainRequest(data="x", strategy=strategy, recipe=recipe)
            assert Decisions(request).thaws == (strategy != FLOOR or recipe == "classic")
