"""Inputs to predict on, as a command line names them."""

import csv
import os

import pytest

from unfreeze.data.inputs import open_inputs, open_items
from unfreeze.data.reading import read_raw
from unfreeze.errors import RequestError
from unfreeze.runtime.decode import Quarantined


def names(samples):
    return [samples.name(row) for row in range(len(samples))]


def contents(samples):
    return [samples.read(row) for row in range(len(samples))]


def found(samples):
    """What each row holds, or why it cannot be read."""
    read = [read_raw(samples, row) for row in range(len(samples))]
    return [
        entry.reason.removeprefix("cannot be read: ") if isinstance(entry, Quarantined) else entry
        for entry in read
    ]


def images(*inputs, lines=None, column=None):
    return open_inputs([str(name) for name in inputs], modality="image", lines=lines, column=column)


def texts(*inputs, lines=None, column=None):
    return open_inputs([str(name) for name in inputs], modality="text", lines=lines, column=column)


@pytest.fixture
def folder(tmp_path, picture):
    root = tmp_path / "new"
    (root / "deep").mkdir(parents=True)
    for number, name in enumerate(["b.png", "a.jpg", "deep/c.png", ".hidden.png", "notes.md"]):
        (root / name).write_bytes(picture(number))
    return root


def test_files_keep_the_order_in_which_they_were_named(folder):
    asked = [folder / "b.png", folder / "a.jpg", folder / "b.png"]
    assert names(images(*asked)) == [str(path) for path in asked]


def test_a_folder_gives_its_images_at_every_depth_sorted_without_hidden_ones(folder):
    assert names(images(folder)) == [str(folder / name) for name in ("a.jpg", "b.png", "deep/c.png")]


def test_files_of_formats_that_are_not_read_are_told(folder):
    said = []
    (folder / "deep" / "d.heic").write_bytes(b"x")
    samples = open_inputs([str(folder)], modality="image", lines=None, column=None, tell=said.append)
    assert len(samples) == 3
    told = "1 file is left out, of formats that are not read: 1 .heic. Convert what is meant as an input."
    assert said == [told]
    for name in ("a.jpg", "b.png", "deep/c.png"):
        (folder / name).unlink()
    with pytest.raises(RequestError, match=r"no image inputs were found there\. 1 file is left out"):
        images(folder)


def test_a_glob_that_the_shell_left_alone_is_expanded(folder):
    assert names(images(folder / "*.png")) == [str(folder / "b.png")]
    assert len(images(folder / "**" / "*.png")) == 2


def test_a_file_whose_name_holds_glob_marks_is_that_file(folder, picture):
    (folder / "x[1].png").write_bytes(picture(9))
    assert names(images(folder / "x[1].png")) == [str(folder / "x[1].png")]


def test_a_table_of_paths_reads_them_beside_itself(folder):
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "note"], ["b.png", "x"], ["deep/c.png", "y"]])
    samples = images(folder / "list.csv")
    assert names(samples) == ["b.png", "deep/c.png"]
    assert contents(samples) == [(folder / "b.png").read_bytes(), (folder / "deep/c.png").read_bytes()]


@pytest.mark.parametrize("names", [["b.png", "a.jpg"], ["."], ["*.png"], ["-"]])
def test_a_column_is_refused_where_no_table_is_named(folder, monkeypatch, names):
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError, match="--column 'note': there is no table among the inputs"):
        images(*names, lines=["b.png"], column="note")
    with pytest.raises(RequestError, match="--column 'note': there is no table"):
        texts("-", lines=["a line"], column="note")


def test_a_table_that_is_missing_is_told_before_its_column(tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        texts(tmp_path / "mails.csv", column="body")


@pytest.mark.parametrize("name", ["nothing*.csv", "."])
def test_inputs_that_are_not_there_are_told_before_their_column(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="no text inputs were found there"):
        texts(name, column="body")


def test_a_table_of_texts_gives_its_column(tmp_path):
    with (tmp_path / "mails.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["subject", "body"], ["one", "the first long body"], ["two", "a second long body"]]
        )
    assert contents(texts(tmp_path / "mails.csv", column="subject")) == ["one", "two"]
    assert contents(texts(tmp_path / "mails.csv")) == ["the first long body", "a second long body"]
    with pytest.raises(RequestError, match="Did you mean 'subject'"):
        texts(tmp_path / "mails.csv", column="subjct")


def test_sources_of_all_kinds_keep_their_order(folder):
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "note"], ["deep/c.png", "x"]])
    samples = images(folder / "b.png", folder / "list.csv", folder / "a.jpg", folder / "deep")
    assert names(samples) == [
        str(folder / "b.png"), "deep/c.png", str(folder / "a.jpg"), str(folder / "deep/c.png"),
    ]  # fmt: skip


