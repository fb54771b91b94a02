from dataclasses import replace

import numpy as np
import pytest
import torch

from unfreeze.contracts import Passed
from unfreeze.engine import choice
from unfreeze.engine.choice import choose_executor, executor_of_trained, spread
from unfreeze.engine.frozen_pass import compute_features, open_store
from unfreeze.engine.precision import compare_precision
from unfreeze.errors import RequestError, UnfreezeError

ALL = (1, 2, 3)


class Skewed:
    """An executor whose features are too large by a share."""

    def __init__(self, inner, name, share):
        self.inner, self.name, self.share = inner, name, share
        self.precision, self.boundaries, self.device = name[-4:], inner.boundaries, "cpu"

    def __call__(self, batch):
        return Passed(tuple(summary * (1 + self.share) for summary in self.inner(batch).summaries))


@pytest.fixture
def builds(monkeypatch):
    """Builds torch executors in place of all; the list of names that were built, and the skew of each."""
    built, skews = [], {}
    real = choice.build_executor

    def build(name, backbone, **settings):
        built.append(name)
        return Skewed(real("torch-fp32", backbone, **settings), name, skews.get(name, 0.0))

    monkeypatch.setattr(choice, "build_executor", build)
    return built, skews


@pytest.fixture
def data(toys):
    return toys.images(), toys.dataset([toys.picture(seed) for seed in range(40)], "image")


def offer(monkeypatch, *names):
    monkeypatch.setattr(choice, "available_executors", lambda device: names)


def choose(data, tmp_path, **settings):
    options = {"boundaries": ALL, "device": "cpu", "precision": "fp32", "cache": tmp_path} | settings
    return choose_executor(*data, **options)


def test_openvino_is_chosen_with_its_error_measured_on_real_rows(data, toys, tmp_path):
    chosen = choose(data, tmp_path)
    assert chosen.name == chosen.executor.name == "openvino-fp32"
    assert chosen.error.rows == 32
    assert 0 < chosen.error.relative_max < 1e-5
    assert f"{chosen.error.relative_max:.1e}" in chosen.reason
    batch = toys.image_batch(2)
    with torch.no_grad():
        wanted = data[0].run(batch).h
    assert float((chosen.executor(batch).summaries[-1] - wanted).abs().max()) < 1e-5


def test_an_executor_that_is_too_far_from_torch_is_refused_with_the_reason(
    data, tmp_path, monkeypatch, builds
):
    offer(monkeypatch, "openvino-fp32", "torch-fp32")
    builds[1]["openvino-fp32"] = 2e-3
    chosen = choose(data, tmp_path)
    assert chosen.name == "torch-fp32"
    assert chosen.error.relative_max == pytest.approx(2e-3, rel=1e-2)
    assert "too far" in chosen.reason


def test_what_openvino_cannot_convert_runs_with_torch(data, tmp_path, monkeypatch):
    real = choice.build_executor

    def build(name, *args, **settings):
        if name.startswith("openvino"):
            raise RuntimeError("Operator aten::odd is not supported\nmore")
        return real(name, *args, **settings)

    monkeypatch.setattr(choice, "build_executor", build)
    chosen = choose(data, tmp_path)
    assert chosen.name == "torch-fp32"
    assert "aten::odd" in chosen.reason
    assert "more" not in chosen.reason


def test_without_openvino_torch_runs(data, tmp_path, monkeypatch):
    offer(monkeypatch, "torch-fp32")
    chosen = choose(data, tmp_path)
    assert (chosen.name, chosen.error) == ("torch-fp32", None)
    assert "not installed" in chosen.reason


def test_a_measured_error_is_remembered_and_nothing_is_built_until_a_batch_comes(
    data, toys, tmp_path, builds
):
    first = choose(data, tmp_path)
    assert sorted(builds[0]) == ["openvino-fp32", "torch-fp32"]
    builds[0].clear()
    second = choose(data, tmp_path)
    assert second.error == first.error
    assert builds[0] == []
    assert second.executor.boundaries == ALL
    for _ in range(2):
        second.executor(toys.image_batch(1))
    assert builds[0] == ["openvino-fp32"]


def test_other_rows_or_weights_are_measured_again(data, toys, tmp_path, builds):
    choose(data, tmp_path)
    builds[0].clear()
    choose(data, tmp_path, rows=[0, 1, 2])
    assert len(builds[0]) == 2
    choose((toys.images(seed=1), data[1]), tmp_path)
    assert len(builds[0]) == 4


def test_rows_that_cannot_be_read_do_not_stop_the_choice(toys, tmp_path):
    chosen = choose((toys.images(), toys.dataset([b"", None], "image")), tmp_path)
    assert chosen.name == "torch-fp32"
    some = choose((toys.images(), toys.dataset([b"", toys.picture(1)], "image")), tmp_path)
    assert (some.name, some.error.rows) == ("openvino-fp32", 1)


