"""Parquet files behind a URL that have no place on this disk: the same rows, runs and errors, in bounded space."""

import csv
import functools
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import unfreeze
from unfreeze.bulk.pieces import cut_inputs
from unfreeze.config import bytes_of
from unfreeze.data import groups, parquet
from unfreeze.data.inputs import open_inputs
from unfreeze.data.load import load_dataset
from unfreeze.data.reading import content_hash, content_hashes, read_raw
from unfreeze.errors import DataError, RequestError, UnfreezeError
from unfreeze.progress import Silent
from unfreeze.runtime import parts
from unfreeze.runtime.decode import Quarantined

ROWS, SHARDS, GROUP = 28, 4, 2
BUDGET = 20_000
COUNTED = ("model.safetensors", "head.safetensors", "predictions.csv", "metrics.json", "golden.safetensors")
# Times and memory are those of the day.
MEASURED = {"seconds", "rows_per_second", "wait_share", "peak_bytes"}


@pytest.fixture
def cells(photos, tmp_path):
    """Shuffled pictures in the cells of four files, in row groups of two: some 8 kB each."""
    files = sorted(photos.rglob("*.png"))
    files = [files[place] for place in np.random.default_rng(0).permutation(ROWS)]
    table = pa.table(
        {"image": [file.read_bytes() for file in files], "label": [file.parent.name for file in files]}
    )
    return write_shards(tmp_path / "here" / "cells", table)


def write_shards(folder, table):
    folder.mkdir(parents=True)
    rows = len(table) // SHARDS
    for number in range(SHARDS):
        pq.write_table(
            table.slice(number * rows, rows),
            folder / f"part-{number}.parquet",
            row_group_size=GROUP,
            use_dictionary=False,
        )
    return folder


@pytest.fixture
def bucket(s3, cells, monkeypatch):
    """The same files in a bucket, for which there is room for two row groups here."""
    s3.put(str(cells), "toys/cells", recursive=True)
    monkeypatch.setenv(parts.BUDGET, str(BUDGET))
    return s3


@pytest.fixture
def small_memory(monkeypatch):
    """Room for two row groups in memory as well, and nothing fetched beyond the next one."""
    monkeypatch.setattr(parquet, "RowGroups", functools.partial(groups.RowGroups, cache_bytes=BUDGET))
    monkeypatch.setattr(groups, "AHEAD_BYTES", 0)


@pytest.fixture
def in_turn(monkeypatch):
    """One row group after the other, so that it is sure which are kept."""
    monkeypatch.setattr(groups.RowGroups, "_fetch_ahead", lambda self, first: None)


@pytest.fixture
def fetched(monkeypatch):
    """The sizes of the ranges that are asked of the store."""
    import s3fs

    asked = []
    fetch = s3fs.core.S3File._fetch_range

    def counted(file, start, end):
        asked.append(end - start)
        return fetch(file, start, end)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted)
    return asked


def on_disk(cache):
    return sum(path.stat().st_size for path in (cache / "remote").rglob("*") if path.is_file())


def contents(data):
    return [data.samples.read(row) for row in range(len(data))]


def group_bytes(cells):
    """Bytes of the pictures' column in each row group."""
    found = []
    for path in sorted(cells.iterdir()):
        about = pq.read_metadata(path)
        found += [
            about.row_group(group).column(0).total_compressed_size for group in range(about.num_row_groups)
        ]
    return found


@pytest.mark.parametrize(
    "url",
    [
        "s3://toys/cells",
        "s3://toys/cells/",
        "s3://toys/cells/*.parquet",
        "s3://toys/cells/part-1.parquet",
        "s3://toys/parted",
    ],
)
def test_rows_are_those_of_the_files_fetched_whole(bucket, cells, monkeypatch, tmp_path, url):
    for number, part in enumerate(("train", "train", "val", "test")):
        bucket.put(str(cells / f"part-{number}.parquet"), f"toys/parted/{part}/{number}.parquet")
    bucket.pipe_file("toys/parted/_SUCCESS", b"")
    streamed = load_dataset(url)
    assert [note.value for note in streamed.inferred if note.what == "remote files"] == ["read in parts"]
    monkeypatch.delenv(parts.BUDGET)
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "other"))
    whole = load_dataset(url)
    assert not (tmp_path / "other" / "remote" / "parts").exists()
    assert streamed.fingerprint == whole.fingerprint
    assert streamed.source == whole.source
    assert contents(streamed) == contents(whole)
    assert [note for note in streamed.inferred if note.what != "remote files"] == list(whole.inferred)


