"""Files behind URLs, on fsspec's file system in memory."""

import errno
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unfreeze.errors import DataError, RequestError, UnfreezeError
from unfreeze.runtime import remote
from unfreeze.runtime.remote import fetch, fetch_file, in_words, is_remote, list_files, scrubbed
from unfreeze.runtime.uploads import claim, upload


@pytest.mark.parametrize(
    ("place", "remote"),
    [
        ("s3://b/k", True),
        ("memory://b", True),
        ("photos/a:b", False),
        (r"C:\a", False),
        ("hub:a/b", False),
        (3, False),
    ],
)
def test_urls_are_told_from_paths(place, remote):
    assert is_remote(place) is remote


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://user:pass@host/a.csv?X-Amz-Signature=abc#d", "https://host/a.csv"),
        (
            "train 's3://b/a.csv?versionId=1' --test https://u:p@h/b",
            "train 's3://b/a.csv' --test https://h/b",
        ),
        ("https://u:p@ss@host/x", "https://host/x"),
        ("train 'https://u:p@h/my file.csv?sig=a b' --test x", "train 'https://h/my file.csv' --test x"),
        ("hf://datasets/me/set@main/train.parquet", "hf://datasets/me/set@main/train.parquet"),
        ("no URL?a=1", "no URL?a=1"),
    ],
)
def test_what_may_be_secret_in_a_url_is_cut(text, left):
    assert scrubbed(text) == left


class AnsweredError(Exception):
    """What a client of HTTP raises for a status."""

    def __init__(self, status):
        super().__init__(f"{status}, message='Nothing'")
        self.status = status


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (FileNotFoundError("b/x"), "does not exist, or its bucket does not. Check the name."),
        # Plain HTTP says of whatever fails that there is no file, and why as its cause.
        (AnsweredError(404), "does not exist, or its bucket does not. Check the name."),
        (AnsweredError(403), "cannot be listed: permission denied. Check the credentials for this store."),
        (
            AnsweredError(503),
            "cannot be listed: 503, message='Nothing'. Check the name and the network, and try again.",
        ),
        (
            OSError("Cannot connect to host h:80"),
            "cannot be listed: Cannot connect to host h:80. Check the name and the network, and try again.",
        ),
        (
            PermissionError("b/x"),
            "cannot be listed: permission denied. Check the credentials for this store.",
        ),
        (
            RuntimeError("Unable to locate credentials"),
            "cannot be listed: permission denied. Check the credentials for this store.",
        ),
        (
            ValueError("Invalid id 'https://h/x?sig=1'. ."),
            "cannot be listed: Invalid id 'https://h/x'. Check the name and the network, and try again.",
        ),
    ],
)
def test_what_fails_in_a_store_is_told_with_what_to_do(problem, told):
    if isinstance(problem, AnsweredError) or "connect" in str(problem):
        missing = FileNotFoundError("b/x")
        missing.__cause__, problem = problem, missing
    with pytest.raises(DataError) as raised, in_words("s3://u:secret@b/x?sig=1", "listed"):
        raise problem
    assert str(raised.value) == f"s3://b/x {told}"


def test_a_cache_that_takes_no_copy_is_named(store, monkeypatch):
    store.pipe_file("/b/1.txt", b"one")

    def full(self, path, to, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = remote.cache_root()
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "get_file", full)
        with pytest.raises(
            DataError, match=rf"{cache} cannot be written \(No space left on device\)\. Make room"
        ):
            fetch_file("memory://b/1.txt")
    shutil.rmtree(cache / "remote" / "objects")
    (cache / "remote" / "objects").write_bytes(b"")
    with pytest.raises(
        DataError, match=rf"{cache} cannot be written \(.*\)\. Make room there, or name another folder"
    ):
        fetch_file("memory://b/1.txt")


def test_a_folder_is_fetched_as_it_lies_there(store):
    store.pipe({"/b/data/x/1.txt": b"one", "/b/data/2.txt": b"two"})
    folder = fetch(list_files("memory://b/data"))
    assert folder.name == "data"
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.txt")} == {
        "x/1.txt": b"one",
        "2.txt": b"two",
    }


def test_a_changed_object_is_fetched_anew_and_an_equal_one_is_not(store, monkeypatch):
    store.pipe({"/b/1.txt": b"one", "/b/2.txt": b"two"})
    fetched = []
    get = type(store).get_file
    monkeypatch.setattr(
        type(store),
        "get_file",
        lambda self, path, to, **more: (fetched.append(path), get(self, path, to, **more)),
    )
    fetch(list_files("memory://b"))
    assert sorted(fetched) == ["/b/1.txt", "/b/2.txt"]
    fetch(list_files("memory://b"))
    assert len(fetched) == 2
    store.pipe_file("/b/2.txt", b"TWO")
    folder = fetch(list_files("memory://b"))
    assert fetched[2:] == ["/b/2.txt"]
    assert (folder / "2.txt").read_bytes() == b"TWO"


def test_an_object_that_is_cut_short_is_not_kept(store, monkeypatch):
    store.pipe_file("/b/1.txt", b"whole")
    with monkeypatch.context() as patch:

        def break_off(self, path, to, **more):
            Path(to).write_bytes(b"who")

        patch.setattr(type(store), "get_file", break_off)
        with pytest.raises(DataError, match="changed while it was fetched"):
            fetch_file("memory://b/1.txt")
    assert fetch_file("memory://b/1.txt").read_bytes() == b"whole"


def test_a_cached_object_that_lost_its_end_is_fetched_again(store):
    store.pipe({"/b/d/1.txt": b"whole", "/b/d/2.txt": b"other"})
    first = fetch_file("memory://b/d/1.txt")
    assert first.stat().st_mode & 0o222 == 0
    first.chmod(0o644)
    first.write_bytes(b"wh")
    assert (fetch(list_files("memory://b/d")) / "1.txt").read_bytes() == b"whole"


