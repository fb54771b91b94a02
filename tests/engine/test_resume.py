"""A resumed training gives the bits of one that was never stopped, wherever it was stopped or killed."""

import errno
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from unfreeze.engine import checkpoints as module
from unfreeze.engine.checkpoints import Checkpoints
from unfreeze.engine.ranks import PeerLostError
from unfreeze.errors import StoppedError, UnfreezeError
from unfreeze.plan import Phase, Plan, Thaw

STEPS = 25


def plan(**settings):
    return Plan(
        strategy="own",
        phases=(
            Phase(name="a", epochs=2, thaw=(Thaw(2, "weights", 0.01),), head_rate=0.02),
            Phase(
                name="b", epochs=3, thaw=(Thaw(1, "weights", 0.01), Thaw(2, "weights", 0.01)), norm="train"
            ),
        ),
        **({"batch_size": 8, "ema": 0.8, "pull": 0.01} | settings),
    )


def train(
    t,
    folder,
    *,
    kind="cnn",
    given=None,
    stop_after=None,
    resume=False,
    use="off",
    rows=38,
    watch=None,
    normed=False,
):
    backbone = t.toy(kind)
    own = nn.Sequential(nn.BatchNorm1d(backbone.dim), t.head_of(backbone)) if normed else None
    task = t.task_of(kind, train=rows, augment="none" if kind == "text" else "light")
    steps = iter(range(1, 1000))
    given = plan() if given is None else given
    result, head = t.run(
        given,
        backbone,
        task,
        prefix=t.maker(
            backbone, task, folder / "store", use=use, augmented=kind != "text", phases=given.phases
        ),
        checkpoints=Checkpoints(folder / "checkpoints", {"data": "d"}),
        resume=resume,
        head=own,
        should_stop=lambda: next(steps) == stop_after,
        watch=watch or (lambda _: None),
    )
    records = [(r.phase, r.epoch, r.train_loss, r.val_log_loss, dict(r.rates)) for r in result.history]
    return t.tensors_of(backbone, head), records, result.ledger, result.taken


def assert_same(t, first, second):
    assert t.same(first[0], second[0])
    assert first[1:] == second[1:]


@pytest.mark.parametrize("use", ["off", "on"])
def test_stopping_at_any_place_changes_nothing(t, kind, tmp_path, use):
    whole = train(t, tmp_path / "whole", kind=kind, use=use)
    assert len(whole[1]) == 5
    # In the middle and at the end of an epoch, at the end and at the start of a phase, at the very end.
    for step in (5, 11, STEPS) if use == "off" else (2, 10, 18):
        folder = tmp_path / str(step)
        with pytest.raises(StoppedError, match="--resume"):
            train(t, folder, kind=kind, stop_after=step, use=use)
        assert_same(t, train(t, folder, kind=kind, resume=True, use=use), whole)
        assert not list((folder / "store").glob("*"))


def test_a_norm_in_the_head_goes_on_from_its_statistics(t, tmp_path):
    given = replace(plan(), phases=(replace(plan().phases[0], epochs=4),))
    whole = train(t, tmp_path / "whole", given=given, normed=True)
    assert float(whole[0]["head:0.running_mean"].abs().max()) > 0
    with pytest.raises(StoppedError):
        train(t, tmp_path / "cut", given=given, normed=True, stop_after=12)
    assert_same(t, train(t, tmp_path / "cut", given=given, normed=True, resume=True), whole)


def test_what_one_pass_was_to_store_for_a_later_phase_is_stored_after_a_stop_between_them(
    t, tmp_path, monkeypatch
):
    """The store pays for both phases together, and would not for the second alone."""
    monkeypatch.setattr(
        "unfreeze.engine.storing.weigh_store",
        lambda estimates, **_: "pays" if len(estimates) > 1 else "does not pay",
    )
    first, second = plan().phases
    given = replace(plan(), phases=(first, replace(second, norm="freeze", epochs=4)))
    whole = train(t, tmp_path / "whole", given=given, use="auto")
    assert not t.same(whole[0], train(t, tmp_path / "off", given=given)[0])
    with pytest.raises(StoppedError):
        train(t, tmp_path / "cut", given=given, use="auto", stop_after=11)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "01-0000-000001")
    assert_same(t, train(t, tmp_path / "cut", given=given, use="auto", resume=True), whole)
    assert not list((tmp_path / "cut" / "store").glob("*"))


@pytest.mark.parametrize("batches", [1, 7])
def test_a_stop_while_the_store_is_filled_waits_for_no_other_batch(t, tmp_path, batches):
    whole = train(t, tmp_path / "whole", use="on")
    backbone, task, given = t.toy("cnn"), t.task_of("cnn", augment="light"), plan()
    asked, store = iter(range(1, 1000)), tmp_path / "cut" / "store"
    prefix = t.maker(
        *(backbone, task, store),
        use="on",
        augmented=True,
        phases=given.phases,
        should_stop=lambda: next(asked) == batches,
    )
    with pytest.raises(StoppedError, match="--resume"):
        t.run(
            given,
            backbone,
            task,
            prefix=prefix,
            checkpoints=Checkpoints(tmp_path / "cut" / "checkpoints", {"data": "d"}),
        )
    assert next(asked) == batches + 1
    assert not list(store.glob("*"))
    assert_same(t, train(t, tmp_path / "cut", resume=True, use="on"), whole)


