import socket
import subprocess
import sys
import warnings

import pytest
import torch

from unfreeze.contracts import Executor, State
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.executors import available_executors, build_executor, building, measure_error, processor
from unfreeze.executors.torch_ import TorchExecutor

ALL = (1, 2, 3)


def reference(backbone, batch):
    with torch.no_grad():
        return [backbone.summary(backbone.run(batch, 0, boundary), boundary) for boundary in ALL]


@pytest.mark.parametrize("name", ["torch-fp32", "openvino-fp32"])
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_summaries_equal_those_of_the_backbone_at_every_boundary_and_batch_size(toys, name, rows, modality):
    backbone = toys.images() if modality == "image" else toys.texts()
    batch = toys.image_batch(rows) if modality == "image" else toys.text_batch(rows)
    executor = build_executor(name, backbone, boundaries=ALL)
    passed = executor(batch)
    assert isinstance(executor, Executor)
    assert (executor.name, executor.precision, executor.boundaries, executor.device) == (
        name,
        "fp32",
        ALL,
        "cpu",
    )
    assert passed.states == ()
    for got, wanted in zip(passed.summaries, reference(backbone, batch), strict=True):
        assert got.dtype == torch.float32
        assert got.shape == wanted.shape
        assert float((got - wanted).abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["torch-fp32", "openvino-fp32"])