@pytest.mark.usefixtures("plain_torch", "small_memory")
@pytest.mark.parametrize("strategy", ["feature-extraction", pytest.param("partial", marks=pytest.mark.slow)])
def test_a_run_is_bit_for_bit_that_of_the_files_on_this_disk(
    bucket, cells, tmp_path, tiny_vit, monkeypatch, stopping, strategy
):
    settings = {"backbone": tiny_vit, "strategy": strategy, "device": "cpu", "precision": "fp32"}
    # The caches differ, so nothing may be decided by measuring.
    settings |= {"batch_size": 8, "epochs": 2, "store": "on"} if strategy == "partial" else {}
    found = {}
    for name, data in {"here": str(cells), "there": "s3://toys/cells"}.items():
        # Nothing that one of them has stored is there for the other.
        monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / f"cache-{name}"))
        found[name] = bits(unfreeze.train(data, output_dir=tmp_path / "runs" / name, **settings))
    assert found["there"] == found["here"]
    assert on_disk(tmp_path / "cache-there") <= BUDGET
    if strategy == "partial":
        with stopping(3):
            unfreeze.train("s3://toys/cells", output_dir=tmp_path / "runs" / "again", **settings)
        resumed = unfreeze.train(
            "s3://toys/cells", output_dir=tmp_path / "runs" / "again", resume=True, **settings
        )
        assert bits(resumed) == found["here"]


@pytest.mark.slow
def test_two_processes_train_on_them_as_one_does_on_files(bucket, cells, tmp_path, tiny_vit, monkeypatch):
    settings = {
        "backbone": tiny_vit,
        "strategy": "partial",
        "precision": "fp32",
        "batch_size": 8,
        "epochs": 2,
    }
    settings |= {"store": "on", "image_size": 32}
    one = unfreeze.train(str(cells), output_dir=tmp_path / "one", device="cpu", **settings).folder
    options = [
        text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    order = ["train", "s3://toys/cells", "--output-dir", "s3://toys/two", "--devices", "2", *options]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-m", "unfreeze", *order], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert 0 < on_disk(tmp_path / "cache") <= BUDGET
    bucket.get("toys/two/history.csv", str(tmp_path / "two.csv"))
    ours, theirs = (losses(path) for path in (tmp_path / "two.csv", one / "history.csv"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def losses(path):
    with path.open(newline="") as file:
        return [[float(row[name]) for name in ("train_loss", "val_log_loss")] for row in csv.DictReader(file)]


def bits(run):
    found = {name: (run.folder / name).read_bytes() for name in COUNTED if (run.folder / name).exists()}
    assert "metrics.json" in found
    for path in sorted((run.folder / "examples").rglob("*")) if (run.folder / "examples").exists() else ():
        found[path.name] = path.read_bytes() if path.is_file() else b""
    if (run.folder / "history.csv").exists():
        with (run.folder / "history.csv").open() as file:
            rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
        found["history"] = repr(rows).encode()
    return found


@pytest.mark.usefixtures("small_memory", "in_turn")
def test_the_disk_holds_no_more_than_the_budget_and_a_pass_fetches_what_it_does_not_hold(
    bucket, cells, fetched, tmp_path, monkeypatch
):
    cache = tmp_path / "unfreeze-cache"
    held = []
    write = groups._write_column

    def watched(column, path):
        write(column, path)
        held.append(on_disk(cache))

    monkeypatch.setattr(groups, "_write_column", watched)
    data = load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))
    # Footers, and the labels: no picture yet.
    assert not held
    fetched.clear()
    expected = contents(load_dataset(cells, fractions=(1.0, 0.0, 0.0)))
    sizes = group_bytes(cells)
    assert contents(data) == expected
    assert sum(fetched) == sum(sizes)
    assert len(held) == 2
    assert 0 < max(held) <= BUDGET < 3 * min(sizes)
    for _ in range(2):
        fetched.clear()
        assert contents(data) == expected
        assert sum(fetched) == sum(sizes[2:])
    # So does the next command.
    again = load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))
    fetched.clear()
    assert contents(again) == expected
    assert sum(fetched) == sum(sizes[2:])
    assert on_disk(cache) <= BUDGET


