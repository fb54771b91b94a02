"""Each strategy's plan is valid for each family, trains a toy, and says what cannot be."""

from dataclasses import replace

import pytest

from unfreeze.config import GRAFTING, MOST_RATE, ON_CLASSES, THAWING
from unfreeze.errors import RequestError
from unfreeze.strategies import STRATEGIES, discriminative, full, gradual, partial, scratch
from unfreeze.strategies.settings import BACKBONE_RATE, StrategySettings

# Those that thaw the network's own weights, with its head: what all of them hold to.
PLANS = {name: plan for name, plan in STRATEGIES.items() if name in ON_CLASSES and name not in GRAFTING}
SETTINGS = StrategySettings(rows=1000, classes=2)
every = pytest.mark.parametrize("name", PLANS)


@every
@pytest.mark.parametrize("kind", ["cnn", "vit", "text"])
def test_every_strategy_lowers_the_loss_of_a_toy(t, name, kind):
    backbone = t.toy(kind)
    plan = PLANS[name](backbone, replace(SETTINGS, epochs=4, rate=5e-3, batch_size=8))
    result, _ = t.run(replace(plan, augment="none"), backbone, t.task_of(kind))
    assert min(record.train_loss for record in result.history) < 0.69
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert all(record.frozen_unchanged for record in result.ledger)


def test_every_strategy_that_thaws_has_a_plan():
    assert set(STRATEGIES) == set(THAWING)


def plan_or_refusal(name, backbone):
    """The plan, or None where the strategy is refused in a sentence that names the network and what to use instead."""
    try:
        plan = STRATEGIES[name](backbone, SETTINGS)
    except RequestError as problem:
        refusal = str(problem)
    else:
        check_plan(plan, name, backbone)
        return plan
    assert backbone.name in refusal
    assert "use --strategy" in refusal
    return None


def check_plan(plan, name, backbone):
    assert plan.strategy == name
    assert all(0 <= thaw.stage < len(backbone.stages) for phase in plan.phases for thaw in phase.thaw)
    assert plan.augment == ("none" if backbone.modality == "text" else "light")


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", BACKBONE_RATE)
def test_every_plan_holds_for_every_family(t, name, family):
    for kind in ("text",) if family in ("encoder", "decoder") else ("cnn", "vit"):
        backbone = t.toy(kind)
        backbone.family = family
        plan = plan_or_refusal(name, backbone)
        assert plan is not None or name not in PLANS
    one = t.toy("vit")
    one.names, one.family = ("pool",), family
    plan = plan_or_refusal(name, one)
    assert name not in PLANS if plan is None else plan.phases[-1].thaw[0].stage == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_a_plan_for_some_network(t, name):
    assert any(plan_or_refusal(name, t.toy(kind)) for kind in t.KINDS)


@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize("kind", ["cnn", "vit", "text"])
def test_gradual_moves_the_boundary_toward_the_input(t, kind, rows):
    backbone = t.toy(kind)
    plan = gradual.plan(backbone, replace(SETTINGS, rows=rows))
    bounds = [phase.boundary(len(backbone.stages)) for phase in plan.phases]
    assert bounds == sorted(set(bounds), reverse=True)
    assert bounds[0] == len(backbone.stages)
    assert (bounds[-1] == 0) == (rows == 1000)
    assert all(phase.patience for phase in plan.phases)
    rates = [phase.thaw[0].rate for phase in plan.phases[1:]]
    assert rates == sorted(rates, reverse=True)


def deep(t, stages):
    parts = {f"block{number}": t.Conv(3, 3) for number in range(stages - 1)} | {"pool": t.nn.Identity()}
    return t.Toy("cnn", t.Net(parts), tuple(parts), "resnet", "image", 3)


@pytest.mark.parametrize(
    ("rows", "said", "counts"),
    [
        (100, 20, [3, 9, 8]),
        (100, 3, [1, 1, 1]),
        (100, 1, [1, 1, 1]),
        (1000, 22, [2, 5, 5, 10]),
        (1000, 11, [1, 2, 3, 5]),
        (1000, None, [3, 7, 7, 14]),
    ],
)
def test_gradual_shares_out_the_epochs_that_were_said(t, rows, said, counts):
    plan = gradual.plan(deep(t, 9), replace(SETTINGS, rows=rows, epochs=said))
    assert [phase.epochs for phase in plan.phases] == counts


# Six stages are those of a ResNet, ConvNeXt or Swin, nine EfficientNet-Lite0's, fourteen those of a ViT of 12 blocks.
@pytest.mark.parametrize(("stages", "first"), [(2, []), (4, []), (5, []), (6, [3]), (9, [6]), (14, [9])])
def test_the_last_third_is_more_than_the_last_stage(t, stages, first):
    plan = gradual.plan(deep(t, stages), SETTINGS)
    assert [phase.boundary(stages) for phase in plan.phases if phase.name == "last-third"] == first


