"""``torchrun`` and ``accelerate launch`` as a user types them: the training of one process, by two."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

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
    "--store",
    "on",
)
# As `accelerate config` writes it. With MULTI_CPU or use_cpu it starts processes by mpirun alone, and without that one.
CONFIGURATION = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
gpu_ids: all
machine_rank: 0
main_process_port: 0
mixed_precision: 'no'
num_machines: 1
num_processes: 2
rdzv_backend: static
same_network: true
use_cpu: false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("launched")


@pytest.fixture(scope="module")
def order(photos, tiny_vit):
    return ("-m", "unfreeze", "train", str(photos), "--backbone", tiny_vit, *PARTIAL, "--output-dir")


def run(order, output, *before):
    """The status of the command behind ``before``, and what it said."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "UNFREEZE_CACHE": str(output.parent / "cache")}
    done = subprocess.run(
        [*before, *order, str(output)],
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=output.parent,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(order, folder):
    status, said = run(order, folder / "alone", sys.executable)
    assert status == 0, said
    return folder / "alone"


def launcher(name, folder):
    if name == "torchrun":
        return (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    (folder / "accelerate.yaml").write_text(CONFIGURATION)
    start = (sys.executable, "-m", "accelerate.commands.launch", "--config_file")
    return (*start, str(folder / "accelerate.yaml"))


def losses(run):
    with (run / "history.csv").open(newline="") as file:
        return [[float(row[name]) for name in ("train_loss", "val_log_loss")] for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["torchrun", "accelerate"])
def test_two_processes_of_a_launcher_train_as_one_does(alone, order, folder, name):
    status, said = run(order, folder / name, *launcher(name, folder))
    assert status == 0, said
    np.testing.assert_allclose(losses(folder / name), losses(alone), atol=1e-5)
    # The first process alone speaks and writes, and what it leaves is a finished run as any other.
    assert said.count("Plan partial") == 1
    assert "processes:" in (folder / name / "config.yaml").read_text()
    assert "processes:" not in (alone / "config.yaml").read_text()
    files = {path.name for path in alone.iterdir() if path.is_file()}
    assert {path.name for path in (folder / name).iterdir() if path.is_file()} == files
    found, expected = (json.loads((place / "metrics.json").read_text()) for place in (folder / name, alone))
    assert found.keys() == expected.keys()
