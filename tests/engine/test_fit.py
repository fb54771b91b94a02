"""The laws of the loop: what is frozen stays, what is best is taken, and what goes wrong is named."""

import uuid
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from unfreeze.engine import judging
from unfreeze.engine.prefix import PlainPrefix
from unfreeze.engine.schedule import rate_factor
from unfreeze.engine.state import Weights, trainable
from unfreeze.engine.stepping import Stepper
from unfreeze.engine.trainable import stage_of_parameters
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.evaluate.calibration import fit_temperature
from unfreeze.heads.weights import row_log_loss
from unfreeze.plan import Phase, Plan, Thaw

# A GPU's, and a processor's.
REFUSALS = (torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"))


def two_phases(**settings):
    return Plan(
        strategy="own",
        phases=(
            Phase(name="a", epochs=2, thaw=(Thaw(2, "weights", 0.01),), head_rate=0.02),
            Phase(name="b", epochs=1, thaw=(Thaw(1, "weights", 0.003), Thaw(2, "weights", 0.005))),
        ),
        **({"batch_size": 8} | settings),
    )


def test_frozen_weights_and_statistics_are_the_same_to_the_bit_and_the_loss_falls(t, kind):
    backbone, task = t.toy(kind), t.task_of(kind)
    owner, before = stage_of_parameters(backbone), t.tensors_of(backbone)
    result, _ = t.run(t.plan_of(backbone, freeze=2, epochs=8, rate=0.05), backbone, task)
    for name, tensor in backbone.module.state_dict().items():
        frozen = owner[name] < 2 or "running" in name or "batches" in name
        assert torch.equal(tensor, before[name]) == frozen, name
    assert result.history[-1].train_loss < 0.9 * result.history[0].train_loss
    assert result.ledger[0].frozen_unchanged
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert not any(module.training for module in backbone.module.modules())


class Tabled(nn.Module):
    """A block behind which something is added: what it makes of a weight for evaluation it keeps until it trains."""

    def __init__(self, block):
        super().__init__()
        self.block, self.weight, self.kept = block, nn.Parameter(torch.zeros(8)), None

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.kept = None
        return self

    def forward(self, h, mask=None):
        if self.training:
            return self.block(h) + 2 * self.weight
        if self.kept is None:
            self.kept = (2 * self.weight).detach()
        return self.block(h) + self.kept


def test_weights_are_judged_and_given_back_by_what_is_made_of_them_and_not_of_earlier_ones(t, monkeypatch):
    backbone, stale = t.toy("vit"), []
    block = backbone.module.block2 = Tabled(backbone.module.block2)

    def is_stale(*, run):
        with torch.no_grad():
            run()
        return not torch.equal(block.kept, 2 * block.weight)

    def checked(*given, **settings):
        found = []
        stale.append(is_stale(run=lambda: found.append(judging.score(*given, **settings))))
        return found[0]

    monkeypatch.setattr("unfreeze.engine.fit.score", checked)
    task = t.task_of("vit")
    t.run(t.plan_of(backbone, freeze=1, rate=0.05, ema=0.5), backbone, task)
    assert block.weight.abs().max() > 0
    assert stale == [False] * 3
    assert not is_stale(run=lambda: backbone.run(task.val.inputs.batch(np.arange(4), None)))


def test_what_moves_although_it_is_frozen_ends_the_training(t):
    backbone = t.toy("cnn")
    norm = backbone.module.block1.norm

    def moved(*_):
        norm.running_mean += 1e-3

    norm.register_forward_hook(moved)
    with pytest.raises(UnfreezeError, match="has changed weights or statistics of"):
        t.run(t.plan_of(backbone, freeze=2, epochs=1), backbone, t.task_of("cnn"))


def test_trained_norms_move_the_statistics_of_thawed_stages_only(t):
    backbone = t.toy("cnn")
    before = t.tensors_of(backbone)
    result, _ = t.run(t.plan_of(backbone, freeze=2, phase={"norm": "train"}), backbone, t.task_of("cnn"))
    for name, tensor in backbone.module.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("block2")), name
    assert result.ledger[0].frozen_unchanged
    assert set(result.ledger[0].change) == {"block2", "head"}


