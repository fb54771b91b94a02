"""Several processes train as one does: the same losses and weights, whatever is lost on the way."""

import os
import signal
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from unfreeze.backbones.hf import HfBackbone, cut_stages
from unfreeze.backbones.hf_spine import find_spine
from unfreeze.engine.checkpoints import Checkpoints
from unfreeze.engine.fit import _Loop
from unfreeze.engine.phase_precision import PrecisionChoice
from unfreeze.engine.ranks import ALONE, LedError, Ranks, Sharding
from unfreeze.engine.state import Standing
from unfreeze.engine.stepping import Stepper
from unfreeze.engine.suffix import Suffix
from unfreeze.engine.summing import SharedStatistics
from unfreeze.engine.task import Fit
from unfreeze.errors import DivergedError, StoppedError, UnfreezeError
from unfreeze.plan import Phase, Plan, Thaw
from unfreeze.progress import Silent
from unfreeze.strategies import STRATEGIES
from unfreeze.strategies.settings import StrategySettings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")]

WAYS = pytest.mark.parametrize("sharding", [None, Sharding()], ids=["whole", "cut"])
CASES = [
    (name, kind)
    for name in STRATEGIES
    for kind in ("cnn", "vit", "text")
    if (name, kind) not in (("adapters", "cnn"), ("contrastive", "cnn"), ("contrastive", "vit"))
]
# How weights are cut does not ask what kind of network they belong to: each strategy has one of its kinds there.
CUT = [
    own[number % len(own)]
    for number, name in enumerate(STRATEGIES)
    for own in ([case for case in CASES if case[0] == name],)
]


def without_dropout(backbone):
    for module in backbone.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return backbone


@dataclass
class Outcome:
    """What a training came to, without what only tells how fast it was; ``answers``: logits of its training rows."""

    records: list
    taken: str
    answers: np.ndarray
    weights: dict


def outcome(t, backbone, head, task, result):
    records = [(r.phase, r.epoch, r.train_loss, r.val_log_loss, r.val_accuracy) for r in result.history]
    weights = {name: tensor.numpy() for name, tensor in t.tensors_of(backbone, head).items()}
    with torch.no_grad():
        rows = np.arange(len(task.train.y))
        answers = head(backbone.run(task.train.inputs.batch(rows, None)).h).numpy()
    return Outcome(records, result.taken, answers, weights)


def assert_close(first, second):
    """The same but for the order of sums.

    Weights are not compared: those without an influence, such as a bias of keys, have rounding as their gradient, which
    Adam makes steps of full size from.
    """
    assert [record[:2] for record in first.records] == [record[:2] for record in second.records]
    for one, other in zip(first.records, second.records, strict=True):
        for a, b in zip(one[2:], other[2:], strict=True):
            assert (a is None) == (b is None)
            assert a is None or a == pytest.approx(b, abs=1e-4)
    np.testing.assert_allclose(first.answers, second.answers, atol=1e-3)
    assert first.taken == second.taken


def assert_same(first, second):
    assert first.records == second.records
    assert first.taken == second.taken
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in second.weights)


def train(t, ranks, case, folder, *, use="off", train=38, val=24, change=None, **settings):
    name, kind = case
    backbone = t.toy(kind)
    wanted = StrategySettings(rows=1000, classes=2, epochs=4, rate=5e-3, batch_size=8, augment="none")
    plan = STRATEGIES[name](backbone, wanted)
    if change is not None:
        plan = replace(plan, **change)
    backbone = without_dropout(t.attach_graft(backbone, plan.graft))
    augment = "none" if kind == "text" else "light"
    task = t.task_of(kind, train=train, val=val, augment=augment, ranks=ranks)
    head = t.head_of(backbone)
    prefix = t.maker(backbone, task, folder / "store", use=use, phases=plan.phases, augmented=kind != "text")
    result, _ = t.run(plan, backbone, task, head=head, prefix=prefix, **settings)
    return outcome(t, backbone, head, task, result)


