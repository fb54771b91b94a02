"""A clock that is set while a training runs: what it says is written down, and decides nothing."""

import os
import time
from datetime import datetime, timedelta
from itertools import cycle

import unfreeze

# About three years, ahead and back.
JUMP = 1e8
SETTINGS = {
    "device": "cpu",
    "epochs": 2,
    "batch_size": 8,
    "precision": "fp32",
    "store": "on",
    "strategy": "gradual",
}


def jump(monkeypatch):
    """Let the wall clock say another year each time that it is asked; returns what it was asked for."""
    by, asked, real, real_ns = cycle((JUMP, -JUMP, 0.0)), [], time.time, time.time_ns

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            asked.append("now")
            return datetime.now(tz) + timedelta(seconds=next(by))

    monkeypatch.setattr(time, "time", lambda: real() + next(by))
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(next(by) * 1e9))
    monkeypatch.setattr("unfreeze.training.saving.datetime", Jumping)
    monkeypatch.setattr("unfreeze.reporting.datetime", Jumping)
    return asked


def shift_files(folder):
    """Give all files below the folder times that no order of events explains."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file, by in zip(files, cycle((JUMP, -JUMP)), strict=False):
        then = file.stat().st_mtime + by
        os.utime(file, (then, then))
    return len(files)


def bits(run):
    return {name: (run.folder / name).read_bytes() for name in ("model.safetensors", "predictions.csv")}


def test_a_clock_that_jumps_changes_no_bit_of_a_training_and_of_a_resumed_one(
    photos, tmp_path, tiny_vit, monkeypatch, plain_torch, stopping
):
    settings = SETTINGS | {"backbone": tiny_vit}
    plain = unfreeze.train(str(photos), output_dir=tmp_path / "plain", **settings)
    shift_files(tmp_path / "unfreeze-cache")
    asked = jump(monkeypatch)
    jumped = unfreeze.train(str(photos), output_dir=tmp_path / "jumped", **settings)
    assert asked, "no clock was asked that jumps"
    assert bits(jumped) == bits(plain)

    with stopping(4):
        unfreeze.train(str(photos), output_dir=tmp_path / "cut", **settings)
    assert shift_files(tmp_path / "cut") > 2
    resumed = unfreeze.train(str(photos), output_dir=tmp_path / "cut", resume=True, **settings)
    assert bits(resumed) == bits(plain)
