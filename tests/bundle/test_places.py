"""Runs behind URLs, on fsspec's file system in memory."""

from pathlib import Path

import pytest

from unfreeze.bundle.places import destination, run_folder
from unfreeze.data.load import load_dataset
from unfreeze.errors import RequestError


def test_a_run_of_this_machine_is_where_it_is():
    assert run_folder("runs/a") == run_folder(Path("runs/a")) == Path("runs/a")
    assert destination("runs/a", Path("runs")).folder == Path("runs/a")


def test_a_url_is_trained_in_a_folder_that_is_its_alone():
    runs = Path("runs")
    one, same, other = (destination(url, runs) for url in ("s3://b/x/run", "s3://b/x/run/", "s3://b/y/run"))
    assert one.folder == same.folder != other.folder
    assert one.folder.parent == runs
    assert one.folder.name.startswith("run-")
    assert destination("https://me:secret@b/run?key=1", runs).shown == "https://b/run"


def test_a_run_is_fetched_whole_under_its_name_and_half_of_one_is_refused(store):
    store.pipe({"/b/runs/cells/model.safetensors": b"m", "/b/runs/cells/assets/a": b"a"})
    with pytest.raises(
        RequestError, match=r"memory://b/runs/cells is no finished run: it has no bundle\.json"
    ):
        run_folder("memory://b/runs/cells")
    store.pipe_file("/b/runs/cells/bundle.json", b"{}")
    folder = run_folder("memory://b/runs/cells")
    assert folder.name == "cells"
    assert (folder / "assets" / "a").read_bytes() == b"a"
    with pytest.raises(RequestError, match="it is a file"):
        run_folder("memory://b/runs/cells/bundle.json")


def test_an_exported_file_comes_with_what_it_reads_and_nothing_else(store):
    beside = {"tokenizer.json": b"t", "model.onnx.data": b"w"}
    others = {"README.md": b"r", "other.onnx": b"x", "photos/1.png": b"p", "model.onnx_data/1.bin": b"f"}
    store.pipe(
        {f"/b/out/{name}": content for name, content in ({"model.onnx": b"o"} | beside | others).items()}
    )
    file = run_folder("memory://b/out/model.onnx")
    assert file.name == "model.onnx"
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == {"model.onnx": b"o"} | beside


def test_an_exported_file_may_lie_alone_or_among_what_is_forbidden(store, monkeypatch):
    store.pipe_file("/b/alone/model.onnx", b"o")
    assert run_folder("memory://b/alone/model.onnx").read_bytes() == b"o"
    store.pipe_file("/b/closed/model.onnx", b"c")
    info = type(store).info

    def refuse(self, path, **more):
        if not path.endswith(".onnx"):
            raise PermissionError(path)
        return info(self, path, **more)

    monkeypatch.setattr(type(store), "info", refuse)
    assert run_folder("memory://b/closed/model.onnx").read_bytes() == b"c"
    with pytest.raises(RequestError, match=r"memory://b/none\.onnx does not exist"):
        run_folder("memory://b/none.onnx")


def test_served_runs_are_named_after_their_urls(store):
    from unfreeze.serving.tasks import named_runs

    store.pipe_file("/b/day=1/cells/bundle.json", b"{}")
    found = named_runs(["memory://b/day=1/cells", "other=memory://b/day=1/cells"])
    assert list(found) == ["cells", "other"]
    assert all((folder / "bundle.json").is_file() for folder in found.values())


def test_what_is_wrong_with_remote_data_is_said_of_their_url(store):
    store.pipe_file("/b/photos/cat/1.png", b"p")
    with pytest.raises(RequestError, match=r"^memory://b/photos has one class only"):
        load_dataset("memory://b/photos")
    with pytest.raises(RequestError, match="names a column, but memory://b/photos is a folder"):
        load_dataset("memory://b/photos", label_column="x")
    store.pipe_file("/b/damaged.parquet", b"p")
    for url in ("memory://b/damaged.parquet", "memory://b/*.parquet"):
        with pytest.raises(RequestError, match=r"^memory://b/damaged\.parquet cannot be read: it is damaged"):
            load_dataset(url)


def test_a_file_that_is_no_table_is_refused_before_it_is_fetched(store, monkeypatch):
    store.pipe_file("/b/large.zip", b"z")
    monkeypatch.setattr(type(store), "get_file", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(RequestError, match=r"^memory://b/large\.zip is neither a folder nor a table"):
        load_dataset("memory://b/large.zip")