@pytest.mark.parametrize(
    ("rate", "head_rates"),
    [(2e-5, [2e-4, 6e-4, 2e-4]), (3e-4, [1e-3] * 3), (1e-2, [1e-2, 3e-2, 1e-2])],
)
def test_gradual_moves_its_fitted_head_no_faster_than_the_classic_rate_nor_slower_than_what_it_reads(
    t, rate, head_rates
):
    plan = gradual.plan(t.toy("vit"), replace(SETTINGS, rate=rate))
    assert [phase.head_rate for phase in plan.phases] == pytest.approx(head_rates)


def test_discriminative_rates_fall_toward_the_input(t):
    backbone = t.toy("vit")
    plan = discriminative.plan(backbone, replace(SETTINGS, rate=1.6e-3, layer_decay=0.5))
    rates = [thaw.rate for thaw in plan.phases[0].thaw]
    assert rates == pytest.approx([1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3])
    assert plan.phases[0].head_rate == pytest.approx(1.6e-2)
    cnn = discriminative.plan(t.toy("cnn"), replace(SETTINGS, rate=1e-3, layer_decay=0.5))
    assert [thaw.rate for thaw in cnn.phases[0].thaw] == pytest.approx([2.5e-4, 5e-4, 1e-3])
    with pytest.raises(RequestError, match="--layer-decay 0 is out of range"):
        discriminative.plan(backbone, replace(SETTINGS, layer_decay=0.0))


@pytest.mark.parametrize(
    ("family", "stages", "frozen"),
    [
        ("vit", 14, 9),
        ("encoder", 8, 5),
        ("resnet", 6, 4),
        ("convnext", 6, 4),
        ("efficientnet", 9, 6),
        ("opaque", 1, 0),
    ],
)
def test_partial_freezes_the_lower_part_by_default(t, family, stages, frozen):
    backbone = t.toy("vit")
    backbone.family, backbone.names = family, ("embed",) * stages
    assert partial.default_freeze(backbone) == frozen


@pytest.mark.parametrize("freeze", [-1, 3, 99])
def test_more_frozen_stages_than_there_are_is_refused(t, freeze):
    with pytest.raises(RequestError, match=f"--freeze {freeze} is out of range .* 0 to 2 .*0 stem, 1 block1"):
        partial.plan(t.toy("cnn"), replace(SETTINGS, freeze=freeze))
    assert partial.plan(t.toy("cnn"), replace(SETTINGS, freeze=2)).phases[0].boundary(4) == 2


def test_scratch_starts_at_random_and_learns_its_norms(t):
    plan = scratch.plan(t.toy("cnn"), SETTINGS)
    assert (plan.start, plan.head, plan.phases[0].norm) == ("random", "linear", "train")
    assert plan.phases[0].boundary(4) == 0
    assert scratch.plan(t.toy("cnn"), replace(SETTINGS, norm="freeze")).phases[0].norm == "freeze"


@every
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rate": 0.0}, "--lr 0 "), ({"rate": 10.0}, "--lr 10 "), ({"epochs": 0}, "--epochs 0")],
)
def test_a_setting_that_can_only_do_harm_is_refused(t, name, settings, message):
    with pytest.raises(RequestError, match=message):
        PLANS[name](t.toy("cnn"), replace(SETTINGS, **settings))


@every
@pytest.mark.parametrize("kind", ["cnn", "vit", "text"])
def test_the_largest_rate_that_may_be_said_gives_a_plan(t, name, kind):
    phases = PLANS[name](t.toy(kind), replace(SETTINGS, rate=MOST_RATE)).phases
    assert max(thaw.rate for phase in phases for thaw in phase.thaw) == MOST_RATE


@every
def test_what_the_user_says_holds_in_every_phase(t, name):
    given = replace(
        SETTINGS,
        schedule="constant",
        norm="train",
        patience=7,
        batch_size=5,
        pull=0.1,
        ema=0.9,
        label_smoothing=0.2,
        mixup=0.3,
        views=2,
        interpolate=True,
        augment="dihedral",
    )
    plan = PLANS[name](t.toy("cnn"), given)
    assert {(p.schedule, p.norm, p.patience) for p in plan.phases} == {("constant", "train", 7)}
    found = (
        plan.batch_size,
        plan.pull,
        plan.ema,
        plan.label_smoothing,
        plan.mixup,
        plan.views,
        plan.interpolate,
        plan.augment,
    )
    assert found == (5, 0.1, 0.9, 0.2, 0.3, 2, True, "dihedral")


@every
def test_texts_are_not_mixed(t, name):
    with pytest.raises(RequestError, match="--mixup"):
        PLANS[name](t.toy("text"), replace(SETTINGS, mixup=0.2))


@pytest.mark.parametrize(
    ("kind", "rows", "epochs"),
    [("cnn", 425, 40), ("cnn", 1574, 18), ("cnn", 9000, 15), ("text", 425, 12), ("text", 9000, 5)],
)
def test_few_rows_get_more_epochs(t, kind, rows, epochs):
    assert full.plan(t.toy(kind), replace(SETTINGS, rows=rows)).epochs == epochs