def test_bf16_that_is_not_there_is_a_request_that_cannot_be_met(data, tmp_path, monkeypatch):
    offer(monkeypatch, "openvino-fp32", "torch-fp32")
    monkeypatch.setattr(
        choice, "why_unavailable", lambda device: {"torch-bf16": "not available on this processor"}
    )
    with pytest.raises(RequestError, match="not available on this processor"):
        choose(data, tmp_path, precision="bf16")


def test_beside_bf16_that_was_asked_for_fp32_is_measured_too(data, tmp_path, monkeypatch, builds):
    offer(monkeypatch, "openvino-fp32", "openvino-bf16", "torch-fp32", "torch-bf16")
    builds[1].update({"openvino-bf16": 0.007, "openvino-fp32": 0.0})
    assert choose(data, tmp_path / "near", precision="bf16").exact.name == "openvino-fp32"
    builds[1]["openvino-fp32"] = 2e-3
    assert choose(data, tmp_path / "far", precision="bf16").exact.name == "torch-fp32"


def trained(toys, *, like="openvino-fp32", batches=None):
    """What is chosen for a network with new weights beside an executor of that name."""
    given = toys.image_batch(8)
    at_hand = Skewed(choice.build_executor("torch-fp32", toys.images(), boundaries=ALL), like, 0.0)
    taken = [] if batches is None else batches
    return executor_of_trained(
        toys.images(seed=1), ALL, like=at_hand, batch=lambda: taken.append(given) or given
    )


def test_a_network_with_new_weights_is_measured_again(toys):
    found = trained(toys)
    assert found.executor.name == "openvino-fp32"
    assert 0 < found.error.relative_max < 1e-5
    assert f"{found.error.relative_max:.1e} at most from PyTorch in fp32 on 8 rows" in found.reason


def test_torch_takes_the_place_of_a_conversion_that_new_weights_show_to_be_wrong(toys, builds):
    builds[1]["openvino-fp32"] = 2e-3
    found = trained(toys)
    assert found.executor.name == "torch-fp32"
    assert "too far" in found.reason


def test_new_weights_that_openvino_cannot_convert_run_with_torch(toys, monkeypatch):
    real = choice.build_executor

    def build(name, *args, **settings):
        if name.startswith("openvino"):
            raise RuntimeError("Operator aten::odd is not supported")
        return real(name, *args, **settings)

    monkeypatch.setattr(choice, "build_executor", build)
    found = trained(toys)
    assert found.executor.name == "torch-fp32"
    assert "aten::odd" in found.reason


def test_nothing_is_read_to_measure_torch_against_itself(toys, builds):
    batches = []
    found = trained(toys, like="torch-bf16", batches=batches)
    assert (found.executor.name, found.error, batches) == ("torch-fp32", None, [])


def test_fp16_is_refused_on_a_processor(data, tmp_path):
    with pytest.raises(RequestError, match="--precision fp16 cannot be had on cpu: it is for CUDA GPUs"):
        choose(data, tmp_path, precision="fp16")


def test_bf16_is_taken_when_asked_for_with_its_error(data, tmp_path, monkeypatch, builds):
    offer(monkeypatch, "openvino-fp32", "openvino-bf16", "torch-fp32", "torch-bf16")
    builds[1]["openvino-bf16"] = 0.07
    chosen = choose(data, tmp_path, precision="bf16")
    assert chosen.name == "openvino-bf16"
    assert chosen.error.relative_median == pytest.approx(0.07, rel=1e-3)
    assert "7.0%" in chosen.reason


@pytest.fixture
def with_bf16(toys, monkeypatch, builds):
    """300 pictures, a processor that offers bf16, and the seconds that each executor is said to take."""
    offer(monkeypatch, "openvino-fp32", "openvino-bf16", "torch-fp32", "torch-bf16")
    seconds = {"openvino-fp32": 4.0, "openvino-bf16": 0.1}
    monkeypatch.setattr(choice, "_seconds", lambda executor, batches: seconds[executor.name])
    return toys.dataset([toys.picture(seed) for seed in range(300)], "image"), seconds


@pytest.mark.parametrize(("skew", "name"), [(1e-6, "openvino-bf16"), (0.5, "openvino-fp32")])
def test_bf16_is_taken_by_itself_only_when_it_makes_no_difference(
    toys, tmp_path, builds, with_bf16, skew, name
):
    builds[1]["openvino-bf16"] = skew
    chosen = choose((toys.images(), with_bf16[0]), tmp_path, precision="auto")
    assert chosen.name == name
    assert chosen.verdict.rows == 256
    assert chosen.verdict.accepted == (name == "openvino-bf16")


