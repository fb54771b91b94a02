"""``train --devices 2`` as a user types it: the same training, whatever becomes of one of the processes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from unfreeze.data.reading import HASH_BYTES

pytestmark = pytest.mark.slow

PARTIAL = (
    "--strategy",
    "partial",
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--precision",
    "fp32",
)


def cache_of(output):
    """A cache of the run's own: nothing of another one is found there."""
    return output.with_name(f"{output.name}, cache")


def begin(photos, output, *options):
    command = [sys.executable, "-m", "unfreeze", "train", str(photos), "--output-dir", str(output), *options]
    # As a user's environment is: nothing of the test's own about threads, and no device that is named.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    environment["UNFREEZE_CACHE"] = str(cache_of(output))
    return subprocess.Popen(
        command,
        env=environment,
        cwd=output.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(photos, output, *options):
    process = begin(photos, output, *options)
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def losses(run):
    with (run / "history.csv").open(newline="") as file:
        return [[float(row[name]) for name in ("train_loss", "val_log_loss")] for row in csv.DictReader(file)]


def stored(output):
    """Every row of features in the run's cache, by content; the processes may have left them in any order."""
    found = {}
    for folder in (cache_of(output) / "features").glob("*"):
        kept = json.loads((folder / "meta.json").read_text())
        index, rows = ((folder / f"{name}.{kept['dtype']}").read_bytes() for name in ("index", "rows"))
        entry, row = (len(column) // kept["count"] for column in (index, rows))
        for place in range(kept["count"]):
            found[index[place * entry :][:HASH_BYTES]] = rows[place * row :][:row]
    return found


def process_of(rank, parent):
    """The process of this rank that ``parent`` has started."""
    for folder in Path("/proc").iterdir():
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            above = int(re.search(r"^PPid:\t(\d+)", (folder / "status").read_text(), re.M)[1])
        except (OSError, TypeError):
            continue
        if above == parent and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"there is no process {rank}")


@pytest.fixture(scope="module")
def alone(photos, tiny_vit, tmp_path_factory):
    """Trains in one process, once for each way with the store, and gives the run."""

    @cache
    def run(store):
        output = tmp_path_factory.mktemp("alone") / "one"
        status, said = train(photos, output, "--backbone", tiny_vit, *PARTIAL, "--store", store)
        assert status == 0, said
        return output

    return run


@pytest.mark.parametrize(("store", "cut"), [("on", False), ("off", False), ("on", True)], ids=str)
def test_two_processes_train_as_one_and_one_speaks(alone, photos, tiny_vit, monkeypatch, store, cut):
    one = alone(store)
    if cut:
        # As `accelerate launch` tells it, where its configuration asks for FSDP.
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "2")
    two = one.with_name(f"two, cut: {cut}")
    status, said = train(photos, two, "--backbone", tiny_vit, *PARTIAL, "--store", store, "--devices", "2")
    assert status == 0, said
    assert ("FSDP cuts 3 stages over 2 processes" in said) == cut
    np.testing.assert_allclose(losses(two), losses(one), atol=1e-5)
    assert stored(two) == stored(one)
    assert bool(stored(one)) == (store == "on")
    assert said.count("Plan partial") == 1
    assert "processes:" in (two / "config.yaml").read_text()
    assert ("FSDP cuts what is trained" in (two / "config.yaml").read_text()) == cut
    assert "processes:" not in (one / "config.yaml").read_text()


def test_auto_tries_and_trains_with_all_of_them(photos, tiny_vit, tmp_path):
    options = ("--backbone", tiny_vit, "--time-limit", "5s", "--devices", "2")
    status, said = train(photos, tmp_path / "run", *options)
    assert status == 0, said
    assert (tmp_path / "run" / "choice.json").exists()


def test_a_killed_process_ends_the_run_which_can_be_resumed(photos, tiny_vit, tmp_path):
    options = ["--backbone", tiny_vit, *PARTIAL, "--store", "off", "--epochs", "30"]
    process = begin(photos, tmp_path / "run", *options, "--devices", "2")
    assert process.stdout is not None
    # This is told when its first epoch begins.
    said = ""
    while "Phase partial" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    time.sleep(0.5)
    os.kill(process_of(1, process.pid), signal.SIGKILL)
    began = time.monotonic()
    said += process.communicate(timeout=120)[0]
    assert time.monotonic() - began < 60
    assert process.returncode == 75, said
    assert "--resume" in said
    assert "Traceback" not in said
    status, said = train(photos, tmp_path / "run", *options, "--resume")
    assert status == 0, said
    assert len(losses(tmp_path / "run")) == 30


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--devices", "0"), "--devices must be at least 1"),
        (("--devices", "999"), "each process needs a core"),
        (("--devices", "2", "--label-column", "nothing"), "nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_request_is_refused_once(photos, tmp_path, options, sentence):
    status, said = train(photos, tmp_path / "run", *options)
    assert status == 2
    assert said.count("Error:") == 1
    assert sentence in said
    assert not (tmp_path / "run").exists()