@pytest.mark.parametrize(
    ("case", "sharding"),
    [pytest.param(case, None, id="-".join((*case, "whole"))) for case in CASES]
    + [pytest.param(case, Sharding(), id="-".join((*case, "cut"))) for case in CUT],
)
def test_two_processes_train_as_one_does(t, together, case, sharding, tmp_path):
    alone = train(t, ALONE, case, tmp_path)
    both = together(
        2, tmp_path / "ranks", lambda ranks: train(t, replace(ranks, sharding=sharding), case, tmp_path)
    )
    assert_close(both[0], alone)
    # After the same sums both hold the same bits.
    assert_same(both[1], both[0])


@pytest.mark.parametrize("case", [("partial", "cnn"), ("gradual", "vit"), ("gradual", "text")], ids="-".join)
def test_they_share_the_work_of_the_store_and_what_is_stored(t, together, case, tmp_path):
    alone = train(t, ALONE, case, tmp_path / "alone", use="on")
    files = []

    def work(ranks):
        before = os.unlink

        def noting(path, *args, **kwargs):
            files.append(str(path))
            return before(path, *args, **kwargs)

        os.unlink = noting
        try:
            return train(t, ranks, case, tmp_path / "both", use="on"), sorted(files)
        finally:
            os.unlink = before

    both = together(2, tmp_path / "ranks", work)
    assert_close(both[0][0], alone)
    assert_same(both[1][0], both[0][0])
    removed = {name.rpartition("/")[2] for _, names in both for name in names}
    assert any(name.endswith("-0") for name in removed)
    assert any(name.endswith("-1") for name in removed)
    assert not list((tmp_path / "both" / "store").iterdir())


@WAYS
@pytest.mark.parametrize(
    "change",
    [{"mixup": 0.4}, {"ema": 0.9}, {"pull": 0.1}, {"interpolate": True}, {"label_smoothing": 0.1}],
    ids=str,
)
def test_what_a_plan_may_ask_for_is_the_same_too(t, together, change, sharding, tmp_path):
    def work(ranks):
        return train(t, ranks, ("full", "cnn"), tmp_path, change=change)

    both = together(2, tmp_path / "ranks", lambda ranks: work(replace(ranks, sharding=sharding)))
    assert_close(both[0], work(ALONE))


@WAYS
@pytest.mark.parametrize("case", [("full", "cnn"), ("scratch", "cnn"), ("contrastive", "text")], ids="-".join)
def test_there_may_be_fewer_rows_than_processes(t, together, case, sharding, tmp_path):
    # The last batch of an epoch has two rows of three processes; validation has two.
    small = {"train": 10, "val": 2}
    alone = train(t, ALONE, case, tmp_path, **small)
    three = together(
        3,
        tmp_path / "ranks",
        lambda ranks: train(t, replace(ranks, sharding=sharding), case, tmp_path, **small),
    )
    for answer in three:
        assert_close(answer, alone)


@pytest.mark.parametrize("case", [("partial", "cnn"), ("partial", "text")], ids="-".join)
def test_all_rows_together_may_be_fewer_than_processes(t, together, case, tmp_path):
    small = {"train": 2, "val": 1, "use": "on"}
    alone = train(t, ALONE, case, tmp_path / "alone", **small)
    for answer in together(
        3, tmp_path / "ranks", lambda ranks: train(t, ranks, case, tmp_path / "all", **small)
    ):
        assert_close(answer, alone)


def in_parts(monkeypatch, parts):
    """Trainings begin as those whose batches did not fit into memory; ``parts`` tells it from the process's number."""

    def standing(**settings):
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return Standing(micro_batches=parts(rank), **settings)

    monkeypatch.setattr("unfreeze.engine.fit.Standing", standing)


