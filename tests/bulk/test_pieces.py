"""How inputs are cut into pieces, and what a piece reads."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unfreeze.bulk.pieces import FilesPiece, TablePiece, cut_inputs
from unfreeze.data.reading import read_raw
from unfreeze.errors import DataError, RequestError
from unfreeze.runtime.decode import Quarantined


def write(path, texts, *, group=7, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())} | columns), path, row_group_size=group)
    return path


def cut(*inputs, modality="text", column=None, rows=10):
    return cut_inputs([str(name) for name in inputs], modality=modality, column=column, piece_rows=rows)


def read(pieces, modality="text"):
    opened = [piece.open(modality) for piece in pieces]
    return [(found.name(row), found.read(row)) for found in opened for row in range(len(found))]


@pytest.mark.parametrize("group", [1, 7, 10, 100])
def test_pieces_hold_each_row_once_in_order_whatever_the_row_groups(tmp_path, group):
    texts = [f"text {number}" for number in range(33)]
    found = cut(write(tmp_path / "a.parquet", texts, group=group))
    assert [len(piece) for piece in found.pieces] == [10, 10, 10, 3]
    assert found.rows == 33
    assert read(found.pieces) == [(f"a.parquet:{row + 1}", text) for row, text in enumerate(texts)]


def test_shards_of_a_folder_come_in_order_and_those_of_one_name_are_told_apart(tmp_path):
    for day in (2, 1):
        write(tmp_path / "in" / f"day={day}" / "part.parquet", [f"day {day}"])
    write(tmp_path / "in" / "_temporary" / "part.parquet", ["no row of it"])
    write(tmp_path / "in" / "day=3" / "part.parquet", [])
    wanted = [("day=1/part.parquet:1", "day 1"), ("day=2/part.parquet:1", "day 2")]
    assert read(cut(tmp_path / "in").pieces) == wanted
    assert read(cut(tmp_path / "in" / "*" / "part.parquet").pieces[-2:]) == wanted


def test_files_of_formats_that_are_not_read_are_noted(tmp_path):
    for name in ("a.png", "b.heic", "c.heic"):
        (tmp_path / name).write_bytes(b"x")
    found = cut(tmp_path, modality="image")
    assert found.rows == 1
    told = "2 files are left out, of formats that are not read: 2 .heic"
    assert [note.partition(". ")[0] for note in found.notes] == [told]
    (tmp_path / "a.png").unlink()
    with pytest.raises(RequestError, match=rf"no image inputs were found there\. {told}"):
        cut(tmp_path, modality="image")


def test_files_behind_a_url_of_formats_that_are_not_read_are_noted(store):
    for name in ("a.png", "b.heic", ".hidden/c.heic"):
        store.pipe(f"/b/{name}", b"x")
    found = cut("memory://b", modality="image")
    assert found.rows == 1
    assert [note.partition(". ")[0] for note in found.notes] == [
        "1 file is left out, of formats that are not read: 1 .heic"
    ]


def test_an_empty_cell_is_a_bad_row_and_no_other(tmp_path):
    (piece,) = cut(write(tmp_path / "a.parquet", ["one", None, "three"])).pieces
    opened = piece.open("text")
    found = [read_raw(opened, row) for row in range(3)]
    assert found[::2] == ["one", "three"]
    assert found[1] == Quarantined("a.parquet:2", "cannot be read: the cell is empty")


def test_a_row_group_that_is_damaged_makes_its_rows_bad_and_leaves_the_others(tmp_path):
    texts = ["".join(map(str, np.random.default_rng(row).integers(0, 9, 60))) for row in range(40)]
    path = write(tmp_path / "a.parquet", texts, group=20)
    data = bytearray(path.read_bytes())
    place = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[place : place + 40] = b"\xff" * 40
    path.write_bytes(data)
    *whole, third, fourth = cut(path, column="text").pieces
    assert [text for _, text in read(whole)] == texts[:20]
    for piece, first in ((third, 21), (fourth, 31)):
        opened = piece.open("text")
        assert [opened.name(row) for row in (0, 9)] == [f"a.parquet:{first}", f"a.parquet:{first + 9}"]
        assert all(isinstance(read_raw(opened, row), Quarantined) for row in range(10))


def test_pictures_are_read_from_folders_and_from_cells(tmp_path, photos):
    found = cut(photos, modality="image", rows=9)
    assert all(isinstance(piece, FilesPiece) for piece in found.pieces)
    assert [len(piece) for piece in found.pieces] == [9, 9, 9, 1]
    paths = sorted(photos.rglob("*.png"))
    contents = [path.read_bytes() for path in paths]
    assert read(found.pieces, "image") == list(zip(map(str, paths), contents, strict=True))
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": contents}), table, row_group_size=4)
    inside = cut(table, modality="image", rows=9)
    assert all(isinstance(piece, TablePiece) for piece in inside.pieces)
    assert [data for _, data in read(inside.pieces, "image")] == contents


def test_the_digest_is_of_names_sizes_and_times(tmp_path):
    path = write(tmp_path / "a.parquet", ["one"])
    before = cut(path).digest
    assert cut(path, rows=3).digest == before
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    changed = cut(path).digest
    assert changed != before
    write(tmp_path / "b.parquet", ["two"])
    assert cut(tmp_path).digest not in (before, changed)


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        ("a.csv", {}, "reads Parquet files and folders of files, not"),
        ("-", {}, "reads Parquet files"),
        ("missing.parquet", {}, "does not exist"),
        ("empty.parquet", {}, "the tables have no rows"),
        ("a.parquet", {"column": "txt"}, "has no column 'txt'"),
        ("plain", {"column": "txt"}, "--column 'txt': there is no table among the inputs"),
        ("a.parquet", {"column": "raw"}, "holds binary, and this run reads texts"),
        ("torn.parquet", {}, "cannot be read"),
        ("nothing", {}, "no text inputs were found"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_a_sentence(tmp_path, monkeypatch, name, said, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.parquet", ["one"], raw=[b"x"])
    write(tmp_path / "empty.parquet", [])
    (tmp_path / "a.csv").write_text("text\none\n")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    (tmp_path / "nothing").mkdir()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "one.txt").write_text("one")
    with pytest.raises(RequestError) as refused:
        cut(name, **said)
    assert words in str(refused.value)
    assert isinstance(refused.value, DataError) == (name == "torn.parquet")


def test_a_damaged_file_behind_a_url_is_named_without_what_may_be_secret(store):
    # In memory the query is a part of the name.
    store.pipe_file("/b/torn.parquet?sig=1", b"PAR1 and no more")
    with pytest.raises(DataError) as raised:
        cut("memory://b/torn.parquet?sig=1")
    assert str(raised.value).startswith("memory://b/torn.parquet cannot be read: it is damaged")
    assert "sig" not in str(raised.value)


def test_links_out_of_a_folder_are_bad_rows_and_as_shards_refused(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("a secret")
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"text {number}")
    link = folder / "2.secret.txt"
    link.symlink_to(tmp_path / "secret.txt")
    pieces = cut(folder, rows=3).pieces
    assert [len(piece) for piece in pieces] == [3, 3]
    found = [read_raw(opened, row) for opened in (piece.open("text") for piece in pieces) for row in range(3)]
    bad = Quarantined(str(link), "cannot be read: a link that leads out of the data folder; put a copy there")
    assert found == ["text 0", "text 1", bad, "text 2", "text 3", "text 4"]
    write(tmp_path / "secret.parquet", ["a secret"])
    write(tmp_path / "in" / "a.parquet", ["one"])
    (tmp_path / "in" / "b.parquet").symlink_to(tmp_path / "secret.parquet")
    with pytest.raises(DataError, match=r"b\.parquet is a link that leads out of the data folder"):
        cut(tmp_path / "in")
