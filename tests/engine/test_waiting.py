"""In a step the program hands work to a GPU and waits for none of it: the GPU would stand still meanwhile."""

import copy
import gc
import importlib.util
import sys
import weakref
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from unfreeze.choose.cost import Line
from unfreeze.engine import storing
from unfreeze.engine.inputs import ImageInputs, TextInputs
from unfreeze.engine.stepping import Stepper
from unfreeze.engine.task import Rows, Task
from unfreeze.grafts import attach
from unfreeze.grafts.targets import resolve_targets
from unfreeze.plan import Adapters, Lora, Phase, Plan, Thaw
from unfreeze.training import pacing

spec = importlib.util.spec_from_file_location(
    "backbone_table", Path(__file__).parent.parent / "contracts" / "test_backbones.py"
)
table = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = table
spec.loader.exec_module(table)

GPU, CPU = torch.device("cuda"), torch.device("cpu")
ROWS, BATCH = 26, 8
# What gives the program a number, or sizes that follow from numbers.
WAITING = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "masked_select"),
    *("_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave"),
}
# What copies where one of the two lies on the device alone.
BETWEEN = (torch.Tensor.type_as, torch.Tensor.copy_)
COPIES = {getattr(torch.Tensor, name) for name in ("cpu", "numpy", "tolist", "cuda")}


def is_gpu(given):
    return isinstance(given, torch.device) and given.type == "cuda"


def tensors_in(found):
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]


class Operations(TorchDispatchMode):
    """Notes every operation after which the program would have waited for the device."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and isinstance(args[1], list | tuple)
        if name in WAITING or (masks and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Pretended(TorchFunctionMode):
    """A GPU in the processor's memory. While it is ``watching``, it notes what the program would have waited for."""

    def __init__(self):
        super().__init__()
        self.found, self.watching, self.watched = [], False, 0
        # Tensors made while it watched, of nothing or of each other, and for no device: no GPU would hold them.
        self.here = WeakIdKeyDictionary()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        devices = [given for given in (*args, *kwargs.values()) if isinstance(given, torch.device)]
        moved = any(is_gpu(given) for given in devices)
        if self.watching and (func in COPIES or (moved and func in (torch.tensor, torch.as_tensor))):
            self.found.append(func.__name__)
        if self.watching and not kwargs.get("non_blocking"):
            to = func is torch.Tensor.to and (moved or (devices and args[0] in self.here))
            if to or (func in BETWEEN and (args[0] in self.here) != (args[1] in self.here)):
                self.found.append(f"{func.__name__}, waiting")
        if func is torch.Tensor.pin_memory:
            return args[0]
        if is_gpu(kwargs.get("device")):
            kwargs["device"] = CPU
        made = func(*(CPU if is_gpu(given) else given for given in args), **kwargs)
        # Who asks for the device of another tensor is told of this memory, but by an object.
        if self.watching and not devices and all(given in self.here for given in tensors_in((args, kwargs))):
            self.here.update((found, None) for found in tensors_in(made))
        return made

    @contextmanager
    def watch(self):
        before, self.watching, self.watched = self.watching, True, self.watched + 1
        try:
            with Operations(self.found):
                yield
        finally:
            self.watching = before


