"""Records of a comparison that were damaged or made up: computed again or a sentence, never a wrong table."""

import json
import os
from dataclasses import asdict, replace

import pytest

from unfreeze.comparing.cells import RECORD, finished_cell
from unfreeze.comparing.entry import make_entries
from unfreeze.comparing.folder import open_folder
from unfreeze.comparing.ranking import Ranked, finished_ranking, rank, write_ranked
from unfreeze.comparing.request import Cell, make_request
from unfreeze.comparing.results import differences
from unfreeze.comparing.rows import are_keys, key_rows
from unfreeze.comparing.run import compare
from unfreeze.config import TrainRequest
from unfreeze.errors import RequestError
from unfreeze.report.content import Estimate

DEEP = "[" * 100_000
# What a whole file may hold instead of a record.
FILES = {
    "nothing": "",
    "half of one": '{"request": "x", "result": {"stra',
    "no object": "[1, 2]",
    "null": "null",
    "a number of thousands of digits": "9" * 5_000,
    "nested beyond what is followed": DEEP,
    "no UTF-8": b"\xff\xfe{}",
}
# What a field may hold instead of its value.
FIELDS = {
    "accuracy": ["0.9", None, float("nan"), float("inf"), 1e308, -0.1, 1.5, True, [0.9], 10**400, 0.123],
    "accuracy_low": [-1.0, 2.0, float("-inf")],
    "balanced_accuracy": [0.123, float("nan")],
    "balanced_accuracy_high": [7],
    "labels": ["ab", {}, [1, 2], ["green", "green"], []],
    "truth": [[], [0.5], ["0"], [99], [-1], [10**30], "00", {"0": 1}],
    "answers": [[], [99], [-1], [True]],
    "rows": ["zz", "ab", "0" * 64, 3, ["a"], "-1" * 32],
    "rows_hash": ["x" * 1_000, 7, None],
    "learned_from": [-1, 10**4000, "28", 1.5],
    "trained": [-1],
    "parameters": [10**300],
    "peak_bytes": [-5, "many"],
    "seconds": [-1.0, 1e300, float("nan"), "fast"],
    "shared_seconds": [-1.0, None],
    "joules": [float("inf")],
    "copy_marks": ["~", "x" * 4, 3, ["~"]],
    "nearest_copy": ["a.png", "x" * 10_000, None],
    "chosen": [["lora"], "x" * 10_000],
    "sentence": [5],
    "state": [None, 1, "done"],
    "strategy": ["full", 1, None, "<script>"],
    "seed": [5, "0", True],
    "size": [7, "all"],
    "backbone": ["another", 3],
}


SETTINGS = {"backbone": "efficientnet-lite0", "image_size": 64}


@pytest.fixture
def call(photos, tmp_path, trainer):
    def make(**said):
        base = TrainRequest(data=str(photos), **SETTINGS)
        given = {"strategies": "partial", "seeds": 1, "output_dir": tmp_path / "out"} | said
        return compare(make_request(base, **given))

    return make


@pytest.fixture
def kept(call, tmp_path):
    """The record of a finished cell, and what reads it back."""
    call()
    folder = tmp_path / "out" / "cells" / "partial-seed0"
    record = json.loads((folder / RECORD).read_text())
    (entry,) = make_entries(["partial"])

    def read():
        return finished_cell(folder, Cell(entry, 0), record["request"], backbone=record["result"]["backbone"])

    assert read().accuracy == record["result"]["accuracy"]
    return folder / RECORD, record, read


def test_a_cell_whose_record_says_what_cannot_be_is_none(kept):
    path, record, read = kept
    for name, values in FIELDS.items():
        for value in values:
            path.write_text(json.dumps(record | {"result": record["result"] | {name: value}}))
            assert read() is None, (name, str(value)[:40])
    for name in ("strategy", "seed", "size", "backbone", "state", "labels", "truth", "accuracy"):
        left = {key: value for key, value in record["result"].items() if key != name}
        path.write_text(json.dumps(record | {"result": left}))
        assert read() is None, name
    for result in (None, [], "finished", 3):
        path.write_text(json.dumps(record | {"result": result}))
        assert read() is None
    for name, content in FILES.items():
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        assert read() is None, name


@pytest.mark.timeout(60)
def test_what_is_no_file_is_trained_again(call, trainer, tmp_path):
    first = call()
    cells = tmp_path / "out" / "cells"
    (cells / "partial-seed0" / RECORD).unlink()
    os.mkfifo(cells / "partial-seed0" / RECORD)
    (cells / "feature-extraction-seed0" / RECORD).unlink()
    (cells / "feature-extraction-seed0" / RECORD).symlink_to("/dev/zero")
    trainer.asked.clear()
    second = call(resume=True)
    assert [result.accuracy for result in second.results] == [result.accuracy for result in first.results]
    assert trainer.cells == [("feature-extraction", 0), ("partial", 0)]


