"""The laws that every strategy is held to, on a network with batch norms, a vision transformer and a text encoder."""

from dataclasses import replace

import pytest
import torch

from unfreeze.config import GRAFTING, ON_PAIRS
from unfreeze.engine.checkpoints import Checkpoints
from unfreeze.engine.schedule import rate_factor
from unfreeze.engine.trainable import is_graft, select, stage_of_parameters
from unfreeze.errors import RequestError, StoppedError
from unfreeze.strategies import STRATEGIES
from unfreeze.strategies.settings import StrategySettings

# Bottlenecks stand behind the blocks of a transformer, and pairs are of texts.
KINDS = {"adapters": ("vit", "text"), **dict.fromkeys(ON_PAIRS, ("text",))}
CASES = [(name, kind) for name in STRATEGIES for kind in KINDS.get(name, ("cnn", "vit", "text"))]
# 38 rows in batches of 8.
STEPS_AN_EPOCH = 5


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request):
    return request.param


def begin(t, case):
    """A fresh toy with the strategy's graft on it, and the plan."""
    name, kind = case
    backbone = t.toy(kind)
    settings = StrategySettings(rows=1000, classes=2, epochs=4, rate=5e-3, batch_size=8, augment="none")
    plan = STRATEGIES[name](backbone, settings)
    return t.attach_graft(backbone, plan.graft), plan


def declared_rates(backbone, head, phase):
    """The peak rate of every parameter that the phase declares trainable, worked out from the plan alone."""
    owner, rates = stage_of_parameters(backbone), {}
    for name, parameter in backbone.module.named_parameters():
        for thaw in phase.thaw:
            if owner[name] == thaw.stage and (thaw.what == "graft") == is_graft(name):
                rates[id(parameter)] = thaw.rate
    if phase.head_rate is None:
        return rates
    return rates | {id(parameter): phase.head_rate for parameter in head.parameters()}


def test_each_trainable_parameter_stands_in_one_group_at_its_rate_at_every_step(t, case, monkeypatch):
    seen, step = [], torch.optim.AdamW.step

    def note(self, *arguments):
        held = [(id(p), group["lr"]) for group in self.param_groups for p in group["params"]]
        assert len(held) == len(dict(held))
        seen.append(dict(held))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    backbone, plan = begin(t, case)
    # Every phase is run to its end, so that the number of its steps is known.
    plan = replace(plan, phases=tuple(replace(phase, patience=None) for phase in plan.phases))
    head = t.head_of(backbone)
    t.run(plan, backbone, t.task_of(case[1]), head=head)
    place = 0
    for phase in plan.phases:
        wanted, steps = declared_rates(backbone, head, phase), phase.epochs * STEPS_AN_EPOCH
        for done in range(steps):
            factor = rate_factor(phase, done, steps)
            assert seen[place + done] == {key: rate * factor for key, rate in wanted.items()}
        place += steps
    assert place == len(seen)


def test_what_is_frozen_keeps_its_bits_and_the_loss_falls(t, case):
    backbone, plan = begin(t, case)
    head, touched = t.head_of(backbone), set()
    for phase in plan.phases:
        rates = declared_rates(backbone, head, phase)
        touched |= {name for name, p in backbone.module.named_parameters() if id(p) in rates}
    if plan.phases[0].norm == "train":
        touched |= {name for name, _ in backbone.module.named_buffers()}
    before = t.tensors_of(backbone)
    result, _ = t.run(plan, backbone, t.task_of(case[1]), head=head)
    after = t.tensors_of(backbone)
    assert {name for name in before if not torch.equal(before[name], after[name])} <= touched
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert all(record.frozen_unchanged for record in result.ledger)