def test_rows_read_by_many_threads_are_the_same_and_fetched_once(bucket, cells, fetched):
    data = load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))
    fetched.clear()
    found, _ = content_hashes(data.samples, threads=8)
    expected, _ = content_hashes(load_dataset(cells, fractions=(1.0, 0.0, 0.0)).samples)
    assert (found == expected).all()
    assert sum(fetched) == sum(group_bytes(cells))


@pytest.mark.usefixtures("small_memory")
def test_hashes_are_asked_of_the_store_once(bucket, cells, fetched):
    data = load_dataset("s3://toys/cells", val=str(cells), fractions=(1.0, 0.0, 0.0))
    rows = data.rows("train")
    first, _ = content_hashes(data.samples.select(rows))
    fetched.clear()
    again, _ = content_hashes(data.select(rows[::-1]).samples)
    assert (again[::-1] == first).all()
    assert (content_hashes(data.samples)[0][data.rows("val")] == first).all()
    assert not fetched


@pytest.mark.usefixtures("small_memory")
def test_rows_that_are_looked_up_here_and_there_fetch_their_own_row_groups_alone(bucket, cells, fetched):
    data = load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))
    fetched.clear()
    sizes = group_bytes(cells)
    # Four row groups a file: two, two, two rows and one.
    for row in (27, 9, 20):
        data.samples.read(row)
    assert sorted(fetched) == sorted([sizes[15], sizes[5], sizes[11]])


def test_row_groups_are_fetched_ahead_of_rows_that_are_read_in_order(bucket, cells, fetched):
    data = load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))
    fetched.clear()
    data.samples.read(0)
    data.samples.groups._fetchers.shutdown(wait=True)
    assert sorted(fetched) == sorted(group_bytes(cells)[: 1 + groups.MOST_AHEAD])


@pytest.mark.usefixtures("in_turn")
def test_parts_that_no_running_command_uses_give_way_to_others(bucket, cells, tmp_path):
    folder = tmp_path / "unfreeze-cache" / "remote" / "parts"
    contents(load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0)))
    first = {path.name for path in folder.iterdir()}
    bucket.put(str(cells), "toys/other", recursive=True)
    beside = load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))
    contents(beside)
    assert {path.name for path in folder.iterdir()} == first
    contents(load_dataset("s3://toys/other", fractions=(1.0, 0.0, 0.0)))
    second = {path.name for path in folder.iterdir()}
    assert len(second) == len(first) == 2
    assert not first & second
    # Of the first they were taken meanwhile, which costs no more than fetching them again.
    assert len(contents(beside)) == ROWS


@pytest.mark.usefixtures("small_memory")
def test_a_part_that_is_damaged_here_is_fetched_again(bucket, cells, tmp_path):
    folder = tmp_path / "unfreeze-cache" / "remote" / "parts"
    expected = contents(load_dataset(cells, fractions=(1.0, 0.0, 0.0)))
    assert contents(load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))) == expected
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    assert contents(load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))) == expected


def test_data_that_fit_are_fetched_whole_and_old_parts_make_room(bucket, cells, monkeypatch, tmp_path):
    cache = tmp_path / "unfreeze-cache" / "remote"
    contents(load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0)))
    assert on_disk(cache.parent) > 0
    size = sum(path.stat().st_size for path in cells.iterdir())
    monkeypatch.setenv(parts.BUDGET, str(size))
    assert {note.what for note in load_dataset("s3://toys/cells").inferred} & {"remote files"} == set()
    assert list((cache / "parts").iterdir()) == []
    assert sum(path.stat().st_size for path in (cache / "objects").rglob("*") if path.is_file()) == size
    # What is here whole is used, whatever may be fetched now.
    monkeypatch.setenv(parts.BUDGET, "1")
    assert {note.what for note in load_dataset("s3://toys/cells").inferred} & {"remote files"} == set()