def test_a_newer_version_may_have_added_to_a_record(call, trainer, tmp_path):
    first = call()
    for path in (tmp_path / "out" / "cells").glob(f"*/{RECORD}"):
        record = json.loads(path.read_text())
        record["result"]["colour"] = record["colour"] = "blue"
        path.write_text(json.dumps(record))
    trainer.asked.clear()
    assert call(resume=True).results == first.results
    assert trainer.asked == []


def test_lists_of_rows_of_one_hash_and_two_lengths_are_not_the_same_rows(make_cell, share_right):
    first = make_cell(right=share_right(150))
    other = make_cell(right=share_right(100, rows=150))
    assert first.rows_hash == other.rows_hash
    assert differences([first], [other]) == []


@pytest.mark.parametrize(
    "record",
    [
        *FILES.values(),
        "{}",
        '{"identity": "data"}',
        '{"identity": ["data", "backbone"]}',
        '{"identity": null}',
        '{"identity": {"data": 5}}',
        '{"identity": {"data": {"a": []}}}',
        '{"identity": {"data": NaN}}',
        '{"identity": {"data": "x"}, "seed": "1"}',
        '{"identity": {"data": "x"}, "seed": true}',
        '{"identity": {"data": "x"}, "seed": -1}',
    ],
    ids=lambda record: str(record)[:40],
)
def test_a_damaged_record_of_a_comparison_is_a_sentence(tmp_path, record):
    (tmp_path / "compare.json").write_bytes(record.encode() if isinstance(record, str) else record)
    with pytest.raises(RequestError, match="holds no comparison that can be read") as refused:
        open_folder(tmp_path, {"data": "x"}, seed=0, resume=True)
    assert len(str(refused.value)) < 400


def test_names_and_values_of_any_length_make_no_endless_sentence(tmp_path):
    for identity in ({"data": "x", "n" * 100_000: "1"}, {"data": "x", "epochs": "9" * 100_000}):
        (tmp_path / "compare.json").write_text(json.dumps({"identity": identity}))
        with pytest.raises(RequestError, match="was made with another") as refused:
            open_folder(tmp_path, {"data": "x"}, seed=0, resume=True)
        assert len(str(refused.value)) < 400


RANKED = {
    "backbone": ["other", 3, None],
    "state": ["failed", None, 1],
    "accuracy": [None, 0.75, {}, {"value": "1"}, {"value": 0.9}, {"value": float("nan")}, [0.75]],
    "right": [[], ["1110", "1110"], ["1119"], [""], "1110", [1], ["11100"]],
    "rows_hash": [[], ["x" * 1_000], [1], "a"],
    "rows": [["zz"], ["0" * 64], ["a", "b"], [""], "rows"],
    "log_loss": [-1, "0.4", float("inf")],
    "parameters": [-1, 10**4000, 1.5],
    "width": [-1],
    "bytes": [-1],
    "latency_seconds": [0, -1, float("nan"), 1e300],
    "rows_per_second": [0, "many"],
    "executor": [None, "x" * 1_000],
}


@pytest.fixture
def entry():
    return Ranked(
        backbone="toy",
        state="finished",
        right=("1110",),
        rows_hash=("a",),
        rows=(key_rows(list("wxyz")),),
        accuracy=Estimate(0.75, 0.3, 0.95),
        log_loss=0.5,
        parameters=10,
        width=3,
        bytes=40,
        latency_seconds=0.01,
        rows_per_second=200.0,
        executor="torch-fp32",
    )


def test_an_entry_of_a_ranking_that_says_what_cannot_be_is_measured_again(entry, tmp_path):
    path = tmp_path / "backbones" / "entry.json"

    def read():
        return finished_ranking(path, backbone="toy", seeds=1)

    write_ranked(replace(entry, to_best=Estimate(0.5)), path)
    # What an entry is worth beside others is never read.
    assert read() == entry
    assert finished_ranking(path, backbone="toy", seeds=2) is None
    for name, values in RANKED.items():
        for value in values:
            path.write_text(json.dumps(asdict(entry) | {name: value}))
            assert read() is None, (name, str(value)[:40])
    for name, content in FILES.items():
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        assert read() is None, name


def test_entries_on_rows_of_one_hash_and_two_lengths_are_not_compared(entry):
    longer = replace(entry, right=("11111",), rows=(), accuracy=Estimate(1.0))
    assert rank([entry, longer])[1].to_best is None


def test_keys_are_hexadecimal_one_a_row_and_each_once():
    keys = key_rows(["a", "b"])
    assert are_keys(keys, 2)
    assert are_keys("", 2)
    assert not are_keys(keys, 3)
    assert not are_keys(keys[:16] * 2, 2)
    assert not are_keys(keys.upper(), 2)
    assert not are_keys("x" * 32, 2)
