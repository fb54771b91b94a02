"""Parquet files that are one table."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unfreeze.data.groups import MOST_OPEN, RowGroups
from unfreeze.data.inputs import open_inputs
from unfreeze.data.load import load_dataset
from unfreeze.data.shards import is_shards
from unfreeze.errors import DataError

ROWS = 60


def rows(start=0, stop=ROWS):
    return pa.table(
        {
            "text": [f"words of row {row} and some more" for row in range(start, stop)],
            "label": [("ham", "spam", "news")[row % 3] for row in range(start, stop)],
        }
    )


def shard(folder, table, *ends):
    folder.mkdir(parents=True, exist_ok=True)
    for number, (start, end) in enumerate(zip((0, *ends), (*ends, len(table)), strict=True)):
        pq.write_table(table.slice(start, end - start), folder / f"part-{number:04}.parquet")
    return folder


def contents(data):
    return [data.samples.read(row) for row in range(len(data))]


def test_shards_are_the_data_set_of_one_file_with_their_rows_in_order(tmp_path):
    pq.write_table(rows(), tmp_path / "one.parquet")
    one = load_dataset(tmp_path / "one.parquet")
    many = load_dataset(shard(tmp_path / "many", rows(), 7, 7, 41))
    assert contents(many) == contents(one)
    assert many.label.tolist() == one.label.tolist()
    assert many.part.tolist() == one.part.tolist()
    assert many.samples.name(45) == "many:46"


def test_texts_that_move_between_shards_keep_their_part(tmp_path):
    table = rows()
    before = load_dataset(shard(tmp_path / "a", table, 20, 40))
    moved = table.take(np.random.default_rng(3).permutation(ROWS))
    after = load_dataset(shard(tmp_path / "b", moved, 11))
    assert contents(before) != contents(after)
    assert dict(zip(contents(before), before.part.tolist(), strict=True)) == dict(
        zip(contents(after), after.part.tolist(), strict=True)
    )


def test_pictures_in_cells_are_cut_anew_into_shards_without_a_change_of_part(tmp_path):
    table = pa.table({"image": [bytes([row]) * 9 for row in range(ROWS)], "label": ["a", "b"] * (ROWS // 2)})
    first = load_dataset(shard(tmp_path / "a", table, 20, 40))
    second = load_dataset(shard(tmp_path / "b", table, 3))
    assert contents(first) == contents(second) == table.column("image").to_pylist()
    assert first.part.tolist() == second.part.tolist()
    assert [*first.select([50, 2]).samples.read(0)] == [50] * 9


def test_a_table_of_many_files_keeps_few_of_them_open(tmp_path):
    paths = []
    for number in range(MOST_OPEN + 5):
        paths.append(tmp_path / f"{number:03}.parquet")
        pq.write_table(pa.table({"image": [bytes([number])]}), paths[-1])
    groups = RowGroups(paths, "image", cache_bytes=1)
    assert [groups.cell(row) for row in range(len(paths))] == [bytes([row]) for row in range(len(paths))]
    assert len(groups._open) == MOST_OPEN
    assert groups.cell(0) == b"\0"


@pytest.mark.parametrize(
    "names",
    [
        ("train/a.parquet", "test/b.parquet"),
        ("data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"),
        ("train.parquet", "test.parquet"),
    ],
)
def test_parts_come_from_folders_or_names(tmp_path, names):
    for name, table in zip(names, (rows(0, 40), rows(40, ROWS)), strict=True):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "d" / name)
    data = load_dataset(tmp_path / "d")
    assert sorted(data.samples.read(int(row)) for row in data.rows("test")) == sorted(
        rows(40, ROWS).column("text").to_pylist()
    )
    assert data.given == {"train", "test"}


def test_a_file_without_a_part_beside_others_is_refused(tmp_path):
    pq.write_table(rows(), tmp_path / "train.parquet")
    pq.write_table(rows(), tmp_path / "more.parquet")
    with pytest.raises(DataError, match=r"more\.parquet names no part"):
        load_dataset(tmp_path)


def test_a_pattern_takes_the_files_that_it_fits(tmp_path):
    shard(tmp_path, rows(), 20, 40)
    data = load_dataset(str(tmp_path / "part-000[01].parquet"))
    assert contents(data) == rows(0, 40).column("text").to_pylist()
    with pytest.raises(DataError, match="fits no file"):
        load_dataset(str(tmp_path / "no-*.parquet"))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"text": ["a"], "label": [1]}, "column 'label' holds int64, but in .*part-0000.parquet string"),
        ({"text": ["a"]}, "has no column 'label'"),
        ({"text": ["a"], "label": ["b"], "more": [1]}, "has a column 'more'"),
    ],
)
def test_a_shard_with_other_columns_is_named(tmp_path, other, said):
    shard(tmp_path, rows(), 20)
    pq.write_table(pa.table(other), tmp_path / "part-0007.parquet")
    with pytest.raises(DataError, match=rf"part-0007\.parquet.*{said}"):
        load_dataset(tmp_path)


def test_dictionaries_of_shards_may_differ(tmp_path):
    tmp_path.joinpath("d").mkdir()
    for number, names in enumerate((("ham", "spam"), ("spam", "news"))):
        table = rows(30 * number, 30 * number + 30).set_column(
            1, "label", pa.array([names[row % 2] for row in range(30)]).dictionary_encode()
        )
        pq.write_table(table, tmp_path / "d" / f"{number}.parquet")
    data = load_dataset(tmp_path / "d", label_column="label", stratify_column="label")
    assert data.labels.names == ("ham", "news", "spam")
    assert [data.labels.names[code] for code in data.label[28:32]] == ["ham", "spam", "spam", "news"]


def test_what_writers_leave_beside_shards_is_no_data_and_a_picture_is(tmp_path):
    shard(tmp_path, rows(), 20)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part-0000.parquet.crc").touch()
    assert is_shards(tmp_path)
    assert len(load_dataset(tmp_path)) == ROWS
    (tmp_path / "a.png").touch()
    assert not is_shards(tmp_path)


def test_paths_in_shards_lie_in_their_folder(tmp_path, picture):
    (tmp_path / "new").mkdir()
    for number in range(12):
        (tmp_path / "new" / f"{number}.png").write_bytes(picture(number))
    table = pa.table({"image": [f"{number}.png" for number in range(12)], "label": ["a", "b"] * 6})
    shard(tmp_path / "new", table, 20)
    data = load_dataset(str(tmp_path / "new" / "*.parquet"))
    assert data.samples.read(5) == picture(5)


def test_inputs_may_be_shards(tmp_path):
    folder = shard(tmp_path / "new", rows().drop_columns(["label"]), 20)
    for name in (str(folder), str(folder / "*.parquet")):
        samples = open_inputs([name], modality="text", lines=None, column=None)
        assert [samples.read(row) for row in range(len(samples))] == rows().column("text").to_pylist()


def test_a_shard_that_is_a_link_out_of_its_folder_is_refused(tmp_path):
    folder = shard(tmp_path / "many", rows(), 20)
    pq.write_table(rows(), tmp_path / "secret.parquet")
    (folder / "part-0002.parquet").symlink_to("part-0001.parquet")
    assert len(load_dataset(folder)) == 2 * ROWS - 20
    link = folder / "part-0003.parquet"
    link.symlink_to(tmp_path / "secret.parquet")
    reason = r"part-0003\.parquet is a link that leads out of the data folder: put a copy there"
    with pytest.raises(DataError, match=reason):
        load_dataset(folder)
    with pytest.raises(DataError, match=reason):
        open_inputs([str(folder)], modality="text", lines=None, column="text")
    # A pattern names the files themselves.
    assert len(load_dataset(folder / "*.parquet")) == 3 * ROWS - 20


def test_a_folder_with_a_link_to_a_folder_is_no_table_in_several_files(tmp_path):
    folder = shard(tmp_path / "many", rows(), 20)
    assert is_shards(folder)
    (folder / "more").symlink_to(shard(tmp_path / "others", rows(), 20), target_is_directory=True)
    assert not is_shards(folder)


def test_folders_of_shards_lie_deeper_in_each_other_than_python_calls_may(tmp_path):
    folders = [tmp_path / "d"]
    for _ in range(sys.getrecursionlimit() + 100):
        folders.append(folders[-1] / "d")
    for folder in folders:
        folder.mkdir()
    pq.write_table(rows(), folders[-1] / "part.parquet")
    try:
        assert is_shards(tmp_path / "d")
        assert len(load_dataset(tmp_path / "d")) == ROWS
    finally:
        # What clears up behind the tests calls itself for each folder.
        (folders[-1] / "part.parquet").unlink()
        for folder in reversed(folders[1:]):
            folder.rmdir()