def test_padding_changes_nothing(toys, name):
    batch = toys.text_batch(5, longest=11)
    wider = State(
        torch.nn.functional.pad(batch.h, (0, 13), value=7), torch.nn.functional.pad(batch.mask, (0, 13))
    )
    executor = build_executor(name, toys.texts(), boundaries=ALL)
    for a, b in zip(executor(batch).summaries, executor(wider).summaries, strict=True):
        assert float((a - b).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["torch-fp32", "openvino-fp32"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_every_kept_state_leads_to_the_same_feature(toys, name, modality):
    backbone = toys.images() if modality == "image" else toys.texts()
    batch = toys.image_batch(3) if modality == "image" else toys.text_batch(3)
    passed = build_executor(name, backbone, boundaries=(1,), keep=(1, 2, 3))(batch)
    with torch.no_grad():
        whole = backbone.run(batch).h
        resumed = [backbone.run(state, place + 1).h for place, state in enumerate(passed.states)]
    assert len(passed.summaries) == 1
    assert len(resumed) == 3
    for one in resumed:
        assert float((one - whole).abs().max()) < 1e-5


def test_a_stored_state_can_be_the_input_of_a_suffix_that_trains(toys):
    backbone = toys.images()
    executor = build_executor("torch-fp32", backbone, boundaries=(), keep=(1,))
    backbone.run(executor(toys.image_batch(2)).states[0], 1).h.sum().backward()
    assert backbone.module.block.weight.grad is not None


def test_running_moves_no_norm_statistics_and_leaves_training_mode_as_it_was(toys):
    backbone = toys.images()
    backbone.module.train()
    before = backbone.module.stem[1].running_mean.clone()
    got = TorchExecutor(backbone, precision="fp32", boundaries=ALL)(toys.image_batch(4)).summaries
    assert torch.equal(backbone.module.stem[1].running_mean, before)
    assert all(module.training for module in backbone.module.modules())
    backbone.module.eval()
    for a, b in zip(got, reference(backbone, toys.image_batch(4)), strict=True):
        assert float((a - b).abs().max()) < 1e-6


def test_a_converted_model_does_not_follow_weights_that_change_later(toys, tmp_path):
    backbone, batch = toys.texts(), toys.text_batch(4)
    executors = [
        build_executor("openvino-fp32", backbone, boundaries=ALL, cache_dir=folder)
        for folder in (None, tmp_path)
    ]
    before = [executor(batch).summaries[-1] for executor in executors]
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter.zero_()
    for executor, wanted in zip(executors, before, strict=True):
        assert torch.equal(executor(batch).summaries[-1], wanted)
        assert float(wanted.abs().max()) > 0.1


def test_conversion_speaks_to_nobody_on_the_network(toys, monkeypatch):
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **more: asked.append(address) or [])
    build_executor("openvino-fp32", toys.images(), boundaries=ALL)
    assert asked == []


def test_a_float_batch_is_refused_by_a_model_for_bytes(toys):
    executor = build_executor("openvino-fp32", toys.images(), boundaries=ALL)
    with pytest.raises(TypeError, match="uint8"):
        executor(State(toys.image_batch(2).h.float()))


def test_bfloat16_is_near_but_not_equal(toys):
    backbone = toys.images()
    low = TorchExecutor(backbone, precision="bf16", boundaries=ALL)
    error = measure_error(low, build_executor("torch-fp32", backbone, boundaries=ALL), [toys.image_batch(8)])
    assert 1e-4 < error.relative_median < 0.05
    assert low.name == "torch-bf16"


class Fixed:
    name = "fixed"

    def __init__(self, *summaries):
        self.summaries = tuple(torch.tensor(summary) for summary in summaries)

    def __call__(self, batch):
        return self


def test_the_error_is_the_norm_of_the_difference_over_the_norm_of_the_reference():
    batch = State(torch.zeros(2, 1))
    error = measure_error(Fixed([[3.0, 4.0], [0.0, 2.0]]), Fixed([[3.0, 3.0], [0.0, 1.0]]), [batch, batch])
    first, second = 1 / 18**0.5, 1.0
    assert error.rows == 4
    assert error.max_abs == pytest.approx(1.0)
    assert error.relative_max == pytest.approx(second)
    assert error.relative_median == pytest.approx(first)


def test_what_is_not_a_number_is_infinitely_wrong():
    batch = State(torch.zeros(1, 1))
    error = measure_error(Fixed([[float("nan")]]), Fixed([[1.0]]), [batch])
    assert error.max_abs == error.relative_max == float("inf")


def test_an_error_without_rows_is_refused():
    with pytest.raises(UnfreezeError, match="readable row"):
        measure_error(Fixed([[1.0]]), Fixed([[1.0]]), [])


def test_bf16_is_offered_only_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(building, "has_bf16", lambda: False)
    assert available_executors("cpu") == ("openvino-fp32", "torch-fp32")
    monkeypatch.setattr(building, "has_bf16", lambda: True)
    assert available_executors("cpu") == ("openvino-fp32", "openvino-bf16", "torch-fp32", "torch-bf16")
    assert available_executors("cuda:1") == ("torch-fp32", "torch-bf16")
    assert available_executors("mps") == ("torch-fp32",)


def test_without_openvino_torch_remains_and_the_error_names_the_extra(toys, monkeypatch):
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(building, "has_bf16", lambda: False)
    assert available_executors() == ("torch-fp32",)
    with pytest.raises(RequestError, match=r"pip install 'unfreeze\[openvino\]'"):
        build_executor("openvino-fp32", toys.images(), boundaries=ALL)


def test_requests_that_cannot_be_met_say_why(toys, monkeypatch):
    monkeypatch.setattr(building, "has_bf16", lambda: False)
    with pytest.raises(RequestError, match="Did you mean 'torch-fp32'"):
        build_executor("torch-fp23", toys.images(), boundaries=ALL)
    with pytest.raises(RequestError, match="not available on this processor"):
        build_executor("torch-bf16", toys.images(), boundaries=ALL)
    with pytest.raises(ValueError, match="ascend"):
        build_executor("torch-fp32", toys.images(), boundaries=(2, 1))
    with pytest.raises(ValueError, match=r"1\.\.3"):
        build_executor("torch-fp32", toys.images(), boundaries=(1, 4))


def test_the_processor_is_read_from_its_description(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: Some CPU\nflags\t\t: sse avx512_bf16\n")
    assert processor.has_bf16(file)
    assert processor.processor_name(file) == "Some CPU"
    file.write_text("flags\t\t: sse avx2\n")
    assert not processor.has_bf16(file)
    assert not processor.has_bf16(tmp_path / "nothing")


def test_cores_are_no_more_than_the_control_group_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    quota = tmp_path / "cpu.max"
    quota.write_text("250000 100000\n")
    assert processor.available_cores(quota) == 2
    quota.write_text("50000 100000\n")
    assert processor.available_cores(quota) == 1
    quota.write_text("max 100000\n")
    assert processor.available_cores(quota) == 8
    assert processor.available_cores(tmp_path / "nothing") == 8
    for told, cores in (("3", 3), ("99", 8), ("0", 1), ("many", 8)):
        monkeypatch.setenv(processor.CORES, told)
        assert processor.available_cores(quota) == cores


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_gpu_gives_the_same_features_and_leaves_the_backbone_where_it_is(toys, modality):
    backbone = toys.images() if modality == "image" else toys.texts()
    batch = toys.image_batch(9) if modality == "image" else toys.text_batch(9)
    reference = build_executor("torch-fp32", backbone, boundaries=ALL)
    full = build_executor("torch-fp32", backbone, boundaries=ALL, device="cuda")
    assert measure_error(full, reference, [batch]).relative_max < 1e-5
    assert full(batch).summaries[0].device.type == "cpu"
    assert full(batch).summaries[0].is_pinned()
    low = build_executor("torch-bf16", backbone, boundaries=ALL, device="cuda")
    assert 1e-4 < measure_error(low, reference, [batch]).relative_median < 0.05
    (state,) = build_executor("torch-fp32", backbone, boundaries=(1,), keep=(2,), device="cuda")(batch).states
    with torch.no_grad():
        assert float((backbone.run(state, 2).h - backbone.run(batch).h).abs().max()) < 1e-5
    assert {parameter.device.type for parameter in backbone.module.parameters()} == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp32_on_a_gpu_is_float32_and_not_tensorfloat(toys):
    backbone = toys.images()
    backbone.module.stem[0] = torch.nn.Conv2d(3, 256, 3, stride=2, padding=1)
    backbone.module.stem[1] = torch.nn.BatchNorm2d(256).eval()
    backbone.module.block = torch.nn.Conv2d(256, 256, 3, padding=1)
    before = torch.backends.cudnn.allow_tf32
    full = build_executor("torch-fp32", backbone, boundaries=ALL, device="cuda")
    error = measure_error(
        full, build_executor("torch-fp32", backbone, boundaries=ALL), [toys.image_batch(64)]
    )
    assert error.relative_max < 1e-5
    assert torch.backends.cudnn.allow_tf32 == before


def test_threads_are_given_back(toys):
    before = torch.get_num_threads()
    build_executor("torch-fp32", toys.texts(), boundaries=ALL, threads=1)(toys.text_batch(2))
    assert torch.get_num_threads() == before


def test_conversion_hides_no_warning_for_good(toys):
    before = list(warnings.filters)
    build_executor("openvino-fp32", toys.images(), boundaries=ALL)
    assert warnings.filters == before


@pytest.mark.parametrize(("machine", "pinned"), [(1, True), (64, False)])
def test_threads_are_pinned_by_a_process_that_has_the_machine_for_itself(toys, monkeypatch, machine, pinned):
    from unfreeze.executors import openvino_

    asked = {}
    compile_model = openvino_.ov.Core.compile_model

    def noted(core, model, device, settings):
        asked.update(settings)
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(openvino_.ov.Core, "compile_model", noted)
    monkeypatch.setattr(openvino_.os, "cpu_count", lambda: machine)
    build_executor("openvino-fp32", toys.images(), boundaries=ALL, threads=1)
    assert asked["ENABLE_CPU_PINNING"] is pinned


def test_a_signal_is_survived_after_executors_that_went_in_any_order(tiny_vit):
    script = f"""
import signal
from unfreeze.backbones import load_backbone
from unfreeze.executors import build_executor

backbone = load_backbone({tiny_vit!r}, modality="image", image_size=32)
built = [build_executor("openvino-fp32", backbone, boundaries=(number,)) for number in (1, 2, 3)]
while built:
    built.pop(0)
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
