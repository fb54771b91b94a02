"""Trainings and predictions against an S3 server on this machine."""

import importlib
import json
import os
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import unfreeze
from unfreeze.data.load import load_dataset

LITE0 = ("--backbone", "efficientnet-lite0", "--image-size", "64", "--strategy", "feature-extraction")


def put_shards(s3, photos, *, rows=14):
    """The pictures in cells of two Parquet files."""
    files = sorted(photos.rglob("*.png"))
    table = pa.table(
        {"image": [file.read_bytes() for file in files], "label": [file.parent.name for file in files]}
    )
    for number in range(2):
        with s3.open(f"toys/cells/part-{number}.parquet", "wb") as file:
            pq.write_table(table.slice(number * rows, rows), file)


@pytest.mark.usefixtures("plain_torch")
def test_shards_are_trained_on_and_a_run_written_and_used_where_they_lie(
    s3, photos, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    put_shards(s3, photos)
    done = command("train", "s3://toys/cells", "--output-dir", "s3://toys/runs/cells", "--json", *LITE0)
    assert (done.status, done.err) == (0, "")
    assert json.loads(done.out)["run"] == "s3://toys/runs/cells"
    names = {name.removeprefix("toys/runs/cells/") for name in s3.find("toys/runs/cells")}
    assert {"bundle.json", "model.safetensors", "config.yaml", "report.html"} <= names
    assert not {name for name in names if name.startswith(".")}
    for name in ("bundle.json", "config.yaml", "report.html"):
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in s3.cat_file(f"toys/runs/cells/{name}").decode()
    assert json.loads(s3.cat_file("toys/runs/cells/bundle.json"))["data"]["source"] == "s3://toys/cells"

    [local] = (tmp_path / "runs").iterdir()
    s3.put(str(photos / "green" / "00.png"), "toys/new/00.png")
    asked = ("s3://toys/new", "s3://toys/none.png", "--output", "s3://toys/out.csv")
    done = command("predict", "s3://toys/runs/cells", *asked)
    assert done.status == 0, done.err
    with s3.open("toys/out.csv") as file:
        rows = pd.read_csv(file)
    assert rows["input"].tolist() == ["s3://toys/new/00.png", "s3://toys/none.png"]
    [expected] = unfreeze.load(local).predict(photos / "green" / "00.png")
    assert rows["label"][0] == expected.label
    assert rows["probability"][0] == pytest.approx(expected.probability, abs=1e-6)
    assert "s3://toys/none.png does not exist" in rows["error"][1]

    done = command("evaluate", "s3://toys/runs/cells", "s3://toys/cells/*.parquet", "--json")
    assert json.loads(done.out)["n"] == 28
    again = command("train", "s3://toys/cells", "--output-dir", "s3://toys/runs/cells", *LITE0)
    assert again.status == 2

    s3.rm("toys/runs/cells/bundle.json")
    half = command("predict", "s3://toys/runs/cells", "s3://toys/new")
    assert (half.status, half.err) == (
        2,
        "Error: s3://toys/runs/cells is no finished run: it has no bundle.json.\n",
    )


@pytest.mark.usefixtures("plain_torch")
def test_a_run_whose_upload_broke_off_is_written_by_resume(s3, photos, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order = ("train", photos, "--output-dir", "s3://toys/run", *LITE0)
    put = s3.put_file

    def refuse(file, path):
        if path.endswith("model.safetensors"):
            raise PermissionError(path)
        put(file, path)

    with monkeypatch.context() as patch:
        patch.setattr(s3, "put_file", refuse)
        broken = command(*order)
    [local] = (tmp_path / "runs").iterdir()
    assert broken.status == 1
    assert f"The run is in runs/{local.name}: repeat the command with --resume" in broken.err
    assert not s3.exists("toys/run/bundle.json")
    assert command(*order, "--resume").status == 0
    s3.invalidate_cache()
    assert s3.cat_file("toys/run/bundle.json") == (local / "bundle.json").read_bytes()


def test_a_folder_of_pictures_is_the_same_data_set_there_and_here(s3, photos):
    s3.put(str(photos), "toys/photos", recursive=True)
    here, there = load_dataset(str(photos)), load_dataset("s3://toys/photos")
    assert there.fingerprint == here.fingerprint
    assert there.source == "s3://toys/photos"
    assert there.samples.read(5) == here.samples.read(5)


def test_a_changed_object_is_read_anew(s3, mails, tmp_path):
    s3.put(str(mails), "toys/mails.csv")
    before = load_dataset("s3://toys/mails.csv")
    text = mails.read_text().replace("Monday", "Friday")
    # Not through the file system that was listed before, as another person would.
    s3.pipe_file("toys/mails.csv", text.encode())
    after = load_dataset("s3://toys/mails.csv")
    texts = [
        " ".join(map(str, (data.samples.read(row) for row in range(len(data))))) for data in (before, after)
    ]
    assert ("Monday" in texts[0], "Monday" in texts[1]) == (True, False)


def test_a_table_names_pictures_beside_it_and_in_its_bucket_and_nowhere_else(s3, photos, tmp_path):
    picture = (photos / "green" / "00.png").read_bytes()
    (tmp_path / "secret.png").write_bytes(picture)
    s3.pipe({"toys/d/a/1.png": picture, "toys/2.png": picture})
    outside = ["../2.png", "a/../../2.png", str(tmp_path / "secret.png"), f"file://{tmp_path}/secret.png"]
    outside += ["s3://others/2.png", "memory://toys/2.png", "https://toys/2.png"]
    names = ["a/1.png", "s3://toys/2.png", *outside]
    table = pd.DataFrame({"image": names, "label": [("a", "b")[row % 2] for row in range(len(names))]})
    s3.pipe_file("toys/d/t.csv", table.to_csv(index=False).encode())
    data = load_dataset("s3://toys/d/t.csv", fractions=(1.0, 0.0, 0.0))
    assert data.samples.read(0) == data.samples.read(1) == picture
    for row in range(2, len(names)):
        with pytest.raises(OSError, match="refused"):
            data.samples.read(row)


def test_a_path_in_a_cell_of_remote_shards_cannot_reach_this_disk(s3, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    cells = [{"bytes": None, "path": str(tmp_path / "secret.png")}, {"bytes": b"own", "path": "x"}]
    with s3.open("toys/c/0.parquet", "wb") as file:
        pq.write_table(pa.table({"image": cells * 4, "label": ["a", "b"] * 4}), file)
    data = load_dataset("s3://toys/c", fractions=(1.0, 0.0, 0.0))
    assert data.samples.read(1) == b"own"
    with pytest.raises(OSError, match="leads out of the folder of its table, s3://toys/c: refused"):
        data.samples.read(0)


def put_texts(s3, folder, texts, **columns):
    """A Parquet file of texts, in row groups of 7."""
    with s3.open(f"toys/{folder}/part.parquet", "wb") as file:
        pq.write_table(pa.table({"text": texts} | columns), file, row_group_size=7)


def rows_below(s3, folder):
    """All rows of the Parquet files in a folder, in the order of their names."""
    s3.invalidate_cache()
    rows = []
    for name in s3.find(folder):
        with s3.open(name) as file:
            rows += pq.read_table(file).to_pylist()
    return rows


@pytest.mark.slow
def test_ray_predicts_shards_where_they_lie_and_repeats_the_missing_piece_alone(s3, text_run, command):
    texts = [None if row == 17 else f"a prize, a storm, a meeting {row}" for row in range(40)]
    put_texts(s3, "mails/day=1", texts[:25])
    put_texts(s3, "mails/day=2", texts[25:])
    s3.pipe_file("toys/mails/_SUCCESS", b"")
    s3.put(str(text_run.run.folder), "toys/run", recursive=True)
    asked = ("s3://toys/run", "s3://toys/mails", "--engine", "ray", "--workers", "2", "--piece-rows", "10")
    order = ("predict", *asked, "--output", "s3://toys/answers/")
    done = command(*order)
    assert done.status == 0, done.err
    assert "39 rows written to s3://toys/answers/, 1 bad ones beside" in done.err

    good = rows_below(s3, "toys/answers/predictions")
    assert rows_below(s3, "toys/answers/bad") == [
        {"input": "day=1/part.parquet:18", "reason": "cannot be read: the cell is empty"}
    ]
    wanted = [f"day=1/part.parquet:{row + 1}" for row in range(25) if row != 17]
    wanted += [f"day=2/part.parquet:{row + 1}" for row in range(15)]
    assert [row["input"] for row in good] == wanted
    plain = unfreeze.load(text_run.run.folder).predict([text for text in texts if text is not None])
    assert [row["label"] for row in good] == [row.label for row in plain]
    assert [row["probability"] for row in good] == pytest.approx([row.probability for row in plain], abs=1e-5)

    kept = {name: s3.info(name)["LastModified"] for name in s3.find("toys/answers")}
    s3.rm("toys/answers/predictions/part-000001.parquet")
    again = command(*order)
    assert again.status == 0, again.err
    assert "30 of 40 rows are written already." in again.err
    assert rows_below(s3, "toys/answers/predictions") == good
    written = {name for name in kept if s3.info(name)["LastModified"] != kept[name]}
    assert written <= {f"toys/answers/{kind}/part-000001.parquet" for kind in ("predictions", "bad")}

    put_texts(s3, "mails/day=2", texts[25:], more=[1] * 15)
    changed = command(*order)
    assert changed.status == 2
    assert "--output s3://toys/answers/ holds predictions of other inputs" in changed.err


def test_pieces_are_cut_by_footers_and_fetched_when_they_are_read(s3, photos, monkeypatch):
    from unfreeze.bulk.pieces import cut_inputs
    from unfreeze.runtime import remote

    put_texts(s3, "mails/b", [f"text {row}" for row in range(12)])
    s3.put(str(photos), "toys/photos", recursive=True)
    fetched = []
    fetch = remote.fetch
    monkeypatch.setattr(remote, "fetch", lambda listing: fetched.append(listing.url) or fetch(listing))
    cut = cut_inputs(["s3://toys/mails/*/*.parquet"], modality="text", column="text", piece_rows=5)
    assert [len(piece) for piece in cut.pieces] == [5, 5, 2]
    assert fetched == []
    assert cut.pieces[2].open("text").read(1) == "text 11"
    assert fetched == ["s3://toys/mails/b/part.parquet"]

    s3.rm("toys/mails/b/part.parquet")
    with pytest.raises(unfreeze.UnfreezeError, match=r"s3://toys/mails/b/part\.parquet does not exist"):
        cut.pieces[0].open("text")

    pictures = cut_inputs(["s3://toys/photos"], modality="image", column=None, piece_rows=20)
    assert [len(piece) for piece in pictures.pieces] == [20, 8]
    first = pictures.pieces[0].open("image")
    assert first.read(0) == sorted(photos.rglob("*.png"))[0].read_bytes()
    single = cut_inputs(
        ["s3://toys/none.png", "s3://toys/photos"], modality="image", column=None, piece_rows=9
    )
    assert single.rows == 29
    with pytest.raises(OSError, match=r"s3://toys/none\.png does not exist"):
        single.pieces[0].open("image").read(0)

    s3.pipe_file("toys/mails/b/torn.parquet", b"PAR1 and no more")
    s3.pipe_file("toys/t.csv", b"text\na\n")
    for url, words in (
        ("s3://toys/mails", r"s3://toys/mails/b/torn\.parquet cannot be read"),
        ("s3://toys/t.csv", r"folders of files, not s3://toys/t\.csv"),
        ("s3://toys/empty", "s3://toys/empty does not exist"),
    ):
        with pytest.raises(unfreeze.UnfreezeError, match=words):
            cut_inputs([url], modality="text", column="text", piece_rows=5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "s3://toys/none.csv"), "s3://toys/none.csv does not exist, or its bucket does not."),
        (("check", "s3://no-such-bucket/a.csv"), "s3://no-such-bucket/a.csv does not exist"),
        (("check", "quux://toys/a.csv"), "quux://toys/a.csv is no URL that is read here"),
        (("predict", "s3://toys/run", "a.png"), "s3://toys/run does not exist"),
        (
            ("predict", "RUN", "a.png", "--output", "s3://no-such-bucket/a.csv"),
            "s3://no-such-bucket/a.csv does not",
        ),
        (("export", "s3://toys/run"), "--output is needed"),
        (
            ("train", "PHOTOS", "--output-dir", "s3://no-such-bucket/run"),
            "s3://no-such-bucket/run does not exist",
        ),
    ],
)
def test_what_is_not_there_is_a_sentence(s3, command, photos, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = command(*(photos if argument == "PHOTOS" else argument for argument in arguments))
    assert done.status == 2
    assert done.err.startswith(f"Error: {said}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("compare", "PHOTOS", "--strategies", "full", "--output-dir"), "--output-dir"),
        (("adapt", "RUN", "--target", "PHOTOS", "--output-dir"), "--output-dir"),
        (("export", "RUN", "--output"), "--output"),
        (("predict", "RUN", "PHOTOS", "--explain"), "--explain"),
        (("demo", "--output-dir"), "--output-dir"),
    ],
)
def test_where_a_folder_of_this_machine_is_made_a_url_is_refused(
    command, photos, image_run, tmp_path, monkeypatch, arguments, option
):
    monkeypatch.chdir(tmp_path)
    places = {"PHOTOS": photos, "RUN": image_run.run.folder}
    done = command(*(places.get(argument, argument) for argument in arguments), "s3://toys/there")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"Error: {option} takes a folder of this machine, and a URL was given")
    assert not list(tmp_path.iterdir())


def test_without_its_client_s3_names_the_extra(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    done = command("check", "s3://toys/a.csv")
    assert (done.status, done.err) == (
        2,
        "Error: s3://toys/a.csv needs a package that is not installed. Install it with: pip install 'unfreeze[s3]'\n",
    )