@pytest.mark.usefixtures("small_memory")
def test_a_file_that_is_changed_meanwhile_ends_the_work_and_is_no_bad_row(bucket, cells, monkeypatch):
    import s3fs

    data = load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))
    # As another person changes it: this process hears of it from the store alone.
    other = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    other.put(str(cells / "part-0.parquet"), "toys/cells/part-3.parquet")
    with pytest.raises(
        DataError, match=r"s3://toys/cells/part-3\.parquet cannot be read: .* no longer exists"
    ):
        content_hashes(data.samples)
    monkeypatch.setattr(parts, "CHECK_SECONDS", 0.0)
    with pytest.raises(DataError, match=r"s3://toys/cells/part-3\.parquet was changed since it was listed"):
        content_hashes(data.samples)
    other.rm("toys/cells/part-3.parquet")
    with pytest.raises(DataError, match=r"s3://toys/cells/part-3\.parquet was changed since it was listed"):
        content_hashes(data.samples)


@pytest.mark.usefixtures("small_memory")
def test_a_store_that_fails_ends_the_work_with_its_words(bucket, monkeypatch):
    data = load_dataset("s3://toys/cells", fractions=(1.0, 0.0, 0.0))

    def refuse(self, start, end):
        raise PermissionError(self.key)

    import s3fs

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", refuse)
    with pytest.raises(DataError, match=r"part-0\.parquet cannot be read: permission denied"):
        content_hashes(data.samples)
    bucket.rm("toys/cells/part-2.parquet")
    with pytest.raises(DataError, match=r"s3://toys/cells/part-2\.parquet does not exist"):
        data.samples.read(15)


def test_a_damaged_row_group_is_bad_rows_as_it_is_on_this_disk(bucket, cells):
    path = cells / "part-1.parquet"
    whole = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    whole[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(whole))
    bucket.put(str(path), "toys/cells/part-1.parquet")
    here, there = (
        content_hashes(load_dataset(data, fractions=(1.0, 0.0, 0.0)).samples)[1]
        for data in (cells, "s3://toys/cells")
    )
    assert [row.name for row in there] == [row.name for row in here] == ["cells:10", "cells:11"]
    assert there == here


