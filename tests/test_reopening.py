"""What a finished run was trained on is found again by the name that it recorded, whatever kind of name that is."""

from dataclasses import replace
from types import SimpleNamespace

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from unfreeze.bundle.loading import load
from unfreeze.config import TrainRequest, read_config
from unfreeze.errors import DataError, RequestError
from unfreeze.training import prepare, reopening
from unfreeze.training.prepare import read_data
from unfreeze.training.reopening import open_source


def write_shards(mails, folder):
    """The mails in two Parquet files; their pattern."""
    folder.mkdir()
    table = pyarrow.csv.read_csv(mails)
    half = len(table) // 2
    pq.write_table(table.slice(0, half), folder / "1.parquet")
    pq.write_table(table.slice(half), folder / "2.parquet")
    return f"{folder.name}/*.parquet"


def trained_on(run, **data):
    """The run as if these were its data."""
    loaded = load(run.folder)
    entry = loaded.bundle.data.model_copy(update=data)
    return replace(loaded, bundle=loaded.bundle.model_copy(update={"data": entry}))


def test_a_pattern_counts_from_the_folder_that_was_current(text_run, mails, tmp_path, monkeypatch):
    pattern = write_shards(mails, tmp_path / "shards")
    settings = read_config(text_run.run.folder / "config.yaml")
    whole = read_data(TrainRequest(data=str(tmp_path / pattern)).filled_from(settings, source="x"))
    loaded = trained_on(text_run.run, source=pattern, folder=str(tmp_path), fingerprint=whole.fingerprint)
    found, told = open_source(loaded, None)
    assert found is not None
    assert found.part.tolist() == whole.part.tolist()
    assert told.startswith(f"The source's data is at hand: {tmp_path / pattern}")
    # Or from the one that is current now.
    monkeypatch.chdir(tmp_path)
    found, _ = open_source(trained_on(text_run.run, source="none/*.parquet", folder="/nowhere"), pattern)
    assert len(found) == len(whole)
    missing, told = open_source(trained_on(text_run.run, source="none/*.parquet"), None)
    assert missing is None
    assert "none/*.parquet does not exist" in told


@pytest.mark.parametrize(
    ("recorded", "asked", "read"),
    [
        ("hub:owner/mails", None, "hub:owner/mails"),
        ("photos", "owner/mails", "owner/mails"),
        # A folder that is gone: nobody asks the network for it.
        ("owner/mails", None, None),
    ],
)
def test_data_of_the_hub_are_read_where_they_were_named(text_run, mails, monkeypatch, recorded, asked, read):
    names = []

    def reading(request):
        names.append(request.data)
        return read_data(replace(request, data=str(mails)))

    monkeypatch.setattr(reopening, "read_data", reading)
    before = load(text_run.run.folder).bundle.data
    found, told = open_source(trained_on(text_run.run, source=recorded, folder=before.folder), asked)
    assert names == ([read] if read else [])
    assert (found is not None) == bool(read)
    assert read or "owner/mails does not exist" in told


def test_other_parts_are_those_that_are_still_there(text_run, mails, tmp_path, monkeypatch):
    pattern = write_shards(mails, tmp_path / "shards")
    asked = []

    def reading(request):
        asked.append(request)
        raise DataError("enough")

    monkeypatch.setattr(reopening, "read_config", lambda _: {"val": pattern, "test": "gone/*.parquet"})
    monkeypatch.setattr(reopening, "read_data", reading)
    with pytest.raises(DataError, match="enough"):
        open_source(trained_on(text_run.run, folder=str(tmp_path)), str(mails))
    assert (asked[0].val, asked[0].test) == (str(tmp_path / pattern), None)


@pytest.mark.parametrize("recorded", ["owner/mails", "hub:owner/mails"])
def test_another_split_of_hub_data_is_refused_by_either_name(monkeypatch, recorded):
    before = SimpleNamespace(data=SimpleNamespace(source=recorded, fingerprint="one split"))
    monkeypatch.setattr(prepare, "read_bundle", lambda _: before)
    with pytest.raises(RequestError, match="another split of hub:owner/mails"):
        prepare._refuse_another_split("run", SimpleNamespace(source="hub:owner/mails", fingerprint="another"))
