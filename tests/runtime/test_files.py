"""Records as JSON, which never take the machine's memory, and files that are being written."""

import json
import os
import subprocess
import sys

import pytest

from unfreeze.runtime import files
from unfreeze.runtime.files import own_temporary, parse_json, remove_abandoned


@pytest.mark.parametrize("text", ["{},", "[],", '{"a":1},'])
def test_a_record_of_too_many_parts_is_refused(monkeypatch, text):
    monkeypatch.setattr(files, "MOST_PARTS", 10)
    assert len(parse_json(f"[{text * 8}0]")) == 9
    for content in (f"[{text * 10}0]", f"[{text * 10}0]".encode()):
        with pytest.raises(ValueError, match="too many objects and lists"):
            parse_json(content)


def test_nesting_that_cannot_be_followed_is_refused():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_the_limit_leaves_room_for_the_longest_lists():
    labels = [f"label {number}" for number in range(1_000_000)]
    assert (
        len(parse_json(json.dumps({"labels": labels, "rows": list(range(1_000_000))}))["labels"]) == 1_000_000
    )


def test_temporaries_of_one_file_are_never_the_same(tmp_path):
    assert len({own_temporary(tmp_path, "rows.csv") for _ in range(100)}) == 100


def test_only_what_nobody_writes_any_more_is_removed(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine, old = own_temporary(tmp_path, "a"), own_temporary(tmp_path, "b")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: gone.pid)
        dead, folder = own_temporary(tmp_path, "a"), own_temporary(tmp_path, "tree")
        patch.setattr(files.platform, "node", lambda: "another")
        elsewhere, long_ago = own_temporary(tmp_path, "a"), own_temporary(tmp_path, "a")
    named = tmp_path / ".a.csv.tmp"
    for path in (mine, old, dead, elsewhere, long_ago, named):
        path.touch()
    (folder / "x").mkdir(parents=True)
    for path in (old, long_ago):
        os.utime(path, (0, 0))
    remove_abandoned(tmp_path.iterdir())
    assert set(tmp_path.iterdir()) == {mine, elsewhere, named}


def test_a_container_of_the_same_name_is_another_machine(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: gone.pid)
        patch.setattr(files.Path, "readlink", lambda path: "pid:[1]")
        theirs = own_temporary(tmp_path, "a")
    theirs.touch()
    remove_abandoned(tmp_path.iterdir())
    assert theirs.exists()