@pytest.mark.parametrize("step", [2, 7, 12, 18, 25])
def test_what_watches_a_training_is_told_of_every_epoch_wherever_it_was_stopped(t, tmp_path, step):
    whole, seen = [], []
    train(t, tmp_path / "whole", watch=whole.append)
    with pytest.raises(StoppedError):
        train(t, tmp_path / "stopped", stop_after=step)
    train(t, tmp_path / "stopped", resume=True, watch=seen.append)
    assert [(one.phase, one.epoch, one.val_accuracy) for one in seen] == [
        (one.phase, one.epoch, one.val_accuracy) for one in whole
    ]


def test_stopping_again_and_again_changes_nothing(t, tmp_path):
    whole = train(t, tmp_path / "whole")
    resume = False
    for _ in range(7):
        with pytest.raises(StoppedError):
            train(t, tmp_path / "cut", stop_after=3, resume=resume)
        resume = True
    assert_same(t, train(t, tmp_path / "cut", resume=True), whole)


def test_a_phase_that_ended_early_is_not_gone_on_with(t, tmp_path, monkeypatch):
    given = plan(pull=0.0, ema=None)
    early = Phase(name="a", epochs=6, thaw=(Thaw(2, "weights", 0.1),), head_rate=1.0, patience=1)
    given = Plan(strategy="own", phases=(early, given.phases[1]), batch_size=8)
    whole = train(t, tmp_path / "whole", given=given)
    ended = sum(phase == "a" for phase, *_ in whole[1])
    assert ended < 6
    # The last thing that was saved before the end is the epoch that the phase ended with.
    monkeypatch.setattr(module.Checkpoints, "_drop_old", lambda *_, **__: None)
    train(t, tmp_path / "cut", given=given)
    for path in (tmp_path / "cut" / "checkpoints").iterdir():
        if path.name.startswith("01"):
            for part in path.iterdir():
                part.unlink()
    assert_same(t, train(t, tmp_path / "cut", given=given, resume=True), whole)


def test_a_finished_training_resumes_to_itself(t, tmp_path):
    whole = train(t, tmp_path / "run")
    assert_same(t, train(t, tmp_path / "run", resume=True), whole)


def test_a_training_begun_anew_forgets_the_checkpoints_of_the_one_before(t, tmp_path):
    train(t, tmp_path / "run")
    with pytest.raises(StoppedError):
        train(t, tmp_path / "run", stop_after=2)
    assert Checkpoints(tmp_path / "run" / "checkpoints", {"data": "d"}).newest().position.done == 2


def test_a_full_disk_ends_the_run_and_the_last_good_state_goes_on(t, tmp_path, monkeypatch):
    whole = train(t, tmp_path / "whole")
    write, calls = module.write_atomically, []

    def full(path, content):
        calls.append(path)
        if len(calls) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(UnfreezeError, match="No space left"):
        train(t, tmp_path / "full")
    monkeypatch.setattr(module, "write_atomically", write)
    assert_same(t, train(t, tmp_path / "full", resume=True), whole)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_being_killed_at_any_moment_changes_nothing(t, tmp_path, one_thread, monkeypatch):
    # Two steps an epoch: each of the ten can be a child's last.
    rows, steps = 16, 10
    whole = train(t, tmp_path / "whole", rows=rows)

    def child(folder, *, step, write):
        calls = iter(range(1, 1000))
        taken = iter(range(1, 1000))
        real = module.write_atomically

        def dying(path, content):
            if next(calls) == write:
                path.write_bytes(
                    content[: len(content) // 2].encode() if isinstance(content, str) else content[:99]
                )
                os.kill(os.getpid(), signal.SIGKILL)
            real(path, content)

        def stop():
            if next(taken) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return False

        module.write_atomically = dying
        backbone = t.toy("cnn")
        task = t.task_of("cnn", train=rows, augment="light")
        t.run(
            plan(),
            backbone,
            task,
            checkpoints=Checkpoints(folder / "checkpoints", {"data": "d"}),
            should_stop=stop,
        )

    moments = [(step, None) for step in range(1, steps + 1)] + [(None, write) for write in range(1, 11)]
    for number, (step, write) in enumerate(moments):
        folder = tmp_path / str(number)
        pid = os.fork()
        if pid == 0:
            try:
                child(folder, step=step, write=write)
            finally:
                os._exit(7)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        assert_same(t, train(t, folder, resume=True, rows=rows), whole)


@pytest.mark.parametrize("stop", [3, 8, 13])
def test_the_drift_of_a_phase_of_the_head_alone_is_that_of_the_one_before_after_resuming_too(
    t, tmp_path, stop
):
    head = Phase(name="a", epochs=1)
    body = Phase(name="b", epochs=1, thaw=(Thaw(2, "weights", 0.01),))
    given = Plan(strategy="own", phases=(head, body, replace(head, name="c")), batch_size=8)
    whole = train(t, tmp_path / "whole", given=given)
    with pytest.raises(StoppedError):
        train(t, tmp_path / "cut", given=given, stop_after=stop)
    assert_same(t, train(t, tmp_path / "cut", given=given, resume=True), whole)
    assert whole[2][2].drift == whole[2][1].drift != whole[2][0].drift


def test_a_lost_peer_is_not_told_as_a_stop(t, tmp_path):
    """The prefix is made together, so that a process that has gone is noticed there."""
    backbone, task = t.toy("cnn"), t.task_of("cnn")

    class Losing:
        def make(self, *_, **__):
            raise PeerLostError("Another process has ended.")

        def close(self):
            pass

    with pytest.raises(PeerLostError, match="Another process has ended"):
        t.run(plan(), backbone, task, prefix=Losing(), checkpoints=Checkpoints(tmp_path, {"data": "d"}))