def test_the_optimizer_holds_the_declared_rates_at_every_step(t, kind, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def note(self, *arguments):
        seen.append({id(p): group["lr"] for group in self.param_groups for p in group["params"]})
        assert len(seen[-1]) == sum(len(group["params"]) for group in self.param_groups)
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    backbone, plan = t.toy(kind), two_phases()
    _, head = t.run(plan, backbone, t.task_of(kind))
    owner = stage_of_parameters(backbone)
    assert len(seen) == 15
    for number, rates in enumerate(seen):
        phase, done, steps = (plan.phases[0], number, 10) if number < 10 else (plan.phases[1], number - 10, 5)
        factor = rate_factor(phase, done, steps)
        peaks = {thaw.stage: thaw.rate for thaw in phase.thaw}
        wanted = {
            id(p): peaks[owner[n]] * factor
            for n, p in backbone.module.named_parameters()
            if owner[n] in peaks
        }
        assert rates == wanted | {id(p): phase.head_rate * factor for p in head.parameters()}


def judged(backbone, head, task):
    """Calibrated log-loss on the 24 validation rows."""
    with torch.no_grad():
        logits = head(backbone.run(task.val.inputs.batch(np.arange(24), None)).h).numpy()
    return float(row_log_loss(logits / fit_temperature(logits, task.val.y), task.val.y).mean())


def scripted(monkeypatch, means, *, spread=0.01):
    """Scores that validation seems to give: the start's first, then each epoch's; rows differ by ``spread``."""
    noise = np.random.default_rng(0).normal(size=(len(means), 24))
    noise -= noise.mean(axis=1, keepdims=True)
    given = iter([judging.Judged(mean + spread * row, 0.5) for mean, row in zip(means, noise, strict=True)])
    monkeypatch.setattr("unfreeze.engine.fit.score", lambda *_, **__: next(given))


def test_the_last_weights_are_taken_when_the_best_are_so_by_chance(t, kind, monkeypatch):
    scripted(monkeypatch, [0.5, 0.4, 0.3, 0.31], spread=0.5)
    backbone, task = t.toy(kind), t.task_of(kind)
    plan = t.plan_of(backbone, epochs=3, rate=0.01)
    result, head = t.run(plan, backbone, task)
    assert (result.taken, result.kept.name) == ("only, epoch 3", "best")
    assert result.kept.judged.log_loss == pytest.approx(0.3)
    taken = t.tensors_of(backbone, head)
    Weights(plan, backbone, head).load(result.kept.tensors)
    assert not t.same(taken, t.tensors_of(backbone, head))


def test_the_best_weights_are_taken_when_they_are_better_beyond_chance(t, kind, monkeypatch):
    scripted(monkeypatch, [0.5, 0.3, 0.4, 0.45])
    backbone, task = t.toy(kind), t.task_of(kind)
    plan = t.plan_of(backbone, epochs=3, rate=0.01)
    result, head = t.run(plan, backbone, task)
    assert (result.taken, result.kept.name) == ("only, epoch 1", "last")
    taken = t.tensors_of(backbone, head)
    again, task = t.toy(kind), t.task_of(kind)
    scripted(monkeypatch, [0.5, 0.4, 0.3, 0.2])
    other, other_head = t.run(plan, again, task)
    assert (other.taken, other.kept) == ("only, epoch 3", None)
    # What was kept here is what the other took.
    Weights(plan, backbone, head).load(result.kept.tensors)
    assert t.same(t.tensors_of(backbone, head), t.tensors_of(again, other_head))
    assert not t.same(taken, t.tensors_of(again, other_head))


@pytest.mark.parametrize(
    ("means", "taken"), [([0.3, 0.31, 0.31], "start"), ([0.5, 0.3, 0.31], "only, epoch 1")]
)
def test_the_best_weights_are_taken_when_the_training_went_wrong(t, monkeypatch, means, taken):
    scripted(monkeypatch, means, spread=0.5)
    take = Stepper.take
    seen = []

    def growing(self, *arguments, **settings):
        seen.append(take(self, *arguments, **settings) + len(seen))
        return seen[-1]

    monkeypatch.setattr(Stepper, "take", growing)
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    result, _ = t.run(t.plan_of(backbone, epochs=2, rate=0.01), backbone, task)
    assert (result.taken, result.kept.name) == (taken, "last")


@pytest.mark.parametrize("settings", [{"label_smoothing": 0.3}, {"mixup": 1.0}], ids=str)
def test_a_loss_of_varied_rows_and_smoothed_labels_is_not_taken_for_a_training_that_went_wrong(
    t, monkeypatch, settings
):
    # The start is a little better than every epoch, by far less than the noise.
    scripted(monkeypatch, [0.30] + [0.31] * 12, spread=0.5)
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    result, _ = t.run(t.plan_of(backbone, epochs=12, rate=0.01, **settings), backbone, task)
    losses = [record.train_loss for record in result.history]
    assert 0.30 < losses[-1] < losses[0]
    assert (result.taken, result.kept.name) == ("only, epoch 12", "best")


@pytest.mark.parametrize("shift", [-0.1, 0.0, 0.05, 0.1, 0.15, 0.3])
@pytest.mark.parametrize("looks", [1, 5, 40])
def test_worse_is_what_a_paired_test_of_so_many_looks_says(shift, looks):
    random = np.random.default_rng(1)
    best = random.exponential(0.4, size=60)
    last = best + random.normal(shift, 0.3, size=60)
    found = stats.ttest_rel(last, best, alternative="greater").pvalue < judging.LEVEL / looks
    assert judging.is_worse(last, best, looks=looks) == found


def test_losses_that_tell_nothing_speak_against_the_last():
    assert judging.is_worse(np.array([0.1]), np.array([0.2]), looks=3)
    assert judging.is_worse(np.array([0.1, np.inf]), np.array([0.2, 0.3]), looks=3)
    same = np.array([0.2, 0.3])
    assert not judging.is_worse(same, same, looks=3)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_what_is_taken_is_worth_what_was_measured(t, kind, ema):
    backbone, task = t.toy(kind), t.task_of(kind)
    plan = t.plan_of(backbone, epochs=5, rate=0.1, ema=ema)
    result, head = t.run(plan, backbone, task)
    losses = {f"only, epoch {one.epoch + 1}": one.val_log_loss for one in result.history}
    assert judged(backbone, head, task) == pytest.approx(losses[result.taken], abs=1e-5)
    if result.kept is not None:
        Weights(plan, backbone, head).load(result.kept.tensors)
        assert judged(backbone, head, task) == pytest.approx(result.kept.judged.log_loss, abs=1e-5)


def test_a_collapse_never_replaces_the_start(t):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    _, head = t.run(t.plan_of(backbone, epochs=4, rate=0.02), backbone, task)
    before = t.tensors_of(backbone, head)
    result, _ = t.run(t.plan_of(backbone, epochs=2, rate=0.1), backbone, t.misled(task), head=head)
    assert result.taken == "start"
    assert t.same(before, t.tensors_of(backbone, head))


def test_without_validation_the_last_weights_are_taken_or_their_average(t):
    results = {}
    for ema in (None, 0.9):
        backbone = t.toy("vit")
        result, head = t.run(t.plan_of(backbone, ema=ema), backbone, t.task_of("vit", val=0))
        assert result.taken == "only, epoch 2"
        results[ema] = t.tensors_of(backbone, head)
    assert not t.same(results[None], results[0.9])


def test_the_average_follows_its_formula(t, monkeypatch):
    trail = []
    average = Stepper._average

    def note(self):
        average(self)
        live = self.groups[0].parameters[0]
        trail.append((live[1].detach().clone(), self.standing.ema[live[0]].clone()))

    monkeypatch.setattr(Stepper, "_average", note)
    backbone = t.toy("vit")
    wanted = backbone.module.block1.qkv.weight.detach().clone()
    t.run(t.plan_of(backbone, ema=0.4), backbone, t.task_of("vit"))
    for done, (live, found) in enumerate(trail):
        decay = min(0.4, (1 + done) / (10 + done))
        if live.shape == wanted.shape:
            wanted = decay * wanted + (1 - decay) * live
            assert torch.allclose(found, wanted, atol=1e-6)
    assert len(trail) == 10
    assert live.shape == wanted.shape


def without_dropout(backbone):
    for module in backbone.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return backbone


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_a_batch_in_parts_gives_the_same_step(t, kind, monkeypatch, mixup):
    mixup = 0.0 if kind == "text" else mixup
    # The first batch of the texts has two rows, which can be cut once.
    often = 1 if kind == "text" else 2
    gradients = Stepper._gradients
    weight = np.array([1.0, 3.0], dtype=np.float32)
    results = []
    for fails in (0, often):
        backbone, calls, first = without_dropout(t.toy(kind)), [], {}
        run = backbone.run

        def scarce(state, start=0, stop=None, run=run, calls=calls, fails=fails):
            if torch.is_grad_enabled():
                calls.append(len(state.h))
                if len(calls) <= fails:
                    raise REFUSALS[len(calls) % 2]
            return run(state, start, stop)

        def note(self, state, rows, parts, first=first):
            loss = gradients(self, state, rows, parts)
            for name, parameter in trainable(self.groups).items() if not first else ():
                first[name] = parameter.grad.clone()
            return loss

        monkeypatch.setattr(backbone, "run", scarce)
        monkeypatch.setattr(Stepper, "_gradients", note)
        # 38 rows in batches of 12 leave two rows, fewer than parts.
        plan = t.plan_of(backbone, epochs=1, rate=1e-3, batch_size=12, mixup=mixup, pull=0.1)
        result, _ = t.run(plan, backbone, t.task_of(kind, class_weight=weight))
        results.append((result.history[0].train_loss, first))
        # What ran is no larger than a part, and a small batch is not cut into parts without rows.
        assert max(calls[fails:]) == 12 // 2**fails
        assert min(calls) == (2 if fails == 0 else 1)
    (one, first), (two, second) = results
    assert one == pytest.approx(two, rel=1e-3)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        assert torch.allclose(gradient, second[name], rtol=1e-3, atol=1e-5), name


def test_one_row_too_large_for_memory_is_an_error(t, monkeypatch):
    backbone = t.toy("cnn")
    run = backbone.run

    def never(state, start=0, stop=None):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", never)
    with pytest.raises(UnfreezeError, match="One row alone does not fit"):
        t.run(t.plan_of(backbone), backbone, t.task_of("cnn"))


@pytest.mark.parametrize("val", [24, 0])
def test_a_loss_that_is_not_finite_stops_and_names_its_place(t, monkeypatch, val):
    backbone, task = t.toy("cnn"), t.task_of("cnn", val=val)
    steps, good = [], {}
    gradients = Stepper._gradients

    def broken(self, state, rows, parts):
        loss = gradients(self, state, rows, parts)
        steps.append(rows)
        if len(steps) == 8:
            good.update(t.tensors_of(backbone))
            for _, parameter in self.groups[0].parameters:
                parameter.grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(Stepper, "_gradients", broken)
    with pytest.raises(UnfreezeError, match="phase 'only', epoch 2, step 3") as caught:
        t.run(t.plan_of(backbone), backbone, task)
    assert ", ".join(str(row) for row in steps[7]) in str(caught.value)
    assert all(torch.isfinite(tensor).all() for tensor in t.tensors_of(backbone).values())
    if not val:
        assert t.same(good, t.tensors_of(backbone))


def test_no_training_rows_is_an_error(t, kind):
    backbone = t.toy(kind)
    with pytest.raises(UnfreezeError, match="no training steps"):
        t.run(t.plan_of(backbone), backbone, t.task_of(kind, train=0))


def test_a_phase_ends_early_and_hands_on_its_best_weights(t):
    backbone = t.toy("cnn")
    plan = two_phases()
    first = replace(plan.phases[0], epochs=9, patience=2, thaw=(Thaw(2, "weights", 0.1),), head_rate=1.0)
    result, _ = t.run(replace(plan, phases=(first, plan.phases[1])), backbone, t.task_of("cnn"))
    epochs = [record for record in result.history if record.phase == "a"]
    assert 2 <= len(epochs) < 9
    assert [record.epoch for record in result.history if record.phase == "b"] == [0]


def test_the_pull_keeps_weights_near_their_start(t):
    distances = []
    for pull in (0.0, 100.0):
        backbone = t.toy("vit")
        before = t.tensors_of(backbone)
        t.run(t.plan_of(backbone, epochs=2, rate=0.003, pull=pull), backbone, t.task_of("vit", val=0))
        after = t.tensors_of(backbone)
        distances.append(sum(float((after[n] - before[n]).square().sum()) for n in before))
    assert distances[1] < 0.3 * distances[0]


def test_the_best_mix_of_start_and_trained_weights_is_taken(t, monkeypatch):
    scores = []

    def note(*arguments, **settings):
        found = score(*arguments, **settings)
        scores.append(found.log_loss)
        return found

    score = judging.score
    monkeypatch.setattr(judging, "score", note)
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    plan = t.plan_of(backbone, epochs=2, rate=0.05, interpolate=True)
    result, head = t.run(plan, backbone, task)
    assert len(scores) == 4
    assert result.mix == (1.0, *judging.MIXES)[int(np.argmin(scores))]
    loss = score(
        backbone, head, task, t.maker(backbone, task).make(plan.phases[0], 1, rounds=1), batch_size=8
    )
    assert loss.log_loss == pytest.approx(min(scores), abs=1e-6)
    start, trained = {"a": torch.zeros(2), "n": torch.tensor(1)}, {"a": torch.ones(2), "n": torch.tensor(9)}
    mixed = judging.interpolate(start, trained, 0.25)
    assert (mixed["a"].tolist(), int(mixed["n"])) == ([0.25, 0.25], 9)


def test_a_share_of_a_low_rank_update_is_that_share_of_the_product():
    first, last = "qkv.lora_A.default.weight", "qkv.lora_B.default.weight"
    start = {first: torch.randn(2, 8), last: torch.zeros(6, 2)}
    trained = {first: torch.randn(2, 8), last: torch.randn(6, 2)}
    mixed = judging.interpolate(start, trained, 0.25)
    assert torch.allclose(mixed[last] @ mixed[first], 0.25 * trained[last] @ trained[first])


def test_norms_of_a_head_need_two_rows_in_a_batch(t):
    backbone = t.toy("cnn")
    head = nn.Sequential(nn.BatchNorm1d(backbone.dim), t.head_of(backbone))
    plan = t.plan_of(backbone, freeze=2, epochs=1, batch_size=1)
    with pytest.raises(UnfreezeError, match="batches of one row have none"):
        t.run(plan, backbone, t.task_of("cnn"), head=head)


def test_an_out_of_memory_batch_counts_once_for_the_norms_of_a_head(t, monkeypatch):
    backbone = t.toy("cnn")
    head, run, failed = nn.Sequential(nn.BatchNorm1d(backbone.dim), t.head_of(backbone)), backbone.run, []

    def scarce(state, start=0, stop=None):
        # The second part of a batch that was cut: the head has seen the first.
        if torch.is_grad_enabled() and len(state.h) == 6 and not failed.append(0) and len(failed) == 2:
            raise REFUSALS[0]
        if torch.is_grad_enabled() and len(state.h) == 12:
            raise REFUSALS[0]
        return run(state, start, stop)

    monkeypatch.setattr(backbone, "run", scarce)
    plan = t.plan_of(backbone, freeze=2, epochs=1, batch_size=12)
    t.run(plan, backbone, t.task_of("cnn", train=12), head=head)
    # Four parts of the one batch, and nothing of the parts that did not count.
    assert int(head[0].num_batches_tracked) == 4


def test_validation_weighs_rows_as_training_does():
    """Three rows of each class; the second counts four times as much."""
    logits = np.array([[2.0, 0], [1, 0], [0, 1], [0, 0.5], [1, 0], [0, 3]], dtype=np.float32)
    y = np.array([0, 0, 0, 1, 1, 1])
    plain = judging._judged(logits, y, None)
    weighed = judging._judged(logits, y, np.array([0.5, 2.0], dtype=np.float32))
    weight = np.repeat([0.5, 2.0], 3)
    assert weighed.log_loss == pytest.approx((plain.losses * weight).sum() / weight.sum())
    assert weighed.accuracy == plain.accuracy
    even = judging._judged(logits, y, np.array([3.0, 3.0], dtype=np.float32))
    assert even.losses == pytest.approx(plain.losses)


def test_class_weights_reach_validation(t):
    losses = []
    for weight in (None, np.array([0.1, 5.0], dtype=np.float32)):
        backbone, task = t.toy("cnn"), t.task_of("cnn", class_weight=weight)
        prefix = t.maker(backbone, task).make(t.plan_of(backbone).phases[0], 1, rounds=1)
        head = t.head_of(backbone)
        with torch.no_grad():
            head.weight[0] += 1
        losses.append(judging.score(backbone, head, task, prefix, batch_size=8))
    assert losses[0].accuracy == losses[1].accuracy
    assert losses[0].log_loss != pytest.approx(losses[1].log_loss, rel=1e-3)


def test_a_stored_prefix_trains_to_the_same_weights(t, kind, tmp_path):
    results = []
    for use in ("off", "on"):
        backbone, task = t.toy(kind), t.task_of(kind)
        prefix = t.maker(backbone, task, tmp_path, use=use)
        result, head = t.run(t.plan_of(backbone, freeze=2, rate=1e-3), backbone, task, prefix=prefix)
        results.append((result.history[-1].train_loss, t.tensors_of(backbone, head)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"mixup": 0.2}, {"augment": "light"}])
