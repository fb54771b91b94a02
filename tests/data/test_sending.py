"""What goes to a GPU goes through pinned memory, and no step waits for it; on a processor nothing is copied."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from unfreeze.contracts import State
from unfreeze.data.augment import augment
from unfreeze.data.sending import send
from unfreeze.executors.torch_ import TorchExecutor


@dataclass(frozen=True)
class Gpu:
    """A device by name, which no tensor can be put on here."""

    type: str = "cuda"


@pytest.fixture
def copies(monkeypatch):
    """Notes every copy to a device that is not there: whether the memory was pinned, and whether it waits."""
    noted, pinned = [], set()
    plain = torch.Tensor.to

    def pin(tensor):
        copied = tensor.clone()
        pinned.add(copied.data_ptr())
        return copied

    def to(tensor, *args, non_blocking=False, **rest):
        if args and isinstance(args[0], Gpu):
            noted.append((args[0].type, tensor.data_ptr() in pinned, non_blocking))
            return tensor
        return plain(tensor, *args, non_blocking=non_blocking, **rest)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    return noted


PINNED = ("cuda", True, True)


def test_a_gpu_takes_pinned_memory_without_waiting_and_others_a_plain_copy(copies):
    assert send(np.arange(3), Gpu()).tolist() == [0, 1, 2]
    assert send(torch.arange(3), Gpu()).tolist() == [0, 1, 2]
    send(np.arange(3), Gpu("mps"))
    assert copies == [PINNED, PINNED, ("mps", False, False)]


def test_on_a_processor_nothing_is_copied(copies):
    values, tensor = np.arange(3), torch.arange(3)
    assert send(values, torch.device("cpu")).data_ptr() == values.ctypes.data
    assert send(tensor, torch.device("cpu")) is tensor
    assert not copies


def on_gpu(inputs):
    object.__setattr__(inputs, "device", Gpu())
    return inputs


def test_batches_of_texts_and_of_pictures_are_sent_so(t, copies, monkeypatch):
    rows = np.arange(4)
    on_gpu(t.rows_of("text", 8, 0).inputs).batch(rows, None)
    assert copies == [PINNED] * 2
    copies.clear()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    on_gpu(t.rows_of("cnn", 8, 0).inputs).batch(rows, None)
    assert copies == [PINNED]


def test_squares_of_which_many_inputs_are_made_lie_on_the_gpu_once(t, copies, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    plain = on_gpu(t.rows_of("cnn", 8, 0).inputs)
    rows = np.arange(4)
    for inputs in (plain, plain.varied("none"), plain.varied("dihedral").varied("light"), plain.select(rows)):
        pixels = inputs.batch(rows, None).h
        assert torch.equal(pixels, torch.from_numpy(plain.squares[rows]))
    whole = ("cuda", False, False)
    assert [copy for copy in copies if copy == whole] == [whole]
    # The numbers of the rows.
    assert copies.count(PINNED) == len(copies) - 1 == 4


def from_numpy_of_sending(plain):
    """``torch.from_numpy`` for ``send`` alone."""

    def from_numpy(values):
        assert sys._getframe(1).f_code.co_name == "send"
        return plain(values)

    return from_numpy


@pytest.mark.parametrize("name", ["light", "strong", "dihedral"])
def test_what_augmentation_draws_is_sent_so(monkeypatch, copies, name):
    sent = []

    def noting(values, device):
        sent.append(device)
        return send(values, device)

    monkeypatch.setattr("unfreeze.data.augment.send", noting)
    monkeypatch.setattr(torch, "from_numpy", from_numpy_of_sending(torch.from_numpy))
    batch = torch.zeros((16, 8, 8, 3), dtype=torch.uint8)
    augment(batch, name, seed=1, round_=0, keys=np.arange(16, dtype=np.uint64))
    assert len(sent) >= {"light": 2, "strong": 6, "dihedral": 2}[name]
    assert set(sent) == {batch.device}


def test_what_an_executor_is_given_is_sent_so(t, copies):
    backbone = t.toy("text")
    executor = TorchExecutor(backbone, precision="fp32", boundaries=(5,))
    executor._device = Gpu()
    state = t.rows_of("text", 4, 0).inputs.batch(np.arange(4), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "_arithmetic", lambda: torch.no_grad())
        patch.setattr(torch.cuda, "synchronize", lambda device: None)
        executor(State(state.h, state.mask))
    assert copies == [PINNED] * 2


def test_a_step_sends_its_classes_and_a_phase_its_weights_once(t, monkeypatch):
    sent = []

    def noting(values, device):
        sent.append(np.asarray(values).dtype.kind)
        return send(values, device)

    monkeypatch.setattr("unfreeze.engine.stepping.send", noting)
    backbone = t.toy("cnn")
    task = t.task_of("cnn", val=0, class_weight=np.array([1.0, 2.0], dtype=np.float32))
    plan = t.plan_of(backbone, epochs=2, mixup=0.3)
    t.run(plan, backbone, task)
    # Two epochs of five batches: the classes and the partners of each, and the shares; the weights.
    assert sent.count("i") == 2 * 2 * 5
    assert sent.count("f") == 2 * 5 + 1
