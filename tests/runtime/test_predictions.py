"""Rows of predictions in every format."""

import csv
import json
import subprocess
import sys
import weakref

import pytest
from pyarrow import parquet

from unfreeze.errors import RequestError
from unfreeze.runtime import predictions
from unfreeze.runtime.predictions import FORMATS, Prediction, write_predictions

ROWS = (
    Prediction("a.png", "cat", 0.9, False, None, (("cat", 0.9), ("dog", 0.1))),
    Prediction('b, "c"\n.png', "dög", 0.512345678, True, None, (("dög", 0.512345678), ("cat", 0.4))),
    Prediction("broken.png", None, None, False, "the file is empty", ()),
)
COLUMNS = ["input", "label", "probability", "abstain", "error"]
TOP = ["top1_label", "top1_probability", "top2_label", "top2_probability"]


def read(path):
    """Rows as dictionaries of Python values, whatever the format."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    for row in rows:
        for name, value in row.items():
            row[name] = None if value == "" else value
            if name.endswith("probability") and value:
                row[name] = float(value)
            if name == "abstain":
                row[name] = {"true": True, "false": False}[value]
    return rows


@pytest.mark.parametrize("top_k", [1, 2])
def test_all_formats_hold_the_same_rows(tmp_path, top_k):
    expected = [row.to_row(top_k) for row in ROWS]
    for ending in FORMATS:
        path = tmp_path / f"rows{ending}"
        assert write_predictions(iter(ROWS), path, top_k=top_k) == 3
        rows = read(path)
        assert list(rows[0]) == COLUMNS + (TOP if top_k == 2 else [])
        for row, wanted in zip(rows, expected, strict=True):
            for name, value in wanted.items():
                assert row[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)


@pytest.mark.parametrize("ending", FORMATS)
def test_no_rows_give_a_file_with_columns_alone(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    assert write_predictions([], path, top_k=2) == 0
    assert read(path) == []
    if ending == ".parquet":
        assert parquet.read_schema(path).names == COLUMNS + TOP
    elif ending != ".jsonl":
        assert path.read_text().strip().replace("\t", ",") == ",".join(COLUMNS + TOP)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx"])
def test_cells_that_look_like_formulas_are_defused(tmp_path, name):
    path = tmp_path / "rows.csv"
    write_predictions([Prediction(name, name, 0.5, False, name, ())], path, top_k=1)
    (row,) = read(path)
    assert [row["input"], row["label"], row["error"]] == ["'" + name] * 3


@pytest.mark.parametrize("name", ["-5", "+3.5", "photo.png", "-1e-3"])
def test_numbers_and_plain_names_stay(tmp_path, name):
    path = tmp_path / "rows.csv"
    write_predictions([Prediction(name, "x", 0.5, False, None, ())], path, top_k=1)
    assert read(path)[0]["input"] == name


@pytest.mark.parametrize("ending", FORMATS)
def test_rows_that_are_written_are_no_longer_held(tmp_path, ending, monkeypatch):
    monkeypatch.setattr("unfreeze.runtime.predictions.PARQUET_ROWS", 4)
    alive, most = weakref.WeakSet(), 0

    def rows():
        nonlocal most
        for number in range(100):
            row = Prediction(f"{number}.png", "cat", 0.9, False, None, (("cat", 0.9),))
            alive.add(row)
            most = max(most, len(alive))
            yield row
            del row

    assert write_predictions(rows(), tmp_path / f"rows{ending}", top_k=1) == 100
    assert most <= 2


def test_a_failure_leaves_neither_a_half_file_nor_harm_to_the_old_one(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("old")

    def rows():
        yield ROWS[0]
        raise RuntimeError("toy")

    with pytest.raises(RuntimeError, match="toy"):
        write_predictions(rows(), path, top_k=1)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("ending", FORMATS)
def test_two_that_write_to_one_file_leave_one_of_them_whole(tmp_path, ending):
    path = tmp_path / f"rows{ending}"

    def rows():
        yield ROWS[0]
        # The other begins later and is done earlier.
        assert write_predictions(iter(ROWS), path, top_k=1) == 3
        assert [row["input"] for row in read(path)] == [row.input for row in ROWS]
        yield ROWS[1]

    assert write_predictions(rows(), path, top_k=1) == 2
    assert [row["input"] for row in read(path)] == [row.input for row in ROWS[:2]]
    assert list(tmp_path.iterdir()) == [path]


def test_rows_are_on_the_disk_before_their_file_has_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "rows.csv", []
    monkeypatch.setattr(
        predictions, "sync_file", lambda file: synced.append((file.stat().st_size, path.exists()))
    )
    write_predictions(iter(ROWS), path, top_k=1)
    assert synced == [(path.stat().st_size, False)]


def test_what_a_killed_prediction_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "rows[1].csv"
    script = f"""
import os, signal
from unfreeze.runtime.predictions import Prediction, write_predictions
def rows():
    yield Prediction("a.png", "cat", 0.9, False, None, ())
    os.kill(os.getpid(), signal.SIGKILL)
write_predictions(rows(), {str(path)!r}, top_k=1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode != 0
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".tmp"]
    write_predictions(iter(ROWS), path, top_k=1)
    assert list(tmp_path.iterdir()) == [path]


def test_an_unusable_output_is_refused_before_anything_is_computed(tmp_path):
    def never():
        raise AssertionError("computed")
        yield

    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for path, match in (
        (tmp_path / "rows.xlsx", "unknown ending"),
        (tmp_path / "nowhere" / "rows.csv", "does not exist"),
        (tmp_path / "file" / "rows.csv", "does not exist"),
        (tmp_path / "folder.csv", "is a folder"),
    ):
        with pytest.raises(RequestError, match=match):
            write_predictions(never(), path, top_k=1)
