"""A phase's trained stages, replayed as a graph on a GPU, give what the eager pass gives."""

import copy
import gc
import warnings
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from unfreeze.contracts import State
from unfreeze.engine.checkpoints import Checkpoints
from unfreeze.engine.judging import score
from unfreeze.engine.suffix import LEAST_STEPS, Suffix
from unfreeze.engine.trainable import select, set_modes
from unfreeze.errors import StoppedError
from unfreeze.plan import Phase, Thaw

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def images(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 8, 8, 3), generator=generator, dtype=torch.uint8)


def gradients(suffix, backbone, h):
    torch.manual_seed(4)
    features = suffix(State(h))
    features.square().sum().backward()
    found = {name: p.grad.clone() for name, p in backbone.module.named_parameters() if p.grad is not None}
    backbone.module.zero_grad(set_to_none=True)
    # A replay writes into the same place again.
    return features.detach().clone(), found


def test_on_a_processor_every_step_is_eager(t, monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda *_, **__: pytest.fail("captured"))
    backbone = t.toy("vit")
    suffix = Suffix(backbone, 0, t.CPU, "fp32", steps=10**6)
    assert torch.equal(suffix(State(images(5, 0))), backbone.run(State(images(5, 0))).h)


@pytest.mark.parametrize("boundary", [1, 2, 3])
def test_convolutions_run_with_channels_last_give_the_features_and_gradients_of_the_plain_network(
    t, boundary
):
    backbone = t.toy("cnn")
    with torch.no_grad():
        state = backbone.run(State(images(5, 0)), 0, boundary)
    # As it comes from a store, or from another engine.
    state = State(state.h.contiguous())

    def plain(state):
        return backbone.run(state, boundary, None).h

    suffix = Suffix(backbone, boundary, t.CPU, "fp32", steps=0)
    found = []
    for run in (plain, suffix):
        h = state.h.clone().requires_grad_()
        features = run(State(h))
        features.square().sum().backward()
        tensors = {name: p.grad for name, p in backbone.module.named_parameters() if p.grad is not None}
        found.append({"features": features.detach(), "h": h.grad} | tensors)
        backbone.module.zero_grad(set_to_none=True)
    one, two = found
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-5, atol=1e-5), name


def test_validation_reads_convolutions_in_the_layout_of_the_steps(t):
    backbone, task, seen = t.toy("cnn"), t.task_of("cnn", val=6), []
    with torch.no_grad():
        below = backbone.run(task.val.inputs.batch(np.arange(6), None), 0, 1)
    prefix = t.maker(backbone, task).make(Phase(name="p", epochs=1), 1, rounds=1)
    prefix.val_batches = lambda rows, size: iter([State(below.h.contiguous())])
    plain = backbone.run

    def noting(state, start=0, stop=None):
        seen.append(state.h.is_contiguous(memory_format=torch.channels_last))
        return plain(state, start, stop)

    backbone.run = noting
    score(backbone, t.head_of(backbone), task, prefix, batch_size=6)
    assert seen == [True]


class PretendedGpu:
    """What a suffix asks of a GPU; capturing gives what ``captured`` makes of the module."""

    def __init__(self, monkeypatch, captured):
        self.stream, self.mode, fork = "default", 0, torch.random.fork_rng
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda part, *_, **__: captured(part))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.stream)
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", self.set_mode)
        monkeypatch.setattr(torch.random, "fork_rng", lambda **_: fork(devices=[]))

    def set_mode(self, mode):
        # In PyTorch's words.
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        self.mode = mode

    @contextmanager
    def on(self, stream):
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before


def on_pretended_gpu(t, monkeypatch, backbone, told, captured):
    """A suffix that believes in a GPU, and that GPU."""
    gpu = PretendedGpu(monkeypatch, captured)
    suffix = Suffix(backbone, 0, t.CPU, "fp32", steps=LEAST_STEPS, say=told.append)
    # No tensor can be put on a device that is not there.
    suffix._wanted = True
    return suffix, gpu


def test_only_replayable_batches_of_the_captured_shape_are_replayed(t, monkeypatch):
    backbone, replayed = t.toy("vit"), []

    def captured(part):
        return lambda h: replayed.append(len(h)) or part.features(State(h))

    told = []
    suffix, _ = on_pretended_gpu(t, monkeypatch, backbone, told, captured)
    suffix(State(images(2, 0)), replayable=False)
    assert not replayed
    for rows, replayable in ((6, True), (6, False), (4, True), (6, True)):
        assert torch.equal(
            suffix(State(images(rows, 1)), replayable=replayable), backbone.run(State(images(rows, 1))).h
        )
    assert replayed == [6, 6]
    assert told == ["The trained part is captured as a graph: 50 steps are to come, and it pays from 50 on."]
    with torch.no_grad():
        suffix(State(images(6, 1)))
    suffix.close()
    suffix(State(images(6, 1)))
    assert replayed == [6, 6]


def test_nothing_of_a_graph_is_left_when_it_is_closed(t, monkeypatch):
    backbone, held = t.toy("vit"), []

    def captured(part):
        static = images(6, 0)

        # As PyTorch does: a class of its own, which lies in a cycle of references.
        class Graphed(torch.autograd.Function):
            buffer = static

        held.append(weakref.ref(Graphed))
        part.forward = lambda h: (Graphed, part.features(State(h)))[1]
        return part.forward

    suffix, _ = on_pretended_gpu(t, monkeypatch, backbone, [], captured)
    gc.disable()
    try:
        suffix(State(images(6, 1)))
        assert held[0]() is not None
        suffix.close()
        assert held[0]() is None
    finally:
        gc.enable()


