"""Only regular files of a bounded size are read: nothing is waited for, and nothing fills the memory."""

import errno
import os
from pathlib import Path

import pytest

from unfreeze.data.links import Links, content_in
from unfreeze.regular import names_anything, names_file, names_folder, open_file, read_file, read_record
from unfreeze.runtime.files import file_hash

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(params=["pipe", "device", "link to a device", "folder"])
def special(request, tmp_path):
    path = tmp_path / "special"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "link to a device":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    return Path("/dev/zero") if request.param == "device" else path


@pytest.mark.parametrize(
    "read", [read_file, read_record, file_hash, lambda path: open_file(path).__enter__()]
)
def test_what_is_no_regular_file_is_an_error_and_is_closed_again(special, read):
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.is_dir() else 0
    for _ in range(3):
        with pytest.raises(OSError, match="not a regular file") as caught:
            read(special)
        assert caught.value.errno == errno.EINVAL
    if before:
        assert len(list(handles.iterdir())) == before


def test_a_file_is_read_up_to_its_limit(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path) == read_file(path, most=5) == b"12345"
    with pytest.raises(OSError, match="larger than 0 MiB"):
        read_file(path, most=4)
    monkeypatch.setattr("unfreeze.regular.MOST_RECORD", 4)
    with pytest.raises(OSError, match="larger than"):
        read_record(path)


def test_a_file_of_holes_is_not_taken_into_memory(tmp_path):
    path = tmp_path / "holes"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_file(path, most=2**20)
    for folder in (tmp_path, Links(tmp_path)):
        with pytest.raises(OSError, match="larger than 1024 MiB"):
            content_in(folder, "holes")


def test_a_path_that_no_file_can_have_names_nothing(tmp_path):
    (tmp_path / "file").touch()
    for ask, here in ((names_folder, ["."]), (names_file, ["file"]), (names_anything, [".", "file"])):
        asked = [".", "file", "none", "x" * 5000, "a\0b"]
        assert [name for name in asked if ask(tmp_path / name)] == here
