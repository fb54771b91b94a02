"""Measuring a phase runs its real steps, on a copy, and leaves no file behind."""

import numpy as np
import pytest
import torch

from unfreeze.contracts import State
from unfreeze.engine.activations import Activations, ActivationWriter
from unfreeze.engine.pairing import batches_of
from unfreeze.training import pacing
from unfreeze.training.pacing import Batch, Pacer, some_batches, time_line, two_batches


@pytest.fixture(params=["cnn", "vit", "text"])
def kind(request):
    return request.param


def pacer(t, kind, folder, *, plan=None, **settings):
    backbone = t.toy(kind)
    made = plan or t.plan_of(backbone, freeze=2)
    task = t.task_of(kind, val=0)
    return Pacer(
        made, backbone, t.head_of(backbone), task, t.maker(backbone, task, folder, use="auto", **settings)
    )


def test_every_part_of_a_phase_is_timed(t, kind, tmp_path):
    measured = pacer(t, kind, tmp_path)
    pace = measured.measure(measured.plan.phases[0], steps=10)
    for line in (pace.input, pace.frozen, pace.step, pace.judged, pace.read, pace.write):
        assert line.fixed + line.each > 0
        assert line.fixed >= 0
        assert line.each >= 0
    assert pace.preparing > 0
    assert pace.memory_bytes > 0
    assert not list(tmp_path.iterdir())


def test_below_the_first_stage_nothing_is_frozen_or_stored(t, kind, tmp_path):
    backbone = t.toy(kind)
    measured = pacer(t, kind, tmp_path / "cache", plan=t.plan_of(backbone, freeze=0))
    pace = measured.measure(measured.plan.phases[0], steps=10)
    assert pace.frozen == pace.read == pace.write == pacing.Line()
    assert pace.preparing == 0
    assert not (tmp_path / "cache").exists()


def test_the_size_of_the_store_is_measured_to_the_byte_for_pictures(t, tmp_path):
    measured = pacer(t, "cnn", tmp_path, half=True)
    pace = measured.measure(measured.plan.phases[0], steps=10)
    # Behind the second stage: six channels of 8 by 8.
    assert pace.unit_bytes == 6 * 8 * 8 * 2


def test_padding_is_not_counted_as_stored(t, tmp_path):
    measured = pacer(t, "text", tmp_path)
    pace = measured.measure(measured.plan.phases[0], steps=10)
    assert 0 < pace.unit_bytes <= 8 * 4


def test_weights_and_statistics_hardly_move_while_they_are_timed(t, kind, tmp_path):
    measured = pacer(t, kind, tmp_path)
    before = t.tensors_of(measured.network)
    measured.measure(measured.plan.phases[0], steps=10)
    after = t.tensors_of(measured.network)
    assert max(float((after[name] - before[name]).abs().max()) for name in before) < 1e-6
    assert not any(module.training for module in measured.network.module.modules())


def test_more_trained_weights_take_more_memory(t, tmp_path):
    backbone = t.toy("vit")
    sizes = []
    for freeze in (3, 2, 1, 0):
        measured = pacer(t, "vit", tmp_path, plan=t.plan_of(backbone, freeze=freeze))
        sizes.append(measured.measure(measured.plan.phases[0], steps=10).memory_bytes)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_an_overflow_of_half_precision_is_no_reason_to_stop(t, tmp_path):
    measured = pacer(t, "cnn", tmp_path, half=True)
    measured.network.module.stem.norm.weight.data *= 1e7
    pace = measured.measure(measured.plan.phases[0], steps=10)
    assert pace.read == pace.write == pacing.Line()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("slow", ["add", "read"])
def test_the_store_is_timed_where_one_of_writing_and_reading_is_slow(t, tmp_path, monkeypatch, slow):
    owner = ActivationWriter if slow == "add" else Activations
    now, run = [0.0], getattr(owner, slow)

    def slowly(self, *args):
        now[0] += 10.0
        return run(self, *args)

    monkeypatch.setattr(owner, slow, slowly)
    monkeypatch.setattr(pacing.time, "perf_counter", lambda: now[0])
    measured = pacer(t, "cnn", tmp_path)
    pace = measured.measure(measured.plan.phases[0], steps=10)
    lines = {"add": pace.write, "read": pace.read}
    assert lines.pop(slow).each > 0
    assert lines.popitem()[1] == pacing.Line()