def test_more_tables_than_a_byte_counts_keep_their_order(tmp_path):
    paths = []
    for number in range(140):
        path = tmp_path / f"{number:03}.csv"
        path.write_text(f"text,n\ntext number {number},1\n")
        paths.append(path)
    assert contents(texts(*paths)) == [f"text number {number}" for number in range(140)]


def test_lines_are_texts_for_a_text_model_and_paths_for_an_image_model(folder):
    assert contents(texts("-", lines=["first", "second"])) == ["first", "second"]
    assert names(images("-", lines=[str(folder / "b.png"), "gone.png"])) == [
        str(folder / "b.png"),
        "gone.png",
    ]


def test_empty_lines_are_rows_with_an_error_and_keep_the_places_of_the_others(folder):
    samples = texts("-", lines=["first", "", "  ", "second", ""])
    assert names(samples) == [f"item {number}" for number in range(1, 6)]
    assert found(samples) == ["first", *["the line is empty"] * 2, "second", "the line is empty"]
    samples = images("-", lines=["", str(folder / "b.png"), " "])
    assert names(samples) == ["", str(folder / "b.png"), " "]
    assert found(samples) == ["the line is empty", (folder / "b.png").read_bytes(), "the line is empty"]
    with pytest.raises(RequestError, match="does not exist"):
        images("-", lines=["", "gone.png"])


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        (
            "m.csv",
            'id,text\n1,first one\n2,two, commas\n3,""\n4,fourth one\n5\n',
            "{} cells where 2 are expected",
        ),
        (
            "m.tsv",
            "id\ttext\n1\tfirst one\n2\ttwo\ttabs\n3\t \n4\tfourth one\n5\n",
            "{} cells where 2 are expected",
        ),
        (
            "m.jsonl",
            '{"text": "first one"}\n{"text": broken\n{"text": null}\n{"text": "fourth one"}\n[5]\n',
            "not a JSON object",
        ),
    ],
)
def test_rows_of_a_table_that_cannot_be_read_are_rows_with_an_error_in_their_places(
    tmp_path, name, content, wrong
):
    (tmp_path / name).write_text(content)
    samples = texts(tmp_path / name, column="text")
    assert names(samples) == [f"{name}:{number}" for number in range(1, 6)]
    assert found(samples) == [
        "first one",
        wrong.format(3),
        "the cell is empty",
        "fourth one",
        wrong.format(1),
    ]
    assert found(samples.select([4, 0])) == [wrong.format(1), "first one"]


def test_an_empty_line_of_a_table_of_one_column_is_a_row(tmp_path):
    (tmp_path / "m.csv").write_text("text\nfirst\n\nthird\n")
    assert found(texts(tmp_path / "m.csv")) == ["first", "the cell is empty", "third"]
    (tmp_path / "m.csv").write_text("\n\ntext\nfirst\nsecond\n")
    assert found(texts(tmp_path / "m.csv")) == ["first", "second"]


def test_rows_of_a_table_of_paths_that_name_none_are_rows_with_an_error(folder):
    (folder / "list.csv").write_text("image,note\nb.png,x\n,y\na.jpg\ndeep/c.png,z\n")
    samples = images(folder / "list.csv")
    assert names(samples) == ["b.png", "list.csv:2", "list.csv:3", "deep/c.png"]
    assert found(samples)[1:3] == ["the cell is empty", "1 cells where 2 are expected"]
    assert samples.read(3) == (folder / "deep" / "c.png").read_bytes()


def test_a_text_file_is_one_input(tmp_path):
    (tmp_path / "mail.txt").write_text("two\nlines", encoding="utf-8")
    assert contents(texts(tmp_path / "mail.txt")) == ["two\nlines"]


def test_a_missing_file_among_others_is_a_row_and_alone_an_error(folder):
    samples = images(folder / "b.png", folder / "gone.png")
    assert len(samples) == 2
    with pytest.raises(OSError, match=r"gone\.png"):
        samples.read(1)
    with pytest.raises(RequestError, match="does not exist"):
        images(folder / "gone.png")