def test_bf16_that_agrees_at_the_last_boundary_alone_is_refused(toys, tmp_path, with_bf16, monkeypatch):
    widths = []

    def judged(low, high, labels):
        widths.append(low.shape[1])
        verdict = compare_precision(low, high, labels)
        # Of all boundaries beside each other, as a head may read them that is shipped.
        return verdict if len(widths) == 1 else replace(verdict, flips=9, accepted=False)

    monkeypatch.setattr(choice, "compare_precision", judged)
    chosen = choose((toys.images(), with_bf16[0]), tmp_path, precision="auto")
    assert widths[0] < widths[1]
    assert (chosen.name, chosen.verdict.flips) == ("openvino-fp32", 9)


def test_bf16_is_not_tried_where_the_trial_would_take_longer(toys, tmp_path, builds, with_bf16):
    dataset, seconds = with_bf16
    seconds["openvino-bf16"] = 1.0
    chosen = choose((toys.images(), dataset), tmp_path, precision="auto")
    assert (chosen.name, chosen.verdict) == ("openvino-fp32", None)
    assert "300 rows it would save less" in chosen.reason
    few = toys.dataset([toys.picture(seed) for seed in range(200)], "image")
    assert choose((toys.images(), few), tmp_path, precision="auto").name == "openvino-fp32"


def test_what_became_of_bf16_is_remembered(toys, tmp_path, builds, with_bf16):
    dataset, seconds = with_bf16
    first = choose((toys.images(), dataset), tmp_path, precision="auto")
    builds[0].clear()
    # Deciding again would end otherwise.
    seconds["openvino-bf16"] = 9.0
    second = choose((toys.images(), dataset), tmp_path, precision="auto")
    assert (second.name, second.reason, second.verdict) == (first.name, first.reason, first.verdict)
    assert second.name == "openvino-bf16"
    assert builds[0] == []


def test_features_of_the_trial_are_not_computed_again(toys, tmp_path, with_bf16):
    dataset, _ = with_bf16
    backbone = toys.images()

    def store(executor):
        return open_store(backbone, executor, ALL, root=tmp_path / "features")

    chosen = choose((backbone, dataset), tmp_path, precision="auto", store=store)
    passed = compute_features(
        dataset,
        backbone,
        executor=chosen.executor,
        rows=np.arange(300),
        boundaries=ALL,
        store=store(chosen.executor),
    )
    assert (chosen.name, passed.computed, passed.reused) == ("openvino-bf16", 44, 256)


def test_a_device_that_is_not_there_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match="--device cuda is not there"):
        choose(data, tmp_path, device="cuda")
    assert choice.resolve_device("auto") in ("cpu", "mps")


def test_sampled_rows_are_spread_over_all(data):
    assert spread(np.arange(10), 3).tolist() == [0, 4, 9]
    assert spread(np.arange(3), 5).tolist() == [0, 1, 2]


def made(rows=256, width=20, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    centres = rng.normal(size=(3, width))
    return (centres[labels] + 2.0 * rng.normal(size=(rows, width))).astype(np.float32), labels


def test_equal_features_make_no_difference():
    features, labels = made()
    verdict = compare_precision(features, features.copy(), labels)
    assert (verdict.rows, verdict.flips, verdict.log_loss_difference) == (256, 0, 0.0)
    assert verdict.accepted


def test_rounding_to_bfloat16_is_accepted_and_noise_of_a_third_is_refused():
    features, labels = made()
    rounded = torch.from_numpy(features).bfloat16().float().numpy()
    assert compare_precision(rounded, features, labels).accepted
    noise = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    verdict = compare_precision(features + 0.7 * noise, features, labels)
    assert verdict.flips > 1
    assert verdict.low <= verdict.log_loss_difference <= verdict.high
    assert not verdict.accepted


def test_many_flips_refuse_even_when_log_loss_stays():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(256, 4)).astype(np.float32)
    labels = rng.integers(0, 2, 256)
    verdict = compare_precision(features + 0.1 * rng.normal(size=features.shape), features, labels)
    assert max(abs(verdict.low), abs(verdict.high)) < 0.005
    assert verdict.flips > 1
    assert not verdict.accepted


def test_one_class_cannot_judge():
    with pytest.raises(UnfreezeError, match="one class"):
        compare_precision(np.ones((9, 2)), np.ones((9, 2)), np.zeros(9, dtype=int))


@pytest.mark.parametrize("classes", [2, 3])
def test_answers_that_are_certain_are_compared_by_numbers(classes):
    random, labels = np.random.default_rng(0), np.arange(160) % classes
    high = random.normal(size=(160, 20)).astype(np.float32)
    high[:, 0] += labels
    low = high.copy()
    low[7] *= 1e5
    verdict = compare_precision(low, high, labels)
    assert not verdict.accepted
    assert np.isfinite([verdict.log_loss_difference, verdict.low, verdict.high]).all()
