"""Facts gathered from a backbone and its data: the shift from running statistics, and free memory."""

import pytest
import torch
from torch import nn

from unfreeze.contracts import State
from unfreeze.training.facing import _free_memory, measure_shift


def pictures(rows, seed=0, low=0, high=256):
    random = torch.Generator().manual_seed(seed)
    return State(torch.randint(low, high, (rows, 8, 8, 3), generator=random, dtype=torch.uint8))


def learn_statistics(backbone, batch):
    """Running statistics become those of the batch."""
    for module in backbone.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    backbone.module.train()
    with torch.no_grad():
        backbone.run(batch)
    backbone.module.eval()


def test_data_that_the_statistics_came_from_are_not_shifted(t):
    backbone, batch = t.toy("cnn"), pictures(64)
    learn_statistics(backbone, batch)
    found = measure_shift(backbone, [batch])
    assert (found.norms, found.rows) == (3, 64)
    assert found.early == pytest.approx(0, abs=1e-5)
    # Above the first norm a variance that was estimated differs from the one that was used.
    assert found.late == pytest.approx(0, abs=1e-3)


def test_halves_of_the_data_give_the_mean_of_the_whole(t):
    backbone, batch = t.toy("cnn"), pictures(64)
    learn_statistics(backbone, batch)
    halves = [State(batch.h[:40]), State(batch.h[40:])]
    assert measure_shift(backbone, halves).early == pytest.approx(0, abs=1e-5)


def test_a_known_shift_is_found_in_the_layer_that_has_it(t):
    backbone, batch = t.toy("cnn"), pictures(64)
    learn_statistics(backbone, batch)
    first, last = backbone.module.stem.norm, backbone.module.block2.norm
    first.running_mean += 2 * (first.running_var + first.eps).sqrt()
    found = measure_shift(backbone, [batch])
    assert found.early == pytest.approx(2, abs=1e-4)
    learn_statistics(backbone, batch)
    last.running_mean -= 3 * (last.running_var + last.eps).sqrt()
    found = measure_shift(backbone, [batch])
    assert found.early == pytest.approx(0, abs=1e-5)
    assert found.late == pytest.approx(3, abs=1e-3)


def test_darker_pictures_lie_further_away(t):
    backbone, batch = t.toy("cnn"), pictures(64)
    learn_statistics(backbone, batch)
    shifts = [measure_shift(backbone, [pictures(64, high=high)]).early for high in (256, 128, 32)]
    assert shifts[0] < shifts[1] < shifts[2]


def test_looking_changes_no_bit_and_no_mode_and_leaves_no_hook(t):
    backbone, batch = t.toy("cnn"), pictures(16)
    backbone.module.train()
    backbone.module.block1.eval()
    modes = {name: module.training for name, module in backbone.module.named_modules()}
    before = t.tensors_of(backbone)
    measure_shift(backbone, [batch])
    assert t.same(before, t.tensors_of(backbone))
    assert modes == {name: module.training for name, module in backbone.module.named_modules()}
    assert not any(module._forward_pre_hooks for module in backbone.module.modules())


@pytest.mark.parametrize("kind", ["vit", "text"])
def test_a_network_without_running_statistics_has_no_shift(t, kind):
    assert (
        measure_shift(t.toy(kind), [t.task_of(kind).train.inputs.batch(torch.arange(4).numpy(), None)])
        is None
    )


def test_free_memory_is_bounded_by_the_control_group(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 999 kB\nMemAvailable:   2048 kB\n")
    assert _free_memory(tmp_path / "meminfo", tmp_path) == 2048 * 1024
    (tmp_path / "memory.current").write_text("800\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert _free_memory(tmp_path / "meminfo", tmp_path) == 200
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 500\nactive_file 50\n")
    assert _free_memory(tmp_path / "meminfo", tmp_path) == 700
    (tmp_path / "memory.max").write_text("max\n")
    assert _free_memory(tmp_path / "meminfo", tmp_path) == 2048 * 1024
    assert _free_memory(tmp_path / "nowhere", tmp_path) > 0