@pytest.fixture
def gpu(monkeypatch):
    """A pretended GPU in use, which watches all that is done for each step of a training."""
    pretended, take = Pretended(), Stepper.take
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name in ("memory_reserved", "memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2**30, 2**30))
    monkeypatch.setattr(torch.random, "fork_rng", lambda **_: nullcontext())

    def watched(self, *args, **settings):
        with pretended.watch():
            return take(self, *args, **settings)

    monkeypatch.setattr(Stepper, "take", watched)
    with pretended:
        yield pretended


def watch_batches(prefix, gpu):
    """The prefix, whose training batches are watched too."""
    make = prefix.make

    def watched(*args, **settings):
        made = make(*args, **settings)
        read = made.train_batch

        def train_batch(rows, round_):
            with gpu.watch():
                return read(rows, round_)

        made.train_batch = train_batch
        return made

    prefix.make = watched
    return prefix


def backbone_of(name):
    return copy.deepcopy(table.build(next(case for case in table.CASES if case.name == name)))


def task_of(case_name, *, augment="none", token_dropout=0.0, full=False, **settings):
    case = next(case for case in table.CASES if case.name == case_name)
    rng, y = np.random.default_rng(0), np.arange(ROWS) % 2
    keys = rng.integers(0, 2**63, ROWS).astype(np.uint64)
    if case in table.TEXTS:
        lengths = np.full(ROWS, 9) if full else rng.integers(3, 19, ROWS)
        ids = [rng.integers(3, 60, length).astype(np.int64) for length in lengths]
        inputs = TextInputs(ids, keys, 1, 5, GPU, token_dropout)
    else:
        squares = rng.integers(0, 256, (ROWS, case.size, case.size, 3)).astype(np.uint8)
        inputs = ImageInputs(squares, keys, augment, 5, GPU)
    return Task(train=Rows(inputs, y), val=None, seed=3, checkpoint_seconds=1e9, device=GPU, **settings)


def train(t, gpu, backbone, task, *, boundary=2, prefix=None, phase=None, **settings):
    """Two epochs from the boundary on; what they waited for."""
    owned = [index for index, stage in enumerate(backbone.stages) if stage.tensors and index >= boundary]
    made = Phase(name="p", epochs=2, thaw=tuple(Thaw(i, "weights", 1e-3) for i in owned), head_rate=1e-3)
    plan = Plan(
        strategy="own", phases=(replace(made, **(phase or {})),), **({"batch_size": BATCH} | settings)
    )
    prefix = t.maker(backbone, task) if prefix is None else prefix
    result, _ = t.run(plan, backbone, task, prefix=watch_batches(prefix, gpu))
    assert np.isfinite([record.train_loss for record in result.history]).all()
    # Each step and its batch, four an epoch.
    assert gpu.watched == 2 * 2 * 4
    return gpu.found


# BERT stands for MiniLM, which is one; DistilBERT, RoBERTa and ModernBERT; Llama for the decoders.
NETWORKS = ("bert", "distilbert", "roberta", "modernbert", "deberta-v2", "llama")
NETWORKS += ("vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "test_resnet", "test_convnext")

# The library makes a number for DeBERTa's relative positions on the processor, once a pass, and sends it.
KNOWN = {"deberta-v2": {"type_as, waiting"}}


@pytest.mark.parametrize("boundary", [0, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_waits_for_nothing(t, gpu, name, boundary):
    found = train(t, gpu, backbone_of(name), task_of(name), boundary=boundary)
    assert set(found) == KNOWN.get(name, set())


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_nor_on_texts_without_padding(t, gpu, name):
    assert train(t, gpu, backbone_of(name), task_of(name, full=True)) == []


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama", "test_convnext"])
@pytest.mark.parametrize("held", [True, False])
def test_nor_where_the_frozen_part_is_stored(t, gpu, monkeypatch, tmp_path, name, held):
    monkeypatch.setattr("unfreeze.engine.shelf.has_room", lambda *_: held)
    backbone, task = backbone_of(name), task_of(name)
    prefix = t.maker(backbone, task, tmp_path, use="on")
    assert train(t, gpu, backbone, task, prefix=prefix) == []


@pytest.mark.parametrize("name", ["bert", "vit_small_patch14_dinov2"])
@pytest.mark.parametrize("kind", ["lora", "adapters"])
def test_nor_for_a_graft(t, gpu, name, kind):
    bare = backbone_of(name)
    graft = (
        Adapters(reduction=4, blocks=bare.blocks)
        if kind == "adapters"
        else Lora(rank=2, alpha=4.0, dropout=0.1, targets=resolve_targets(bare, ("linear",)).paths)
    )
    backbone = attach(bare, graft, seed=0)
    thaw = tuple(Thaw(index, "graft", 1e-3) for index in range(1, len(backbone.blocks) + 1))
    assert train(t, gpu, backbone, task_of(name), phase={"thaw": thaw}) == []


RECIPES = {
    "mixup": {"mixup": 0.3, "label_smoothing": 0.1},
    "averaged": {"ema": 0.9, "pull": 1e-3, "label_smoothing": 0.1},
    "pairs": {"phase": {"objective": "pairs", "head_rate": None}},
}


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("bert", "averaged"), ("bert", "pairs"), *(("test_convnext", recipe) for recipe in RECIPES)],
)
def test_nor_in_other_recipes(t, gpu, monkeypatch, name, recipe):
    # There is no such arithmetic here: of float16 the scale of the loss is left.
    for room in ("prefix", "suffix"):
        monkeypatch.setattr(f"unfreeze.engine.{room}.autocast", lambda *_: nullcontext())
    given = {"class_weight": np.array([0.5, 2.0], np.float32), "precisions": ("fp16",)}
    varied = {"token_dropout": 0.2} if name == "bert" else {"augment": "strong"}
    assert train(t, gpu, backbone_of(name), task_of(name, **given, **varied), **RECIPES[recipe]) == []


def test_what_is_timed_of_a_step_begins_on_the_device(t, gpu, monkeypatch, tmp_path):
    backbone, task = backbone_of("bert"), task_of("bert")
    maker = t.maker(backbone, task, tmp_path, use="auto")
    # A clock of nothing but waiting.
    for module in (storing, pacing):
        monkeypatch.setattr(module.time, "perf_counter", lambda: float(len(gpu.found)))
    measured = pacing.Pacer(t.plan_of(backbone, freeze=2), backbone, t.head_of(backbone), task, maker)
    with gpu.watch():
        pace = measured.measure(measured.plan.phases[0], steps=10)
        estimate = maker.measure(maker.build((2,)), 2, rounds=2, views=1)
    assert pace.step == pace.judged == Line()
    assert estimate.trained == pytest.approx(storing.LEAST_STEP_SECONDS / BATCH / 3)
    # The clock runs: what is written to a file is taken from the device first.
    assert pace.write.each > 0


def test_the_peak_of_an_epoch_is_all_that_is_held_but_for_what_was_held_before(t, gpu, monkeypatch):
    # A graph is replayed in memory that is held, and of which nothing is allocated any more.
    held, kept = 5_000, 700
    peak = held

    def give_back():
        nonlocal held
        held = kept

    def begin():
        nonlocal peak
        peak = held

    monkeypatch.setattr(torch.cuda, "empty_cache", give_back)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: begin())
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda *_: peak)
    backbone = backbone_of("test_convnext")
    result, _ = t.run(t.plan_of(backbone, freeze=4), backbone, task_of("test_convnext"))
    assert [record.peak_bytes for record in result.history] == [kept, kept]