def test_a_tree_whose_files_lost_their_ends_is_mended(store):
    store.pipe({"/b/d/x/1.txt": b"whole", "/b/d/x/2.txt": b"other", "/b/d/y/3.txt": b"third"})
    folder = fetch(list_files("memory://b/d"))
    kept = (folder / "y" / "3.txt").stat().st_ino
    # Trees share their files with the objects: what a crash of the machine cuts short is short in both.
    (folder / "x" / "1.txt").chmod(0o644)
    (folder / "x" / "1.txt").write_bytes(b"")
    (folder / "x" / "2.txt").unlink()
    again = fetch(list_files("memory://b/d"))
    assert again == folder
    assert {path.name: path.read_bytes() for path in again.rglob("*.txt")} == {
        "1.txt": b"whole",
        "2.txt": b"other",
        "3.txt": b"third",
    }
    assert (folder / "y" / "3.txt").stat().st_ino == kept


def test_an_object_is_on_the_disk_before_it_has_its_name(store, monkeypatch):
    synced = []

    def sync(path):
        objects = remote._place("any").parents[1]
        synced.append((path.read_bytes(), [file for file in objects.rglob("*") if file.is_file()]))

    monkeypatch.setattr(remote, "sync_file", sync)
    store.pipe_file("/b/durable.txt", b"durable")
    fetch_file("memory://b/durable.txt")
    assert synced == [(b"durable", [])]


def test_what_a_killed_fetch_left_is_removed_by_the_next(store):
    store.pipe({"/b/left/1.txt": b"one", "/b/left/2.txt": b"two"})
    script = """
import os, signal, fsspec
from pathlib import Path
from unfreeze.runtime.remote import fetch_file, list_files
store = fsspec.filesystem("memory")
store.pipe_file("/b/left/1.txt", b"one")
def killed(self, path, to, **more):
    Path(to).write_bytes(b"o")
    os.kill(os.getpid(), signal.SIGKILL)
type(store).get_file = killed
fetch_file("memory://b/left/1.txt")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode != 0
    unfinished = remote._unfinished()
    assert len(list(unfinished.iterdir())) == 1
    fetch(list_files("memory://b/left"))
    assert list(unfinished.iterdir()) == []


@pytest.mark.parametrize("name", ["../x.txt", "a/../../x.txt", "a\\x.txt"])
def test_an_object_whose_name_leads_out_is_refused(store, name):
    entry = {"name": f"/b/d/{name}", "size": 1, "type": "file", "created": 1.0}
    with pytest.raises(DataError, match="no file here can be called"):
        remote._entries("memory://b/d", "/b/d", {entry["name"]: entry})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://b/none.csv", "memory://b/none.csv does not exist"),
        ("ftp2://u:secret@b/x", "ftp2://b/x is no URL that is read here"),
        ("file:///etc/passwd", "is no URL that is read here"),
        ("memory://b/x::file:///etc/passwd", "no URL"),
    ],
)
def test_what_cannot_be_had_is_a_sentence(store, url, said):
    with pytest.raises(RequestError, match=said) as raised:
        list_files(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("url", "package"), [("s3://b/x", r"'unfreeze\[s3\]'"), ("gs://b/x", "'gcsfs'")])
def test_a_missing_package_is_named(monkeypatch, url, package):
    for module in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, module, None)
    for protocol in ("s3", "gs"):
        monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, protocol, raising=False)
    with pytest.raises(RequestError, match=f"pip install {package}"):
        list_files(url)


def test_a_folder_is_written_in_the_order_given_and_only_where_nothing_is(store, tmp_path):
    for name in ("a.bin", "last.json"):
        (tmp_path / name).write_text(name)
    claim("memory://b/run")
    claim("memory://b/run")
    assert store.find("/b/run") == ["/b/run/.unfinished"]
    store.pipe_file("/b/run/a.bin", b"half")
    with pytest.raises(RequestError, match="is not empty"):
        claim("memory://b/run")
    claim("memory://b/run", resume=True)
    upload(tmp_path, "memory://b/run", ["a.bin", "last.json"])
    assert store.find("/b/run") == ["/b/run/a.bin", "/b/run/last.json"]
    with pytest.raises(RequestError, match="memory://b/run exists already and is not empty"):
        claim("memory://b/run", resume=True)
    with pytest.raises(RequestError, match="can be read, not written"):
        claim("https://b/run")


def test_a_store_that_breaks_off_leaves_the_last_file_unwritten(store, tmp_path, monkeypatch):
    for name in ("a.bin", "b.bin", "last.json"):
        (tmp_path / name).write_text(name)
    put = type(store).put_file

    def refuse(self, file, path, **more):
        if path.endswith("b.bin"):
            raise PermissionError(path)
        put(self, file, path, **more)

    claim("memory://b/run")
    monkeypatch.setattr(type(store), "put_file", refuse)
    with pytest.raises(UnfreezeError, match="memory://b/run cannot be written: permission denied"):
        upload(tmp_path, "memory://b/run", ["a.bin", "b.bin", "last.json"])
    assert store.find("/b/run") == ["/b/run/.unfinished", "/b/run/a.bin"]


def test_local_paths_import_no_client(tmp_path):
    script = (
        "import sys; from unfreeze.data.load import load_dataset; from unfreeze.errors import DataError\n"
        f"try: load_dataset({str(tmp_path)!r})\n"
        "except DataError: pass\n"
        "print(any(name.partition('.')[0] in ('fsspec', 's3fs') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
