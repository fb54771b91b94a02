"""Hub data sets, through a stand-in for the library: parts, class names, and what is said without it."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pytest

from unfreeze.data.load import load_dataset
from unfreeze.errors import DataError

FEATURES = {"label": {"_type": "ClassLabel", "names": ["neg", "pos"]}}
META = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()}


def part(rows: int, *, text: str = "text", missing: bool = False) -> SimpleNamespace:
    labels = [-1 if missing else n % 2 for n in range(rows)]
    table = pa.table({"text": [f"{text} {n}" for n in range(rows)], "label": labels})
    return SimpleNamespace(data=SimpleNamespace(table=table.replace_schema_metadata(META)))


@pytest.fixture
def library(monkeypatch):
    """Installs a stand-in that knows one data set."""

    def install(parts):
        def load(name):
            if name != "owner/mails":
                raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub.")
            return parts

        module = ModuleType("datasets")
        module.load_dataset = load
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