def test_short_texts_are_read_as_short_ones(t, tmp_path, monkeypatch):
    tokens, read = [], Activations.read

    def noted(self, rows, device):
        state = read(self, rows, device)
        tokens.append(state.h.shape[:2])
        return state

    monkeypatch.setattr(Activations, "read", noted)
    measured = pacer(t, "text", tmp_path)
    small, large = two_batches(some_batches(*batches_for(measured)))
    measured.measure(measured.plan.phases[0], steps=10)
    assert small.raw.h.shape != large.raw.h.shape
    assert {small.raw.h.shape, large.raw.h.shape} <= set(tokens)


def batches_for(measured):
    """The inputs of a pacer, and the batches that it looks at."""
    train, size = measured.task.train, measured.plan.batch_size
    return train.inputs, batches_of(train.inputs, train.y, pairs=False, seed=0, epoch=0, batch_size=size)


def batch_of(rows):
    return Batch(np.arange(rows), State(torch.zeros(rows, 2, 2, 3, dtype=torch.uint8)))


def clock(monkeypatch, seconds):
    """A run that takes ``seconds(number of the run, rows)``, and the rows of every run."""
    now, sizes = [0.0], []

    def run(batch):
        sizes.append(len(batch.rows))
        now[0] += seconds(len(sizes), len(batch.rows))

    monkeypatch.setattr(pacing.time, "perf_counter", lambda: now[0])
    return run, sizes


def test_a_slow_batch_is_cut_and_counted_in_proportion(monkeypatch):
    run, sizes = clock(monkeypatch, lambda _, rows: 0.1 * rows)
    assert time_line(run, batch_of(8), batch_of(64)) == pacing.Line(0.0, pytest.approx(0.1))
    # 64 rows would take 6.4 seconds: as many as fit into the bound are run.
    assert sizes == [2, 2, 2, int(10 * pacing.SLOW_SECONDS), int(10 * pacing.SLOW_SECONDS)]


def test_a_busy_moment_does_not_decide(monkeypatch):
    # The second run, and the first long one, come while something else takes the machine for five seconds.
    run, sizes = clock(monkeypatch, lambda number, rows: 0.02 * rows + (5.0 if number in (2, 4) else 0.0))
    line = time_line(run, batch_of(8), batch_of(64))
    assert line.batch(64) == pytest.approx(1.28)
    assert max(sizes) == 64


def test_never_less_than_a_quarter_of_a_batch_is_run(monkeypatch):
    run, sizes = clock(monkeypatch, lambda _, rows: 10.0 * rows)
    assert time_line(run, batch_of(8), batch_of(64)).each == pytest.approx(10.0)
    assert sizes[-2:] == [16, 16]


def test_a_fast_batch_is_warmed_up_and_timed_three_times(monkeypatch):
    # The first of all is slow: it loads what the others find loaded.
    run, sizes = clock(monkeypatch, lambda number, rows: 0.01 + 0.001 * rows + (0.05 if number == 1 else 0))
    line = time_line(run, batch_of(8), batch_of(16))
    assert line == pacing.Line(pytest.approx(0.01), pytest.approx(0.001))
    assert sizes == [2, 2, 2, 16, 8, 8, 8, 16, 16, 16]


def test_texts_are_measured_on_short_and_on_long_batches(t):
    inputs = t.task_of("text", train=80).train.inputs
    small, large = two_batches(some_batches(inputs, inputs.batches(0, 0, 8)))
    assert len(small.rows) == len(large.rows) == 8
    assert small.units < large.units
    assert large.units == large.raw.h.numel()


def test_images_are_measured_on_a_batch_and_a_quarter_of_it(t):
    inputs = t.task_of("cnn", train=38).train.inputs
    small, large = two_batches(some_batches(inputs, inputs.batches(0, 0, 8)))
    assert (small.units, large.units) == (2.0, 8.0)
    assert small.rows.tolist() == large.rows[:2].tolist()
