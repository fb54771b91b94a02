"""One process in a folder, and folders that tell whether the work in them was finished."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unfreeze.bundle.claim import LOCK, UNFINISHED, claimed, is_unfinished
from unfreeze.errors import RequestError


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_finished_work_leaves_no_trace_of_the_claim(tmp_path):
    folder = tmp_path / "a" / "b"
    with claimed(folder):
        assert names_in(folder) == [LOCK, UNFINISHED]
        assert is_unfinished(folder)
        (folder / "result").touch()
    assert names_in(folder) == ["result"]


def test_a_full_folder_and_one_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="not empty"), claimed(tmp_path):
        pass
    assert names_in(tmp_path) == ["file"]
    with pytest.raises(RequestError, match=r"not empty.*remove it first"), claimed(tmp_path / "file"):
        pass
    with pytest.raises(RequestError, match="cannot be written"), claimed(tmp_path / "file" / "run"):
        pass


def test_an_error_removes_what_was_not_written_to(tmp_path):
    with pytest.raises(RequestError, match="no data"), claimed(tmp_path / "a" / "b"):
        raise RequestError("no data")
    assert names_in(tmp_path) == []


def test_an_error_after_something_was_written_can_be_resumed(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(FileExistsError), claimed(folder):
        [(folder / "checkpoint").touch(exist_ok=False) for _ in range(2)]
    assert names_in(folder) == [UNFINISHED, "checkpoint"]
    with pytest.raises(RequestError, match=r"not finished. Continue it with --resume"), claimed(folder):
        pass
    with claimed(folder, left="resume"):
        pass
    assert names_in(folder) == ["checkpoint"]


def test_an_interruption_can_always_be_resumed(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "run"):
        raise KeyboardInterrupt
    assert names_in(tmp_path / "run") == [UNFINISHED]
    with claimed(tmp_path / "run", left="resume"):
        pass


@pytest.mark.parametrize("left", ["resume", "restart"])
def test_what_a_killed_process_was_writing_is_removed(tmp_path, left):
    (tmp_path / UNFINISHED).touch()
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / ".model.safetensors.4711.tmp").write_bytes(b"half")
    (tmp_path / ".bundle.json.4711.tmp").write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_bytes(b"somebody's")
    with claimed(tmp_path, left=left):
        pass
    assert names_in(tmp_path) == [".mine.tmp", "cells"]
    assert names_in(tmp_path / "cells") == []


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(RequestError, match="holds nothing to continue"), claimed(tmp_path, left="resume"):
        pass
    (tmp_path / "bundle.json").touch()
    with pytest.raises(RequestError, match=r"finished, or was not begun"), claimed(tmp_path, left="resume"):
        pass


def test_two_processes_exclude_each_other_and_a_dead_one_excludes_nobody(tmp_path):
    folder = tmp_path / "run"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom unfreeze.bundle.claim import claimed\n"
        "with claimed(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(100)\n"
    )
    paths = os.pathsep.join(str(Path(place).resolve()) for place in sys.path if place)
    other = subprocess.Popen(
        [sys.executable, "-c", script, folder],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"in\n"
    for left in ("refuse", "resume", "restart"):
        with pytest.raises(RequestError, match=r"Another process is working|not finished"):
            claimed(folder, left=left).__enter__()
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    assert names_in(folder) == [LOCK, UNFINISHED]
    with claimed(folder, left="resume"):
        pass
    assert not folder.exists() or names_in(folder) == []
