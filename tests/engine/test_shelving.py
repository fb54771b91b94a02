"""What a killed training has stored goes with the next one; what a living one has stored stays."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from unfreeze.engine.shelving import claim_shelf, let_go, sweep_shelves

# A process that fills a shelf and never comes to an end.
FILLING = """
import sys, time
from pathlib import Path
from unfreeze.engine.shelving import claim_shelf
folder = Path(sys.argv[1])
lock = claim_shelf(folder, int(sys.argv[2]))
folder.mkdir(exist_ok=True)
(folder / f"train0-2-{sys.argv[2]}").write_bytes(bytes(1000))
print("filled", flush=True)
time.sleep(600)
"""


@contextmanager
def filling(folder, rank=0):
    process = subprocess.Popen(
        [sys.executable, "-c", FILLING, str(folder), str(rank)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "filled\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_the_shelf_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path):
    with filling(tmp_path / "prefix-a") as dead, filling(tmp_path / "prefix-b"):
        sweep_shelves(tmp_path, but=tmp_path / "prefix-c")
        assert names(tmp_path) == ["prefix-a", "prefix-a.0.lock", "prefix-b", "prefix-b.0.lock"]
        kill(dead)
        sweep_shelves(tmp_path, but=tmp_path / "prefix-c")
        assert names(tmp_path) == ["prefix-b", "prefix-b.0.lock"]


def test_a_shelf_of_several_processes_stays_as_long_as_one_of_them_lives(tmp_path):
    with filling(tmp_path / "prefix-a", 0) as first, filling(tmp_path / "prefix-a", 1) as second:
        kill(first)
        sweep_shelves(tmp_path, but=tmp_path / "prefix-c")
        assert len(list((tmp_path / "prefix-a").iterdir())) == 2
        kill(second)
        sweep_shelves(tmp_path, but=tmp_path / "prefix-c")
        assert names(tmp_path) == []


def test_shelves_of_this_process_and_of_no_process(tmp_path):
    lock = claim_shelf(tmp_path / "prefix-mine", 0)
    for name in ("prefix-mine", "prefix-old", "prefix-next", "features"):
        (tmp_path / name).mkdir()
    sweep_shelves(tmp_path, but=tmp_path / "prefix-next")
    # The one without a lock is of a version that knew none; what is no shelf is none of its business.
    assert names(tmp_path) == ["features", "prefix-mine", "prefix-mine.0.lock", "prefix-next"]
    let_go(lock)
    sweep_shelves(tmp_path, but=tmp_path / "prefix-next")
    assert names(tmp_path) == ["features", "prefix-next"]


def test_a_training_that_stores_removes_what_a_killed_one_has_left(t, tmp_path):
    backbone, task = t.toy("cnn"), t.task_of("cnn")
    with filling(tmp_path / "prefix-dead") as dead, filling(tmp_path / "prefix-living"):
        kill(dead)
        maker = t.maker(backbone, task, tmp_path, use="on")
        prefix = maker.make(t.plan_of(backbone, freeze=2).phases[0], 2, rounds=1)
        assert prefix.stored == (2,)
        shelves = [path.name for path in tmp_path.iterdir() if path.is_dir()]
        assert len(shelves) == 2
        assert "prefix-dead" not in shelves
        assert names(tmp_path) == sorted([*shelves, *(f"{name}.0.lock" for name in shelves)])
        prefix.close()
        maker.close()
        assert names(tmp_path) == ["prefix-living", "prefix-living.0.lock"]
