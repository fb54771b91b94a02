"""Hub data sets, through a stand-in for the library: parts, class names, and what is said without it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unfreeze.data.load import load_dataset
from unfreeze.errors import DataError
from unfreeze.runtime import parts, remote

FEATURES = {"label": {"_type": "ClassLabel", "names": ["neg", "pos"]}}
META = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()}


def part(rows: int, *, text: str = "text", missing: bool = False) -> SimpleNamespace:
    labels = [-1 if missing else n % 2 for n in range(rows)]
    table = pa.table({"text": [f"{text} {n}" for n in range(rows)], "label": labels})
    return SimpleNamespace(data=SimpleNamespace(table=table.replace_schema_metadata(META)))


class Builder:
    """What the library knows of a data set before and after it is fetched."""

    def __init__(self, parts, files=None, names=(), cache_dir="/nowhere"):
        self.config = SimpleNamespace(data_files=files)
        feature = type("ClassLabel", (), {"names": list(names)})()
        self.info = SimpleNamespace(features={"label": feature} if names else None)
        self.cache_dir = str(cache_dir)
        self._parts, self.fetched = parts, False

    def download_and_prepare(self):
        self.fetched = True

    def as_dataset(self):
        assert self.fetched
        return self._parts


# Its builders of data sets that are Parquet files come from there.
class ParquetBuilder(Builder):
    __module__ = "datasets.packaged_modules.parquet.parquet"


@pytest.fixture
def library(monkeypatch):
    """Installs a stand-in that knows one data set."""

    def install(parts, kind=Builder, **about):
        def load(name):
            if name != "owner/mails":
                raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub.")
            return kind(parts, **about)

        module = ModuleType("datasets")
        module.load_dataset_builder = load
        monkeypatch.setitem(sys.modules, "datasets", module)

    return install


def test_parts_and_class_names_come_from_the_hub(library):
    library({"train": part(20), "validation": part(4), "test": part(6)})
    data = load_dataset("owner/mails")
    assert data.given == {"train", "val", "test"}
    assert data.labels.names == ("neg", "pos")
    assert [len(data.rows(name)) for name in ("train", "val", "test")] == [20, 4, 6]
    assert data.samples.read(21) == "text 1"
    assert data.samples.name(21) == "owner/mails:22"
    # Who reads it again later cannot take it for a folder that is gone.
    assert data.source == load_dataset("hub:owner/mails").source == "hub:owner/mails"


def test_unlabelled_and_other_parts_are_ignored(library):
    library({"train": part(20), "test": part(5, missing=True), "unsupervised": part(9)})
    data = load_dataset("hub:owner/mails")
    assert data.given == {"train"}
    assert len(data) == 20
    assert {entry.reason for entry in data.ignored} == {
        "no label",
        "in the part 'unsupervised', which is neither train, validation nor test",
    }
    assert any(entry.name == "9 rows" for entry in data.ignored)


def test_embedded_images_of_the_hub_are_bytes(library, picture):
    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in range(20)]
    table = pa.table({"image": images, "label": [n % 2 for n in range(20)]})
    library({"train": SimpleNamespace(data=SimpleNamespace(table=table.replace_schema_metadata(META)))})
    data = load_dataset("owner/mails")
    assert data.modality == "image"
    assert [data.samples.read(row) for row in range(20)] == [picture(n) for n in range(20)]


def test_an_unknown_name_is_a_named_error(library):
    library({})
    with pytest.raises(DataError, match="owner/other does not exist here and is no data set that the hub"):
        load_dataset("owner/other")


def test_without_the_library_the_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"photos/train does not exist here.*pip install 'unfreeze\[hub\]'"):
        load_dataset("photos/train")


def test_embedded_images_stay_on_the_disk_until_they_are_read(library, tmp_path):
    cells = [{"bytes": bytes([n]) * 200_000, "path": None} for n in range(100)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, type=kind), "label": ["a", "b"] * 50})
    with (
        pa.OSFile(str(tmp_path / "train.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=10)
    del table, cells
    # As the library hands over what it has fetched.
    mapped = pa.ipc.open_file(pa.memory_map(str(tmp_path / "train.arrow"))).read_all()
    library({"train": SimpleNamespace(data=SimpleNamespace(table=mapped))})
    before = pa.total_allocated_bytes()
    data = load_dataset("owner/mails")
    assert data.samples.read(7) == bytes([7]) * 200_000
    assert pa.total_allocated_bytes() - before < 200_000


HUB = "hf://datasets/owner/mails@5f0c"


@pytest.fixture
def parquet_files(s3, picture, tmp_path, monkeypatch):
    """Files of three parts, which stand on an S3 server here; what they hold whole, and what the library says."""
    names = ["data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet", "data/more-0.parquet"]
    tables = []
    for number, name in enumerate(names):
        images = [{"bytes": picture(10 * number + row), "path": f"{row}.png"} for row in range(10)]
        tables.append(pa.table({"image": images, "label": [row % 2 for row in range(10)]}))
        pq.write_table(tables[-1], tmp_path / "x.parquet", row_group_size=4)
        s3.put(str(tmp_path / "x.parquet"), f"toys/hub/{name}")

    def listed(url):
        assert url == HUB
        there = remote.list_files("s3://toys/hub")
        return replace(there, url=HUB, base=HUB)

    monkeypatch.setattr("unfreeze.data.hub.list_files", listed)
    addresses = [f"{HUB}/{name}" for name in names]
    files = {"train": addresses[:2], "test": addresses[2:3], "more": addresses[3:]}
    whole = {"train": pa.concat_tables(tables[:2]), "test": tables[2], "more": tables[3]}
    return {split: SimpleNamespace(data=SimpleNamespace(table=whole[split])) for split in whole}, files


def test_parquet_files_of_the_hub_that_have_no_place_here_are_read_in_parts(
    library, parquet_files, monkeypatch, tmp_path
):
    whole, files = parquet_files
    library(whole, ParquetBuilder, files=files, names=("neg", "pos"))
    monkeypatch.setenv(parts.BUDGET, "1kB")
    streamed = load_dataset("owner/mails")
    assert "read in parts" in {note.value for note in streamed.inferred}
    assert "2 copies" in next(note.reason for note in streamed.inferred if note.what == "remote files")
    assert streamed.labels.names == ("neg", "pos")
    assert {entry.reason for entry in streamed.ignored} == {
        "in the part 'more', which is neither train, validation nor test"
    }
    monkeypatch.setenv(parts.BUDGET, "1GB")
    for key, table in whole.items():
        whole[key] = SimpleNamespace(
            data=SimpleNamespace(table=table.data.table.replace_schema_metadata(META))
        )
    fetched = load_dataset("owner/mails")
    assert "read in parts" not in {note.value for note in fetched.inferred}
    assert streamed.fingerprint == fetched.fingerprint
    assert streamed.given == fetched.given == {"train", "test"}
    assert [streamed.samples.read(row) for row in range(30)] == [
        fetched.samples.read(row) for row in range(30)
    ]


def test_what_the_library_has_prepared_is_not_fetched_again(library, parquet_files, monkeypatch, tmp_path):
    whole, files = parquet_files
    library(whole, ParquetBuilder, files=files, cache_dir=tmp_path)
    monkeypatch.setenv(parts.BUDGET, "1kB")
    assert "read in parts" not in {note.value for note in load_dataset("owner/mails").inferred}