@pytest.mark.parametrize("case", [("full", "vit"), ("scratch", "cnn")], ids="-".join)
def test_when_one_has_cut_its_batches_alone_all_cut_them_in_the_next_phase(
    monkeypatch, t, together, case, tmp_path
):
    def work(ranks):
        return train(t, replace(ranks, sharding=Sharding()), case, tmp_path)

    in_parts(monkeypatch, lambda rank: 2)
    alike = together(2, tmp_path / "ranks", work)
    in_parts(monkeypatch, lambda rank: 1 + rank)
    assert_same(together(2, tmp_path / "ranks", work)[0], alike[0])


def test_pairs_of_a_training_that_was_cut_alone_are_those_of_the_whole_batch(
    monkeypatch, t, together, tmp_path
):
    case = ("contrastive", "text")
    alone = train(t, ALONE, case, tmp_path)
    in_parts(monkeypatch, lambda rank: 2)
    for answer in together(2, tmp_path / "ranks", lambda ranks: train(t, ranks, case, tmp_path)):
        assert_close(answer, alone)


def test_the_row_that_fills_up_counts_in_no_statistic(monkeypatch, t, together, tmp_path):
    def work(ranks):
        return train(t, ranks, ("scratch", "cnn"), tmp_path, train=33)

    def filled_up_otherwise(ranks, rows):
        share = ranks.share(len(rows))
        lacking = -(-len(rows) // ranks.count) - (share.stop - share.start)
        return np.concatenate([rows[share], rows[len(rows) - lacking :]])

    in_parts(monkeypatch, lambda rank: 2)
    first = together(3, tmp_path / "ranks", work)
    monkeypatch.setattr(Ranks, "loaded", filled_up_otherwise)
    assert_same(together(3, tmp_path / "ranks", work)[0], first[0])


def test_what_steps_cost_is_measured_without_a_graph_where_they_have_none(monkeypatch, t, together, tmp_path):
    def work(ranks):
        seen = []

        def choosing(*_, steps, **__):
            seen.append(("precision", steps))
            return PrecisionChoice("fp32")

        def timing(*args, steps):
            seen.append(("store", steps))
            return Suffix(*args, steps=steps)

        monkeypatch.setattr("unfreeze.engine.fit.choose_precision", choosing)
        monkeypatch.setattr("unfreeze.engine.storing.Suffix", timing)
        train(t, replace(ranks, sharding=Sharding()), ("partial", "cnn"), tmp_path, use="auto")
        return set(seen)

    assert together(2, tmp_path / "ranks", work) == [{("precision", 0), ("store", 0)}, set()]


@pytest.mark.parametrize(
    ("case", "captured"),
    [(("scratch", "cnn"), False), (("full", "cnn"), True), (("scratch", "vit"), True)],
    ids=["trained norms", "frozen norms", "norms without statistics"],
)
def test_steps_in_which_processes_exchange_statistics_are_not_captured(
    monkeypatch, t, together, tmp_path, case, captured
):
    def work(ranks):
        seen = []

        def choosing(*_, steps, **__):
            seen.append(steps > 0)
            return PrecisionChoice("fp32")

        def noting(*args, steps, say):
            seen.append(steps > 0)
            return Suffix(*args, steps=steps, say=say)

        monkeypatch.setattr("unfreeze.engine.fit.choose_precision", choosing)
        monkeypatch.setattr("unfreeze.engine.fit.Suffix", noting)
        train(t, ranks, case, tmp_path)
        return seen

    # The first process measures, and all run the steps.
    assert together(2, tmp_path / "ranks", work) == [[captured] * 2, [captured]]
    assert work(ALONE) == [True, True]


def tiny_bert():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=31,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    module = BertModel(config, add_pooling_layer=False).eval()
    spine = find_spine(module)
    return HfBackbone(
        name="tiny",
        family="encoder",
        dim=16,
        preprocess=None,
        stages=cut_stages(module, spine),
        module=module,
        spine=spine,
        pooling="mean",
        recipe={},
        assets={},
        weights_hash="tiny",
    )


# With all of it trained, and with a layer below what is trained that is run and not cut.
@pytest.mark.parametrize(("freeze", "stages"), [(0, 4), (2, 2)])
def test_a_model_of_transformers_is_trained_in_parts(t, together, freeze, stages, tmp_path):
    def work(ranks):
        backbone, telling = without_dropout(tiny_bert()), t.Telling()
        task = t.task_of("text", ranks=ranks)
        head = t.head_of(backbone)
        plan = t.plan_of(backbone, freeze=freeze)
        result, _ = t.run(plan, backbone, task, head=head, progress=telling)
        cut = [sentence for sentence in telling.told if "FSDP cuts" in sentence]
        return outcome(t, backbone, head, task, result), cut

    alone, _ = work(ALONE)
    both = together(2, tmp_path, lambda ranks: work(replace(ranks, sharding=Sharding())))
    assert f"FSDP cuts {stages} stages" in both[0][1][0]
    assert_close(both[0][0], alone)
    assert_same(both[1][0], both[0][0])


def test_weights_may_stay_whole_between_the_passes(t, together, tmp_path):
    case, sharding = ("full", "vit"), Sharding(reshard=False)
    alone = train(t, ALONE, case, tmp_path)
    both = together(
        2, tmp_path / "ranks", lambda ranks: train(t, replace(ranks, sharding=sharding), case, tmp_path)
    )
    assert_close(both[0], alone)
    assert_same(both[1], both[0])


def two_phases(**settings):
    return Plan(
        strategy="own",
        phases=(
            Phase(name="a", epochs=2, thaw=(Thaw(2, "weights", 0.01),), head_rate=0.02),
            Phase(name="b", epochs=2, thaw=(Thaw(1, "weights", 0.01), Thaw(2, "weights", 0.01))),
        ),
        **({"batch_size": 8, "ema": 0.8} | settings),
    )


def resumable(t, ranks, folder, *, sharding=None, stop_after=None, resume=False, die=None):
    ranks = replace(ranks, sharding=sharding)
    backbone = without_dropout(t.toy("cnn"))
    task = t.task_of("cnn", augment="light", ranks=ranks)
    head, steps = t.head_of(backbone), iter(range(1, 1000))

    def stop():
        step = next(steps)
        if die is not None and (ranks.rank, step) == die:
            os.kill(os.getpid(), signal.SIGKILL)
        return step == stop_after and ranks.rank == ranks.count - 1

    try:
        result, _ = t.run(
            two_phases(),
            backbone,
            task,
            head=head,
            prefix=t.maker(
                backbone, task, folder / "store", use="on", augmented=True, phases=two_phases().phases
            ),
            checkpoints=Checkpoints(folder / "checkpoints", {"data": "d"}) if ranks.leads else None,
            resume=resume,
            should_stop=stop,
        )
    except StoppedError as stopped:
        return type(stopped).__name__
    return outcome(t, backbone, head, task, result)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (2, 3)], ids=str)
