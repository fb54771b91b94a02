"""What the machine tells is measured, and what it does not tell is left out."""

from pathlib import Path

import pytest

from unfreeze.comparing.cells import _peak_bytes
from unfreeze.comparing.meter import Meter


def package(folder, used, limit=1_000_000):
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(str(used))
    (folder / "max_energy_range_uj").write_text(str(limit))


def test_energy_is_summed_over_packages_and_a_counter_may_start_again(tmp_path):
    package(tmp_path / "intel-rapl:0", 900_000)
    package(tmp_path / "intel-rapl:1", 100)
    package(tmp_path / "intel-rapl:0:0", 5)
    with Meter(powercap=tmp_path) as meter:
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100000")
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("300100")
        (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("999")
    assert meter.joules == pytest.approx(0.2 + 0.3)


def test_no_energy_is_invented(tmp_path):
    with Meter(powercap=tmp_path / "nothing") as meter:
        pass
    assert meter.joules is None
    package(tmp_path / "intel-rapl:0", 1)
    package(tmp_path / "intel-rapl:1", 1)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    with Meter(powercap=tmp_path) as meter:
        pass
    assert meter.joules is None


def test_the_processors_energy_does_not_stand_for_an_accelerators(tmp_path, monkeypatch):
    package(tmp_path / "intel-rapl:0", 0)
    monkeypatch.setattr("unfreeze.comparing.meter._accelerator_peak", lambda: 2_000_000)
    with Meter(powercap=tmp_path) as meter:
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("900000")
    assert meter.joules is None
    assert meter.peak_bytes == 2_000_000


def test_of_an_accelerator_all_that_is_held_counts(tmp_path, monkeypatch):
    import torch

    found = {
        "is_available": True,
        "is_initialized": True,
        "max_memory_allocated": 3,
        "max_memory_reserved": 8,
    }
    found |= {"empty_cache": None, "reset_peak_memory_stats": None}
    for name, value in found.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    with Meter(powercap=tmp_path) as meter:
        pass
    assert (meter.peak_bytes, meter.accelerated) == (8, True)


def test_a_training_on_an_accelerator_took_what_its_largest_epoch_took(tmp_path):
    used = Meter(peak_bytes=50, accelerated=True)
    assert _peak_bytes(used, tmp_path) == 50
    (tmp_path / "history.csv").write_text("phase,epoch,peak_bytes\na,0,40\na,1,70\nb,0,60\n")
    assert _peak_bytes(used, tmp_path) == 70
    assert _peak_bytes(Meter(peak_bytes=90, accelerated=True), tmp_path) == 90
    # What a process says of itself there is of all its life.
    assert _peak_bytes(Meter(peak_bytes=50), tmp_path) == 50


def test_memory_that_cannot_be_reset_is_left_out(tmp_path):
    with Meter(powercap=tmp_path, process=tmp_path) as meter:
        pass
    assert meter.peak_bytes is None


def may_reset_peak():
    """Whether the system lets a process begin its peak anew; asked without the meter, which may be wrong of it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not may_reset_peak(), reason="this system does not let a process reset its peak")
def test_the_peak_is_that_of_the_inside_alone(tmp_path):
    first = bytearray(300 * 2**20)
    with Meter(powercap=tmp_path) as larger:
        second = bytearray(300 * 2**20)
    del first, second
    with Meter(powercap=tmp_path) as smaller:
        pass
    assert larger.peak_bytes - smaller.peak_bytes > 500 * 2**20