def test_texts_cannot_be_varied_as_pictures_are(t, settings):
    backbone = t.toy("text")
    with pytest.raises(RequestError, match="texts"):
        t.run(t.plan_of(backbone, **settings), backbone, t.task_of("text"))


class Adapted(torch.nn.Module):
    """A block with a bottleneck behind it, which is run or forgotten."""

    def __init__(self, block, *, used):
        super().__init__()
        self.base_layer, self.adapter, self.used = block, torch.nn.Linear(8, 8), used

    def forward(self, h, mask=None):
        h = self.base_layer(h, mask)
        return h + self.adapter(h) if self.used else h


@pytest.mark.parametrize("used", [True, False])
def test_a_graft_that_the_forward_pass_goes_around_is_an_error(t, used):
    backbone = t.toy("vit")
    backbone.module.block2 = Adapted(backbone.module.block2, used=used)
    before = t.tensors_of(backbone)
    phase = Phase(name="g", epochs=1, thaw=(Thaw(2, "graft", 0.01),), head_rate=0.02)
    plan = Plan(strategy="own", phases=(phase,), batch_size=8)
    if not used:
        with pytest.raises(
            UnfreezeError, match=r"'block2.adapter.weight' is not used by the network's forward"
        ):
            t.run(plan, backbone, t.task_of("vit", val=0))
        return
    t.run(plan, backbone, t.task_of("vit", val=0))
    moved = {
        name for name, tensor in backbone.module.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert moved == {"block2.adapter.weight", "block2.adapter.bias"}


def test_every_step_of_every_phase_draws_its_own_chance_and_a_second_run_the_same(t, monkeypatch):
    trails = []
    for _ in range(2):
        backbone, trail = t.toy("vit"), []
        run = backbone.run

        def note(state, start=0, stop=None, run=run, trail=trail):
            if torch.is_grad_enabled():
                trail.append(torch.get_rng_state().numpy().tobytes())
            return run(state, start, stop)

        monkeypatch.setattr(backbone, "run", note)
        # What others draw before must not matter, nor may a step disturb it.
        torch.manual_seed(len(trails))
        head, chance = t.head_of(backbone), torch.get_rng_state()
        t.run(two_phases(), backbone, t.task_of("vit"), head=head)
        assert torch.equal(torch.get_rng_state(), chance)
        trails.append(trail)
    assert len(set(trails[0])) == len(trails[0]) == 15
    assert trails[0] == trails[1]


def test_a_prefix_that_an_earlier_phase_trained_is_stored_as_it_is_then(t, kind, tmp_path):
    found = []
    for use in ("off", "on"):
        backbone = t.toy(kind)
        last = len(backbone.stages) - 2
        everything = t.plan_of(backbone, freeze=0, epochs=1, rate=0.05)
        top = Phase(name="top", epochs=2, thaw=(Thaw(last, "weights", 0.01),), head_rate=0.01)
        plan = replace(everything, phases=(*everything.phases, top))
        prefix = t.maker(backbone, task := t.task_of(kind, val=0), tmp_path, use=use)
        result, _ = t.run(plan, backbone, task, prefix=prefix)
        found.append([record.train_loss for record in result.history])
        assert all(moved > 0.01 for moved in result.ledger[1].drift.values())
    # A stale store would give the losses of the features that the network had before the first phase.
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize("problem", ["budget", "disk"])
def test_a_store_that_cannot_be_made_changes_nothing_and_is_told(t, tmp_path, monkeypatch, problem):
    found, told = [], []

    class Telling:
        def say(self, sentence):
            told.append(sentence)

        def count(self, what, done, total):
            pass

    for use in ("off", "on"):
        backbone, task = t.toy("cnn"), t.task_of("cnn")
        budget = 1000 if problem == "budget" else 10**9
        if problem == "disk" and use == "on":
            # A file of a device that is always full takes the place of the one that is filled.
            name = uuid.uuid4()
            monkeypatch.setattr("unfreeze.engine.shelf.uuid.uuid4", lambda name=name: name)
            (tmp_path / f"prefix-{name.hex}").mkdir()
            (tmp_path / f"prefix-{name.hex}" / "train0-2-0").symlink_to("/dev/full")
        prefix = t.maker(backbone, task, tmp_path, use=use, budget=budget)
        _, head = t.run(t.plan_of(backbone, freeze=2), backbone, task, prefix=prefix, progress=Telling())
        found.append(t.tensors_of(backbone, head))
    assert t.same(*found)
    reason = "more than --store-budget" if problem == "budget" else "No space left on device"
    assert [reason in sentence for sentence in told].count(True) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["cnn", "text"])