@pytest.mark.parametrize(
    "text", ["so many words " * 40, "many/words " * 900, "is it a question? " * 40, "a\0b"]
)
def test_a_text_in_the_place_of_a_file_is_a_wrong_request_that_says_how_it_is_given(text):
    for given in (text, f"{text}.csv"):
        with pytest.raises(RequestError, match="A text itself is piped in, with - as its name"):
            texts(given)


def test_a_url_is_fetched_at_once_where_it_stands_alone(monkeypatch):
    asked = []
    monkeypatch.setattr("unfreeze.data.inputs.fetch_file", asked.append)
    images("s3://bucket/a.png", "s3://bucket/b.png")
    assert asked == []
    images("s3://bucket/a.png")
    assert asked == ["s3://bucket/a.png"]


@pytest.mark.parametrize("lines", [None, [], ["", " "]])
def test_nothing_to_predict_on_is_refused(lines):
    with pytest.raises(RequestError, match="no text inputs"):
        texts("-", lines=lines)


def test_an_empty_folder_or_glob_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in (tmp_path / "empty", tmp_path / "*.png"):
        with pytest.raises(RequestError, match="no image inputs"):
            images(name)


def test_inputs_wholly_of_the_other_kind_are_refused(folder, tmp_path):
    with pytest.raises(RequestError, match="reads texts"):
        texts(folder / "b.png")
    (tmp_path / "mail.txt").write_text("a mail")
    with pytest.raises(RequestError, match="reads images"):
        images(tmp_path / "mail.txt")
    with pytest.raises(RequestError, match="no text inputs"):
        texts(folder)


def test_links_out_of_a_folder_are_rows_that_are_not_read(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("secret.png", "notes.md"):
        (outside / name).write_bytes((folder / "b.png").read_bytes())
    links = {
        "deep/secret.png": outside / "secret.png",
        "everything": outside,
        "gone.png": outside / "gone.png",
        "inside.png": folder / "b.png",
    }
    for name, target in (links | {"readme.md": outside / "notes.md"}).items():
        (folder / name).symlink_to(target)
    samples = images(folder)
    refused = ["deep/secret.png", "everything", "gone.png"]
    wanted = sorted(["a.jpg", "b.png", "deep/c.png", *links])
    assert names(samples) == [str(folder / name) for name in wanted]
    for row, name in enumerate(wanted):
        content = read_raw(samples, row)
        if name in refused:
            reason = "cannot be read: a link that leads out of the data folder; put a copy there"
            assert content == Quarantined(str(folder / name), reason)
        else:
            assert content == (folder / name).read_bytes()
    # Whoever names a link means what it leads to.
    assert contents(images(folder / "deep" / "secret.png")) == [(folder / "b.png").read_bytes()]
    assert len(images(folder / "everything")) == 1


def test_names_that_are_not_utf8_are_rows_with_an_error(folder):
    wrong = folder / "deep" / os.fsdecode(b"caf\xe9.png")
    (folder / "deep" / "c.png").rename(wrong)
    shown = str(folder / "deep" / r"caf\udce9.png")
    for samples in (images(folder), images(folder / "a.jpg", folder / "b.png", wrong)):
        assert names(samples) == [str(folder / "a.jpg"), str(folder / "b.png"), shown]
        assert found(samples)[2] == "its name is not UTF-8: rename it"
        assert samples.read(1) == (folder / "b.png").read_bytes()
    assert names(open_items([wrong, folder / "b.png"], modality="image")) == [shown, str(folder / "b.png")]


def test_links_to_folders_inside_are_followed_once_and_what_is_no_file_is_a_row(folder):
    (folder / "again").symlink_to("deep", target_is_directory=True)
    (folder / "deep" / "up").symlink_to("..", target_is_directory=True)
    (folder / ".kept").mkdir()
    (folder / ".kept" / "d.png").write_bytes(b"")
    (folder / "kept").symlink_to(".kept", target_is_directory=True)
    (folder / "lost.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    samples = images(folder)
    wanted = ["a.jpg", "b.png", "deep/c.png", "kept/d.png", "lost.png", "pipe.png"]
    assert names(samples) == [str(folder / name) for name in wanted]
    assert "No such file" in read_raw(samples, 4).reason
    assert "not a regular file" in read_raw(samples, 5).reason