def test_a_network_that_cannot_be_captured_is_run_step_by_step_and_said_so(t, monkeypatch):
    def refused(part):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    backbone, told = t.toy("cnn"), []
    suffix, _ = on_pretended_gpu(t, monkeypatch, backbone, told, refused)
    for _ in range(2):
        assert torch.equal(suffix(State(images(5, 0))), backbone.run(State(images(5, 0))).h)
    assert told == [
        "The trained part is run kernel by kernel: it could not be captured "
        "(operation not permitted when stream is capturing)."
    ]


def test_a_capture_that_fails_leaves_the_stream_that_it_found(t, monkeypatch):
    def refused(part):
        gpu.stream = "capture"
        raise RuntimeError("operation failed due to a previous error during capture")

    backbone = t.toy("cnn")
    suffix, gpu = on_pretended_gpu(t, monkeypatch, backbone, [], refused)
    suffix(State(images(5, 0)))
    assert gpu.stream == "default"


def test_a_phase_captures_when_the_optimizer_has_its_moments(t, monkeypatch, tmp_path):
    """Those of a first step might find no room beside a graph; a phase that is gone on with has them."""
    events, step = [], torch.optim.AdamW.step

    def captured(part):
        events.append("captured")
        return lambda h: part.features(State(h))

    def stepping(self, *arguments):
        events.append("step")
        return step(self, *arguments)

    def believing(*given, **settings):
        suffix = Suffix(*given, **settings)
        suffix._wanted = settings["steps"] > 0
        return suffix

    PretendedGpu(monkeypatch, captured)
    monkeypatch.setattr(torch.optim.AdamW, "step", stepping)
    monkeypatch.setattr("unfreeze.engine.fit.Suffix", believing)

    def train(*, resume=False, should_stop=lambda: False):
        events.clear()
        backbone, places = t.toy("vit"), Checkpoints(tmp_path, {"data": "d"})
        plan, task = t.plan_of(backbone, epochs=1), t.task_of("vit")
        t.run(plan, backbone, task, checkpoints=places, resume=resume, should_stop=should_stop)

    train()
    # Five batches, the last one shorter.
    assert events == ["step", "captured", *["step"] * 4]
    stops = iter([False, True])
    with pytest.raises(StoppedError):
        train(should_stop=lambda: next(stops))
    train(resume=True)
    assert events == ["captured", *["step"] * 3]


class Waiting(torch.autograd.Function):
    """Waits for the device in one of the passes."""

    @staticmethod
    def forward(ctx, h, wait, forward):
        ctx.wait, ctx.forward = wait, forward
        if forward:
            wait()
        return h.clone()

    @staticmethod
    def backward(ctx, gradient):
        if not ctx.forward:
            ctx.wait()
        return gradient, None, None


@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
def test_a_part_that_waits_for_the_device_is_not_captured(t, monkeypatch, forward):
    backbone, twin, told, waits = t.toy("cnn"), t.toy("cnn"), [], []
    for one in (backbone, twin):
        # Dropout and the statistics of norms are at work.
        one.module.train()
    run = backbone.run
    suffix, gpu = on_pretended_gpu(t, monkeypatch, backbone, told, lambda _: pytest.fail("captured"))
    gpu.mode = 1

    def wait():
        waits.append(gpu.mode)
        if gpu.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    def waiting(state, start=0, stop=None):
        made = run(state, start, stop)
        return State(Waiting.apply(made.h, wait, forward), made.mask)

    monkeypatch.setattr(backbone, "run", waiting)
    features, found = gradients(suffix, backbone, images(5, 0))
    eager = Suffix(twin, 0, t.CPU, "fp32", steps=0)
    wanted, others = gradients(eager, twin, images(5, 0))
    assert torch.equal(features, wanted)
    assert t.same(found, others)
    # Once, by the pass that counts.
    assert t.same(t.tensors_of(backbone), t.tensors_of(twin))
    assert waits == [1, "error", 1]
    assert gpu.mode == 1
    assert told == [
        "The trained part is run kernel by kernel: it could not be captured (called a synchronizing CUDA operation)."
    ]


@needs_gpu
@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("norm", ["freeze", "train"])
def test_a_replayed_step_gives_the_eager_gradients_and_statistics(t, kind, norm):
    device = torch.device("cuda")
    backbones = [t.toy(kind), t.toy(kind)]
    results = []
    for backbone, steps in zip(backbones, (LEAST_STEPS, 0), strict=True):
        backbone.module.to(device)
        head = t.head_of(backbone).to(device)
        phase = Phase(name="all", epochs=1, thaw=tuple(Thaw(i, "weights", 1e-3) for i in (1, 2)), norm=norm)
        select(backbone, head, phase)
        set_modes(backbone, head, phase)
        for module in backbone.module.modules():
            # Chance is drawn in another order in a graph.
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        below = copy.deepcopy(backbone)
        below.module.eval()
        suffix = Suffix(backbone, 1, device, "fp32", steps=steps)
        found = []
        # The last batch is shorter: it is not what was captured.
        for seed, rows in ((0, 6), (1, 6), (2, 4)):
            with torch.no_grad():
                h = below.run(State(images(rows, seed).to(device)), 0, 1).h
            found.append(gradients(suffix, backbone, h))
        assert (suffix._replay is not None) == (steps == LEAST_STEPS)
        results.append((found, backbone.module.state_dict()))
    (replayed, left), (eager, right) = results
    for (one, some), (two, others) in zip(replayed, eager, strict=True):
        assert torch.allclose(one, two, atol=1e-5)
        assert some.keys() == others.keys()
        for name, gradient in some.items():
            assert torch.allclose(gradient, others[name], rtol=1e-3, atol=1e-4), name
    for name, tensor in left.items():
        assert torch.allclose(tensor.float(), right[name].float(), atol=1e-5), name