def test_validation_rows_are_scored_as_one_by_one_and_texts_beside_others_of_their_length(t, kind):
    backbone, task = t.toy(kind), t.task_of(kind)
    head = t.head_of(backbone)
    prefix = PlainPrefix(backbone, task, 0, "")
    shapes = []
    read = task.val.inputs.batch
    rows = []

    def batches(chosen, size):
        rows.extend(chosen.tolist())
        for start in range(0, len(chosen), size):
            state = read(chosen[start : start + size], None)
            shapes.append(state.h.numel())
            yield state

    prefix.val_batches = batches
    judged = judging.score(backbone, head, task, prefix, batch_size=4)
    with torch.no_grad():
        alone = [head(backbone.run(read(np.array([row]), None)).h)[0] for row in range(len(task.val.y))]
    logits = torch.stack(alone).numpy()
    wanted = judging._judged(logits, task.val.y, task.class_weight)
    assert judged.accuracy == wanted.accuracy
    assert np.allclose(judged.losses, wanted.losses, atol=1e-5)
    assert sorted(rows) == list(range(len(rows)))
    assert (rows == sorted(rows)) == (kind == "cnn")
    as_they_come = [read(np.arange(s, min(s + 4, len(rows))), None).h.numel() for s in range(0, len(rows), 4)]
    assert sum(shapes) < sum(as_they_come) or kind == "cnn"