# In the first phase, at its very end, and in the second: 5 steps an epoch.
@pytest.mark.parametrize(
    ("stop_after", "sharding"),
    [(3, None), (10, None), (13, None), (10, Sharding())],
    ids=["3-whole", "10-whole", "13-whole", "10-cut"],
)
def test_stopped_with_some_processes_it_goes_on_with_others(
    t, together, first, then, sharding, stop_after, tmp_path
):
    whole = resumable(t, ALONE, tmp_path / "whole")

    def run(count, **settings):
        if count == 1:
            return [resumable(t, ALONE, tmp_path / "cut", **settings)]
        return together(
            count,
            tmp_path / "ranks",
            lambda ranks: resumable(t, ranks, tmp_path / "cut", sharding=sharding, **settings),
        )

    assert set(run(first, stop_after=stop_after)) == {"StoppedError"}
    for answer in run(then, resume=True):
        assert_close(answer, whole)


@WAYS
@pytest.mark.parametrize("lost", [0, 1], ids=["first", "second"])
def test_when_one_is_killed_the_other_ends_and_it_can_be_resumed(t, together, lost, sharding, tmp_path):
    whole = resumable(t, ALONE, tmp_path / "whole")
    ended = together(
        2,
        tmp_path / "ranks",
        lambda ranks: resumable(t, ranks, tmp_path / "cut", sharding=sharding, die=(lost, 7)),
        lost=(lost,),
    )
    assert ended[1 - lost] == "PeerLostError"
    assert_close(resumable(t, ALONE, tmp_path / "cut", resume=True), whole)