def test_what_a_store_was_weighed_with_does_not_stay_on_the_device(t, gpu, tmp_path):
    backbone, task = backbone_of("bert"), task_of("bert")
    maker, built = t.maker(backbone, task, tmp_path, use="auto", budget=0), []
    build = maker.build

    def noted(keep):
        executor = build(keep)
        built.append(weakref.ref(executor))
        return executor

    maker.build = noted
    prefix = maker.make(t.plan_of(backbone, freeze=2).phases[0], 2, rounds=2)
    gc.collect()
    assert "--store-budget" in prefix.reason
    assert len(built) == 1
    assert built[0]() is None


def test_what_waits_is_seen(gpu):
    number = torch.zeros(2)
    for wait in (bool, float, torch.Tensor.tolist, lambda x: x[x == 0], lambda x: x.nonzero()):
        before = len(gpu.found)
        with gpu.watch():
            wait(number[0] if wait in (bool, float) else number)
        assert len(gpu.found) > before
    with gpu.watch():
        number.to(GPU)
    assert gpu.found[-1] == "to, waiting"
    # What is made without a device lies beside the processor, and so does what follows from it alone.
    for wait in (lambda x: x.to(x.device), lambda x: x.type_as(number), number.copy_):
        before = len(gpu.found)
        with gpu.watch():
            wait(torch.arange(4)[:2] * 2)
            assert len(gpu.found) == before + 1
            wait(torch.arange(4, device=number.device)[:2] + number)
        assert len(gpu.found) == before + 1