def test_texts_are_read_by_their_columns_and_nothing_is_kept_here(s3, tmp_path, monkeypatch, fetched):
    texts = [f"the {'storm' if row % 2 else 'prize'} of day {row}" for row in range(ROWS)]
    blob = [np.random.default_rng(row).bytes(100_000) for row in range(ROWS)]
    table = pa.table({"text": texts, "label": ["a", "b"] * (ROWS // 2), "photo_id": range(ROWS), "raw": blob})
    s3.put(str(write_shards(tmp_path / "mails", table)), "toys/mails", recursive=True)
    monkeypatch.setenv(parts.BUDGET, "1kB")
    data = load_dataset("s3://toys/mails", text_column="text")
    assert sorted(contents(data)) == sorted(texts)
    # A footer is asked for with the 64 kB before it.
    assert sum(fetched) < SHARDS * 80_000 < sum(map(len, blob))
    samples = open_inputs(["s3://toys/mails"], modality="text", lines=None, column="text")
    assert samples.read(5) == texts[5]
    assert samples.name(5) == "mails:6"
    assert on_disk(tmp_path / "unfreeze-cache") == 0


def rows_of(inputs, modality, column=None):
    """Name and content of every row of the pieces that a bulk prediction gives to its workers, or why it is bad."""
    cut = cut_inputs([str(inputs)], modality=modality, column=column, piece_rows=3)
    found = []
    # As processes get them.
    for samples in (pickle.loads(pickle.dumps(piece)).open(modality) for piece in cut.pieces):  # noqa: S301 - our own
        found += [
            (samples.name(row).rpartition("/")[2], read_raw(samples, row)) for row in range(len(samples))
        ]
    return cut, found


def test_a_bulk_prediction_reads_cells_in_parts_within_the_budget(bucket, cells, tmp_path):
    here = rows_of(cells, "image", "image")[1]
    cut, there = rows_of("s3://toys/cells", "image", "image")
    assert there == here
    assert len(there) == ROWS
    assert "s3://toys/cells is read in parts: " in cut.notes[0]
    assert 0 < on_disk(tmp_path / "unfreeze-cache") <= BUDGET


@pytest.mark.parametrize("budget", ["1kB", "200kB"])
def test_a_bulk_prediction_reads_texts_by_their_columns(s3, tmp_path, monkeypatch, budget):
    texts = [None if row == 9 else f"the prize of day {row}" for row in range(ROWS)]
    blob = [np.random.default_rng(row).bytes(100_000) for row in range(ROWS)]
    folder = write_shards(tmp_path / "mails", pa.table({"text": texts, "raw": blob}))
    s3.put(str(folder), "toys/mails", recursive=True)
    monkeypatch.setenv(parts.BUDGET, budget)
    here = rows_of(folder, "text", "text")[1]
    assert [content for _, content in here if isinstance(content, str)] == [text for text in texts if text]
    assert rows_of("s3://toys/mails", "text", "text")[1] == here
    assert on_disk(tmp_path / "unfreeze-cache") <= bytes_of(budget)


def test_a_bulk_prediction_keeps_no_picture_that_has_no_place_here(s3, photos, tmp_path, monkeypatch):
    s3.put(str(photos), "toys/photos", recursive=True)
    here = rows_of(photos, "image")[1]
    monkeypatch.setenv(parts.BUDGET, "1kB")
    assert rows_of("s3://toys/photos", "image")[1] == here
    assert on_disk(tmp_path / "unfreeze-cache") == 0
    monkeypatch.setenv(parts.BUDGET, "1MB")
    assert rows_of("s3://toys/photos", "image")[1] == here
    assert on_disk(tmp_path / "unfreeze-cache") > 0


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_store_that_fails_ends_a_bulk_prediction_and_damage_is_bad_rows(s3, tmp_path, monkeypatch, kind):
    values = (
        [bytes([row]) * 4_000 for row in range(ROWS)]
        if kind == "image"
        else [f"{row} " * 2_000 for row in range(ROWS)]
    )
    folder = write_shards(tmp_path / "shards", pa.table({kind: values}))
    path = folder / "part-1.parquet"
    whole = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    whole[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(whole))
    s3.put(str(folder), "toys/shards", recursive=True)
    monkeypatch.setenv(parts.BUDGET, "1kB")
    bad = [
        name
        for name, content in rows_of("s3://toys/shards", kind, kind)[1]
        if isinstance(content, Quarantined)
    ]
    assert bad == [
        name for name, content in rows_of(folder, kind, kind)[1] if isinstance(content, Quarantined)
    ]
    assert "part-1.parquet:3" in bad

    cut = cut_inputs(["s3://toys/shards"], modality=kind, column=kind, piece_rows=3)
    write_shards(tmp_path / "shorter", pa.table({kind: values[:SHARDS]}))
    s3.put(str(tmp_path / "shorter" / "part-0.parquet"), "toys/shards/part-0.parquet")
    gone = cut.pieces[0].open(kind)
    assert [isinstance(read_raw(gone, row), Quarantined) for row in (1, 2)] == [True, True]

    def refuse(self, start, end):
        raise PermissionError(self.key)

    import s3fs

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", refuse)
    with pytest.raises(DataError, match=r"part-0\.parquet cannot be read: permission denied"):
        read_raw(cut.pieces[0].open(kind), 0)


def test_files_that_do_not_agree_are_named_by_their_urls(bucket, tmp_path):
    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), tmp_path / "odd.parquet")
    bucket.put(str(tmp_path / "odd.parquet"), "toys/cells/zz.parquet")
    with pytest.raises(DataError, match=r"s3://toys/cells/zz\.parquet: the column 'label' holds int64"):
        load_dataset("s3://toys/cells")
    bucket.pipe_file("toys/cells/zz.parquet", b"PAR1 and no more")
    with pytest.raises(DataError, match=r"s3://toys/cells/zz\.parquet cannot be read"):
        load_dataset("s3://toys/cells")


def test_paths_in_cells_lead_nowhere_else(s3, tmp_path, monkeypatch):
    (tmp_path / "secret.png").write_bytes(b"secret")
    cells = [{"bytes": None, "path": str(tmp_path / "secret.png")}, {"bytes": b"own", "path": "x"}]
    with s3.open("toys/c/0.parquet", "wb") as file:
        pq.write_table(pa.table({"image": cells * 4, "label": ["a", "b"] * 4}), file)
    monkeypatch.setenv(parts.BUDGET, "1")
    data = load_dataset("s3://toys/c", fractions=(1.0, 0.0, 0.0))
    assert data.samples.read(1) == b"own"
    with pytest.raises(OSError, match="leads out of the folder of its table, s3://toys/c: refused"):
        data.samples.read(0)
    found, bad = content_hashes(data.samples)
    assert [row.name for row in bad] == ["c:1", "c:3", "c:5", "c:7"]
    assert (found[1] == np.frombuffer(content_hash(b"own"), np.uint8)).all()
    assert content_hashes(data.samples)[1] == bad


def test_a_budget_that_is_no_size_is_a_sentence(bucket, monkeypatch):
    monkeypatch.setenv(parts.BUDGET, "plenty")
    with pytest.raises(RequestError, match="UNFREEZE_REMOTE_BUDGET 'plenty' is no size"):
        load_dataset("s3://toys/cells")


def test_without_a_limit_it_is_half_of_what_is_free(bucket, monkeypatch):
    monkeypatch.delenv(parts.BUDGET)
    monkeypatch.setattr(parts, "_free", lambda folder: 600_000)
    assert "read in parts" in {note.value for note in load_dataset("s3://toys/cells").inferred}
    monkeypatch.setattr(parts, "_free", lambda folder: 900_000)
    assert "read in parts" not in {note.value for note in load_dataset("s3://toys/cells").inferred}


def test_a_store_that_fails_ends_a_trial_and_is_no_answer_about_its_candidate(monkeypatch):
    from unfreeze.training import trying

    material = SimpleNamespace(
        dataset=SimpleNamespace(label=np.zeros(4, dtype=np.int32)),
        progress=Silent(),
        part=lambda name: np.arange(4),
        together=lambda rows: None,
        ranks=SimpleNamespace(alone=True),
    )
    record = SimpleNamespace(find=lambda *given, **more: None)
    trier = trying.Trier(material, None, {"full": None}, record, lambda: False)
    trier.__dict__.update(rows=np.arange(4), assigned=np.array([0, 1, 0, 1]), floor_right=np.ones(4, bool))
    monkeypatch.setattr(trying, "shorten", lambda plan, share: plan)
    monkeypatch.setattr(trying.Trier, "_head", lambda *given: None)
    problems = {
        "diverged": UnfreezeError("diverged"),
        "broken": RuntimeError("shapes differ\nat length"),
        "refused": DataError("s3://b/x cannot be read: refused"),
    }

    def fail(*given, **more):
        raise problems[more["progress"]]

    monkeypatch.setattr(trying, "Training", lambda *given: None)
    monkeypatch.setattr(trying, "Inside", lambda *given: "diverged")
    monkeypatch.setattr(trying, "run_plan", fail)
    assert trier(SimpleNamespace(name="full"), 0, 1.0).failed == "diverged"
    monkeypatch.setattr(trying, "Inside", lambda *given: "broken")
    assert trier(SimpleNamespace(name="full"), 0, 1.0).failed == "shapes differ."
    # Others may wait for what it computes with them.
    material.ranks.alone = False
    with pytest.raises(RuntimeError, match="shapes differ"):
        trier(SimpleNamespace(name="full"), 0, 1.0)
    monkeypatch.setattr(trying, "Inside", lambda *given: "refused")
    with pytest.raises(DataError, match="refused"):
        trier(SimpleNamespace(name="full"), 0, 1.0)