@pytest.mark.parametrize(("device", "written"), [("cpu", 1), ("cuda", 0)])
def test_beside_an_accelerator_nothing_is_saved_when_one_is_lost(monkeypatch, t, device, written, tmp_path):
    backbone, found = t.toy("cnn"), []
    plan, task = t.plan_of(backbone), t.task_of("cnn")
    head = t.head_of(backbone)
    checkpoints = Checkpoints(tmp_path, {})
    loop = _Loop(
        plan,
        backbone,
        head,
        task,
        t.maker(backbone, task),
        checkpoints,
        lambda: False,
        Silent(),
        found.append,
    )
    loop.task = replace(task, device=torch.device(device))
    monkeypatch.setattr("unfreeze.engine.fit.to_checkpoint", lambda *_: "all of it")
    monkeypatch.setattr(Checkpoints, "save", lambda _, given, **__: found.append(given))
    loop._save_alone(SimpleNamespace(phase=plan.phases[0], groups=(), optimizer=None))
    assert found == ["all of it"] * written


def test_one_that_trains_something_else_is_named(t, together, tmp_path):
    def work(ranks):
        backbone = t.toy("cnn")
        task = t.task_of("cnn", ranks=ranks)
        t.run(t.plan_of(backbone, freeze=1 + ranks.rank), backbone, task)

    for answer in together(2, tmp_path, work):
        assert isinstance(answer, UnfreezeError)
        assert "The trainable parameters of process 1 are not those of process 0" in str(answer)


@WAYS
def test_the_others_wait_until_a_checkpoint_is_written(monkeypatch, t, together, sharding, tmp_path):
    written = Checkpoints.save

    def slow(checkpoints, found, **settings):
        time.sleep(0.5)
        written(checkpoints, found, **settings)
        (tmp_path / "written").touch()

    monkeypatch.setattr(Checkpoints, "save", slow)

    taken = Stepper.take

    def work(ranks):
        seen = []

        def take(*args, **settings):
            seen.append((tmp_path / "written").exists())
            return taken(*args, **settings)

        monkeypatch.setattr(Stepper, "take", take)
        backbone = t.toy("cnn")
        task = t.task_of("cnn", ranks=replace(ranks, sharding=sharding))
        checkpoints = Checkpoints(tmp_path / "checkpoints", {}) if ranks.leads else None
        t.run(t.plan_of(backbone), backbone, task, checkpoints=checkpoints)
        return seen

    # Of two epochs.
    assert together(2, tmp_path / "ranks", work) == [[False] * 5 + [True] * 5] * 2


@WAYS
def test_the_best_weights_are_whole_after_a_loss_that_is_no_number(
    monkeypatch, t, together, sharding, tmp_path
):
    taken = Stepper.take

    def take(stepper, *args, **settings):
        loss = taken(stepper, *args, **settings)
        return loss * float("nan") if stepper.standing.position.done == 7 else loss

    def work(ranks, folder, sharding=None):
        backbone, task = (
            without_dropout(t.toy("cnn")),
            t.task_of("cnn", ranks=replace(ranks, sharding=sharding)),
        )
        head = t.head_of(backbone)
        checkpoints = Checkpoints(folder, {}) if ranks.leads else None
        with pytest.raises(DivergedError, match="step 3"):
            t.run(t.plan_of(backbone), backbone, task, head=head, checkpoints=checkpoints)
        return outcome(t, backbone, head, task, Fit())

    monkeypatch.setattr(Stepper, "take", take)
    alone = work(ALONE, tmp_path / "alone")
    both = together(2, tmp_path / "ranks", lambda ranks: work(ranks, tmp_path / "both", sharding))
    assert_close(both[0], alone)
    assert_same(both[1], both[0])
    saved = [Checkpoints(tmp_path / name, {}).newest() for name in ("alone", "both")]
    assert saved[0].position == saved[1].position
    for name, tensor in saved[0].tensors.items():
        torch.testing.assert_close(saved[1].tensors[name], tensor, atol=1e-3, rtol=1e-3)


