"""Cells on Ray: the order in which they may begin, and what a killed worker costs."""

import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from unfreeze.comparing.engines import OnRay, Waiting
from unfreeze.comparing.entry import FLOOR_ENTRY, Entry
from unfreeze.comparing.request import Cell
from unfreeze.errors import RequestError

FULL, LORA = Entry("full"), Entry("lora")


def names(waiting, places):
    return [str(waiting.cells[place]) for place in places]


def test_what_reads_the_store_waits_for_the_cell_that_fills_it():
    cells = [Cell(entry, seed) for seed in (0, 1) for entry in (FLOOR_ENTRY, FULL, LORA)]
    waiting = Waiting.of(cells)
    assert names(waiting, waiting.take(9)) == ["feature-extraction, seed 0"]
    assert waiting.take(9) == []
    waiting.finish(0)
    # The next floor before anything else: the most is waiting for it.
    assert names(waiting, waiting.take(2)) == ["feature-extraction, seed 1", "full, seed 0"]
    assert names(waiting, waiting.take(9)) == ["lora, seed 0"]
    waiting.finish(3)
    assert names(waiting, waiting.take(9)) == ["full, seed 1", "lora, seed 1"]
    assert not waiting


def test_floors_of_other_backbones_begin_at_once_and_finished_ones_hold_nobody_up():
    cells = [Cell(FLOOR_ENTRY, 0, None, "a"), Cell(FULL, 0, None, "a"), Cell(FLOOR_ENTRY, 0, None, "b")]
    waiting = Waiting.of(cells)
    assert waiting.take(9) == [0, 2]
    waiting.finish(2)
    assert waiting.take(9) == []
    waiting.finish(0)
    assert waiting.take(9) == [1]
    assert Waiting.of([Cell(FULL, 0), Cell(LORA, 0)]).take(9) == [0, 1]


@dataclasses.dataclass
class Machines:
    gpus: int

    def workers(self, wanted):
        from unfreeze.cluster import share_out

        return share_out((8,), wanted)


@pytest.mark.parametrize(
    ("device", "gpus", "wanted"),
    [
        (None, 0, {"num_cpus": 4, "at_once": 2}),
        ("cpu", 1, {"num_cpus": 4, "at_once": 2}),
        (None, 1, {"num_cpus": 4, "num_gpus": 1, "at_once": 1}),
        ("cuda", 4, {"num_cpus": 4, "num_gpus": 1, "at_once": 2}),
    ],
)
def test_a_training_on_a_gpu_holds_one(device, gpus, wanted):
    assert OnRay("ray", workers=None, device=device)._options(Machines(gpus)) == wanted


def test_a_gpu_that_no_machine_has_is_refused():
    with pytest.raises(RequestError, match="--device cuda: no machine of the Ray cluster has a GPU"):
        OnRay("ray", workers=None, device="cuda")._options(Machines(0))


@pytest.mark.slow
def test_six_cells_with_a_worker_killed_finish_once_with_the_numbers_of_the_local_engine(
    photos, tiny_vit, tmp_path, command, monkeypatch
):
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "cache"))

    def compare(folder, *more):
        return command(
            "compare", photos, "--strategies", "feature-extraction:head=mlp", "--seeds", 3,
            "--backbone", tiny_vit, "--store", "on", "--precision", "fp32",
            "--output-dir", folder, "--json", *more,
        )  # fmt: skip

    local = compare(tmp_path / "local")
    assert local.status == 0, local.err
    cells = tmp_path / "ray" / "cells"
    killed = []

    def kill():
        end = time.monotonic() + 120
        while time.monotonic() < end and not killed:
            begun = [path for path in cells.glob("*seed1") if not (path / "cell.json").exists()]
            for pid in tasks_of(os.getpid())[:1] if begun else ():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    answer = compare(tmp_path / "ray", "--engine", "ray", "--workers", 2)
    killer.join()
    assert killed
    assert answer.status == 0, answer.err
    one, other = json.loads(local.out), json.loads(answer.out)
    assert sorted(path.name for path in cells.iterdir()) == sorted(
        path.name for path in (tmp_path / "local" / "cells").iterdir()
    )
    assert len(list(cells.glob("*/cell.json"))) == 6
    for path in cells.iterdir():
        mine, theirs = (
            json.loads((root / path.name / "cell.json").read_text())["result"]
            for root in (cells, tmp_path / "local" / "cells")
        )
        assert mine["state"] == "finished"
        for name in ("accuracy", "truth", "answers", "rows_hash", "learned_from", "trained", "parameters"):
            assert mine[name] == theirs[name]
    assert [result["accuracy"] for result in one["results"]] == [
        result["accuracy"] for result in other["results"]
    ]
    # What Ray finished, the local engine takes for finished.
    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/cell.json")}
    again = compare(tmp_path / "ray", "--resume")
    assert again.status == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def tasks_of(process):
    """Process ids of Ray's workers that run a cell below a process, by the titles that Ray gives them."""
    parents, found = {}, []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith(b"ray::_task"):
                found.append(int(entry.name))
        except OSError:
            continue

    def is_below(pid):
        while pid in parents and pid != process:
            pid = parents[pid]
        return pid == process

    return [pid for pid in found if is_below(pid)]


def test_bad_engines_of_a_comparison_are_refused_before_anything_is_read(command, tmp_path):
    for more, words in (
        (["--engine", "rai"], "Did you mean 'ray'"),
        (["--workers", 2], "--workers has no effect without --engine ray"),
    ):
        answer = command("compare", tmp_path / "none", *more)
        assert answer.status == 2
        assert words in answer.err