def without_dropout(backbone):
    for module in backbone.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return backbone


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_stored_and_unstored_prefix_train_to_the_same_logits(t, case, tmp_path, half):
    logits, telling = [], t.Telling()
    for use in ("off", "on"):
        backbone, plan = begin(t, case)
        task = t.task_of(case[1])
        maker = t.maker(backbone, task, tmp_path, use=use, half=half)
        _, head = t.run(plan, without_dropout(backbone), task, prefix=maker, progress=telling)
        with torch.no_grad():
            rows = torch.arange(len(task.val.y)).numpy()
            logits.append(head(backbone.run(task.val.inputs.batch(rows, None)).h))
    # At boundary 0 there is no frozen part, and nothing to store.
    frozen = any(phase.boundary(len(backbone.stages)) for phase in plan.phases)
    assert any("The frozen part is stored" in sentence for sentence in telling.told) == frozen
    # Activations in half precision keep eleven bits; twenty steps at 5e-3 carry their rounding on.
    assert torch.allclose(*logits, atol=2e-2 if half else 1e-5)


def test_stopped_and_resumed_it_trains_to_the_same_bits(t, case, tmp_path):
    def train(folder, *, stop_after=None, resume=False):
        backbone, plan = begin(t, case)
        steps = iter(range(1, 1000))
        _, head = t.run(
            plan,
            backbone,
            t.task_of(case[1]),
            checkpoints=Checkpoints(folder, {"data": "d"}),
            resume=resume,
            should_stop=lambda: next(steps) == stop_after,
        )
        return t.tensors_of(backbone, head)

    whole = train(tmp_path / "whole")
    for stop_after in (2, STEPS_AN_EPOCH, STEPS_AN_EPOCH + 3):
        with pytest.raises(StoppedError):
            train(tmp_path / str(stop_after), stop_after=stop_after)
        assert t.same(train(tmp_path / str(stop_after), resume=True), whole)


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[0] in GRAFTING])
def test_a_graft_begins_as_the_frozen_network_and_trains_nothing_else(t, name, kind):
    backbone, plan = begin(t, (name, kind))
    bare, task = t.toy(kind), t.task_of(kind)
    with torch.no_grad():
        rows = torch.arange(8).numpy()
        batch = task.train.inputs.batch(rows, None)
        assert torch.equal(backbone.run(batch).h, bare.run(batch).h)
    groups = select(backbone, t.head_of(backbone), plan.phases[0])
    names = [entry for group in groups if group.stage is not None for entry, _ in group.parameters]
    assert names
    assert all(map(is_graft, names))


def test_only_the_top_blocks_take_lora_and_leave_the_rest_to_the_store(t):
    backbone = t.toy("vit")
    settings = StrategySettings(rows=1000, classes=2)
    plan = STRATEGIES["lora"](backbone, replace(settings, lora_blocks=2, targets=("fc1",)))
    assert plan.phases[0].boundary(len(backbone.stages)) == 2
    assert plan.graft.targets == ("block2.fc1", "block3.fc1")
    with pytest.raises(RequestError, match="--lora-blocks 4 is too many: toy has 3 blocks"):
        STRATEGIES["lora"](backbone, replace(settings, lora_blocks=4))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "query",
            r"--targets query matches no layer of toy. It has: qkv \(3\), proj \(3\), fc1 \(3\), fc2 \(3\)",
        ),
        ("block2.*", r"--targets block2.\* matches layers in 1 of 3 blocks"),
    ],
)
def test_targets_that_match_nothing_or_not_everywhere_are_refused(t, pattern, message):
    settings = StrategySettings(rows=1000, classes=2, targets=(pattern,))
    with pytest.raises(RequestError, match=message):
        STRATEGIES["lora"](t.toy("vit"), settings)


def test_targets_in_some_stages_of_a_convolutional_network_are_refused(t):
    settings = StrategySettings(rows=1000, classes=2, targets=("block2.*",))
    with pytest.raises(RequestError, match=r"matches layers in 1 of 2 stages of toy: .* all stages have"):
        STRATEGIES["lora"](t.toy("cnn"), settings)


def test_adapters_on_a_convolutional_network_are_refused_by_name(t):
    with pytest.raises(RequestError, match="toy has none: use --strategy lora, partial or full"):
        STRATEGIES["adapters"](t.toy("cnn"), StrategySettings(rows=1000, classes=2))