def test_what_fails_in_writing_ends_all(monkeypatch, t, together, tmp_path):
    def full(checkpoints, found, **settings):
        raise UnfreezeError("the disk is full")

    monkeypatch.setattr(Checkpoints, "save", full)
    ended = together(2, tmp_path, lambda ranks: resumable(t, ranks, tmp_path, sharding=Sharding()))
    assert str(ended[0]) == "the disk is full"
    assert isinstance(ended[1], LedError)


def test_nothing_is_put_together_where_there_are_no_checkpoints(monkeypatch, t, together, tmp_path):
    monkeypatch.setattr("unfreeze.engine.fit.to_checkpoint", lambda *_, **__: pytest.fail("it was"))
    case = ("full", "cnn")
    both = together(
        2, tmp_path / "ranks", lambda ranks: train(t, replace(ranks, sharding=Sharding()), case, tmp_path)
    )
    assert_same(both[1], both[0])


def test_other_weights_are_named(t, together, tmp_path):
    def work(ranks):
        backbone = t.toy("cnn", seed=ranks.rank)
        t.run(t.plan_of(backbone), backbone, t.task_of("cnn", ranks=ranks))

    for answer in together(2, tmp_path, work):
        assert "The weights of process 1 are not those of process 0" in str(answer)


def test_what_the_first_raises_ends_all(t, together, tmp_path):
    def work(ranks):
        def watch(record):
            if ranks.leads and record.epoch == 1:
                raise ValueError("enough")

        backbone = t.toy("cnn")
        t.run(t.plan_of(backbone, epochs=3), backbone, t.task_of("cnn", ranks=ranks), watch=watch)

    first, second = together(2, tmp_path, work)
    assert (type(first), str(first)) == (ValueError, "enough")
    assert isinstance(second, LedError)


@pytest.mark.parametrize("counts", [(3, 5), (0, 4)], ids=str)
def test_batch_statistics_are_those_of_all_rows(together, counts, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(sum(counts), 3, 4, 4) * 5 + 100
    layers = [torch.nn.BatchNorm2d(3) for _ in range(2)]
    inputs = x.clone().requires_grad_()
    whole = layers[0](inputs)
    whole.square().mul(torch.arange(1.0, 5.0)).sum().backward()

    def work(ranks):
        start = sum(counts[: ranks.rank])
        mine = x[start : start + counts[ranks.rank]].clone()
        held = (mine if len(mine) else x[:1].clone()).requires_grad_()
        with SharedStatistics(ranks, len(mine)):
            out = layers[1](held)[: len(mine)]
        out.square().mul(torch.arange(1.0, 5.0)).sum().backward()
        state = {name: tensor.numpy() for name, tensor in layers[1].state_dict().items()}
        return out.detach().numpy(), held.grad[: len(mine)].numpy(), state

    answers = together(2, tmp_path, work)
    joined = [np.concatenate([answer[part] for answer in answers]) for part in (0, 1)]
    np.testing.assert_allclose(joined[0], whole.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(joined[1], inputs.grad.numpy(), atol=1e-4)
    for name, tensor in layers[0].state_dict().items():
        np.testing.assert_allclose(answers[0][2][name], tensor.numpy(), rtol=1e-5, err_msg=name)


def test_norms_that_are_not_trained_are_left_alone(together, tmp_path):
    layer = torch.nn.BatchNorm2d(3).eval()
    x = torch.randn(4, 3, 2, 2)

    def work(ranks):
        with SharedStatistics(ranks, 4):
            return bool(
                torch.equal(layer(x), functional.batch_norm(x, layer.running_mean, layer.running_var))
            )

    assert together(2, tmp_path, work) == [True, True]
