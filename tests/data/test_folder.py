"""Folders: class folders and part folders become rows; what is no sample is listed, never a class."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from unfreeze.data.load import load_dataset
from unfreeze.errors import DataError, RequestError


def parts_of(data):
    return {part: sorted(data.samples.name(int(row)) for row in data.rows(part)) for part in data.given}


def ignored(data):
    return {entry.name: entry.reason for entry in data.ignored}


def test_class_folders_become_sorted_labels(class_folders):
    data = load_dataset(class_folders({"dog": 10, "cat": 10, "ant": 10}))
    assert data.labels.names == ("ant", "cat", "dog")
    assert data.modality == "image"
    assert len(data) == 30
    for row in range(30):
        assert data.samples.name(row).startswith(data.labels.names[data.label[row]] + "/")
    assert data.given == frozenset()


def test_files_inside_subfolders_of_a_class_belong_to_it(class_folders):
    data = load_dataset(class_folders({"cat": 4, "cat/2024/may": 4, "dog": 8}))
    assert data.labels.names == ("cat", "dog")
    assert np.bincount(data.label).tolist() == [8, 8]
    assert "cat/2024/may/000.png" in {data.samples.name(row) for row in range(16)}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Valid"])
def test_part_folders_are_kept_and_labels_match_by_name(class_folders, name):
    # The validation part lacks "bee": indices must not shift.
    root = class_folders(
        {"train/ant": 3, "train/bee": 3, "train/cat": 3, f"{name}/ant": 1, f"{name}/cat": 2, "test/bee": 1}
    )
    data = load_dataset(root)
    assert data.given == {"train", "val", "test"}
    assert [len(data.rows(part)) for part in ("train", "val", "test")] == [9, 3, 1]
    for row in range(len(data)):
        assert data.samples.name(row).split("/")[1] == data.labels.names[data.label[row]]


def test_only_train_and_val_given_draws_test_from_train(class_folders):
    root = class_folders({"train/a": 20, "train/b": 20, "val/a": 2, "val/b": 2})
    data = load_dataset(root)
    assert data.given == {"train", "val"}
    assert len(data.rows("val")) == 4
    assert len(data.rows("test")) == 6
    assert all(data.samples.name(int(row)).startswith("train/") for row in data.rows("test"))
    split = next(entry for entry in data.inferred if entry.what == "split")
    assert split.value == "test 15%"
    assert "train" in split.reason


def test_only_train_and_test_given_draws_val_from_train(class_folders):
    root = class_folders({"train/a": 20, "train/b": 20, "test/a": 2, "test/b": 2})
    data = load_dataset(root)
    assert len(data.rows("test")) == 4
    assert len(data.rows("val")) == 6
    assert all(data.samples.name(int(row)).startswith("train/") for row in data.rows("val"))


def test_unlabelled_test_folder_is_ignored_and_test_is_drawn(class_folders):
    root = class_folders({"train/a": 10, "train/b": 10, "test": 3})
    data = load_dataset(root)
    assert ignored(data)["test"] == "has no class folders"
    assert len(data) == 20
    assert len(data.rows("test")) > 0


def test_a_class_may_be_called_train(class_folders):
    data = load_dataset(class_folders({"train/2019": 5, "train/2020": 5, "bus": 10}))
    assert data.labels.names == ("bus", "train")


def test_a_class_that_train_lacks_is_an_error(class_folders):
    root = class_folders({"train/cat": 3, "train/dog": 3, "val/cat": 1, "val/dogs": 1})
    with pytest.raises(DataError, match=r"val part has the classes 'dogs'.*Did you mean 'dog'"):
        load_dataset(root)


def test_hidden_and_junk_entries_are_listed_and_are_no_classes(class_folders, picture):
    root = class_folders({"cat": 8, "dog": 8, ".ipynb_checkpoints": 1, "__MACOSX": 1, "empty": 0, "notes": 0})
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "cat" / "._000.png").write_bytes(b"x")
    (root / "cat" / "read me").write_bytes(b"x")
    (root / "notes" / "a.pdf").write_bytes(b"x")
    (root / "labels.csv").write_text("x")
    (root / "dog" / "UPPER.PNG").write_bytes(picture(99))
    data = load_dataset(root)
    assert data.labels.names == ("cat", "dog")
    assert len(data) == 17
    assert ignored(data) == {
        ".ipynb_checkpoints": "hidden",
        "__MACOSX": "written by an operating system, not data",
        "cat/Thumbs.db": "written by an operating system, not data",
        "cat/._000.png": "hidden",
        "cat/read me": "not an image or text file (no extension)",
        "notes/a.pdf": "not an image or text file (.pdf)",
        "labels.csv": "not inside a class folder",
        "empty": "a folder without image files",
        "notes": "a folder without image files",
    }


@pytest.mark.parametrize(
    "name", ["@eaDir", "#recycle", "#snapshot", "@tmp", "@Recycle", "@Recently-Snapshot", "$RECYCLE.BIN"]
)
def test_what_network_storage_keeps_in_a_folder_is_no_class_and_no_row(class_folders, name):
    data = load_dataset(class_folders({"cat": 8, "dog": 8, name: 2, f"cat/{name}/000.png": 1}))
    assert data.labels.names == ("cat", "dog")
    assert len(data) == 16
    assert ignored(data) == dict.fromkeys([name, f"cat/{name}"], "written by an operating system, not data")


def test_links_to_folders_are_followed_once_and_loops_end(class_folders):
    root = class_folders({"cat": 4, "dog": 4})
    (root / "cat" / "loop").symlink_to(root / "cat", target_is_directory=True)
    (root / "dog" / "up").symlink_to(root, target_is_directory=True)
    (root / "dog" / "self.png").symlink_to(root / "dog" / "self.png")
    data = load_dataset(root)
    assert [data.samples.name(row) for row in range(8)] == [
        f"{name}/{number:03}.png" for name in ("cat", "dog") for number in range(4)
    ]
    assert len(data) == 9
    assert ignored(data) == dict.fromkeys(
        ["cat/loop", "dog/up"], "a folder that is read already by another name"
    )
    with pytest.raises(OSError, match="links"):
        data.samples.read(8)


def test_links_that_lead_out_of_the_data_are_not_followed(class_folders, tmp_path):
    root = class_folders({"cat": 8, "dog": 8})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes((root / "cat" / "000.png").read_bytes())
    (root / "everything").symlink_to("/", target_is_directory=True)
    (root / "bird").symlink_to(outside, target_is_directory=True)
    (root / "cat" / "zoo").symlink_to("../../outside", target_is_directory=True)
    (root / "cat" / "secret.png").symlink_to(outside / "secret.png")
    # Within the data they may lie where they will.
    (root / "dog" / "cat.png").symlink_to("../cat/000.png")
    data = load_dataset(root)
    assert data.labels.names == ("cat", "dog")
    assert len(data) == 17
    reason = "a link that leads out of the data folder"
    assert ignored(data) == dict.fromkeys(["bird", "cat/secret.png", "cat/zoo", "everything"], reason)


def test_a_data_folder_that_is_a_link_is_read_as_the_folder_that_it_leads_to(class_folders, tmp_path):
    root = class_folders({"cat": 8, "dog": 8})
    link = tmp_path / "link"
    link.symlink_to(root, target_is_directory=True)
    (root / "dog" / "cat.png").symlink_to(root / "cat" / "000.png")
    data = load_dataset(link)
    assert len(data) == 17
    assert ignored(data) == {}


def test_nothing_but_links_that_lead_out_is_said(class_folders, tmp_path):
    root = class_folders({"cat": 8, "dog": 8})
    links = tmp_path / "links"
    links.mkdir()
    for name in ("cat", "dog"):
        (links / name).symlink_to(root / name, target_is_directory=True)
    with pytest.raises(DataError, match="such as cat, are not followed: put copies there"):
        load_dataset(links)


def test_text_folders_are_texts_and_empty_ones_are_ignored(class_folders):
    root = class_folders({"ham": 8, "spam": 8}, content="mail")
    (root / "ham" / "blank.txt").write_text("")
    data = load_dataset(root)
    assert data.modality == "text"
    assert len(data) == 16
    assert str(data.samples.read(0)).startswith("mail ")
    assert ignored(data) == {"ham/blank.txt": "an empty text"}


def test_a_folder_that_is_linked_to_from_one_before_it_is_read_once(class_folders):
    root = class_folders({"cat": 4, "cat/young": 4, "dog": 4})
    # Before its target in the order of names.
    (root / "cat" / "kittens").symlink_to("young", target_is_directory=True)
    data = load_dataset(root)
    assert len(data) == 12
    assert ignored(data) == {"cat/kittens": "a folder that is read already by another name"}


@pytest.mark.parametrize(
    ("link", "target"), [("cat/more", "dog"), ("dog/more", "cat"), ("bird", "cat"), ("emu", "cat")]
)
def test_a_link_to_another_class_reads_none_of_its_files_whatever_their_names(class_folders, link, target):
    root = class_folders({"cat": 8, "dog": 8})
    (root / link).symlink_to(root / target, target_is_directory=True)
    data = load_dataset(root)
    assert data.labels.names == ("cat", "dog")
    assert np.bincount(data.label).tolist() == [8, 8]
    assert ignored(data) == {link: "a folder that is read already by another name"}
    assert len(data.ignored) == 1


def test_a_part_that_is_a_link_to_another_one_is_none(class_folders):
    root = class_folders({"train/cat": 8, "train/dog": 8})
    (root / "test").symlink_to("train", target_is_directory=True)
    data = load_dataset(root)
    assert data.given == {"train"}
    assert len(data) == 16
    assert ignored(data) == dict.fromkeys(
        ["test/cat", "test/dog"], "a folder that is read already by another name"
    )


def test_a_folder_that_two_classes_link_to_from_above_and_below_is_read_once(class_folders):
    root = class_folders({"cat": 4, "dog": 4, ".kept/inside": 4})
    (root / "cat" / "below").symlink_to("../.kept/inside", target_is_directory=True)
    (root / "dog" / "above").symlink_to("../.kept", target_is_directory=True)
    data = load_dataset(root)
    assert np.bincount(data.label).tolist() == [8, 4]
    assert ignored(data)["dog/above/inside"] == "a folder that is read already by another name"


def test_folders_lie_deeper_in_each_other_than_python_calls_may(class_folders, picture):
    root = class_folders({"cat": 4, "dog": 4})
    folders = [root / "cat"]
    for _ in range(sys.getrecursionlimit() + 100):
        folders.append(folders[-1] / "d")
        folders[-1].mkdir()
    file = folders[-1] / "deep.png"
    file.write_bytes(picture(7))
    try:
        assert len(load_dataset(root)) == 9
    finally:
        # What clears up behind the tests calls itself for each folder.
        file.unlink()
        for folder in reversed(folders[1:]):
            folder.rmdir()


def test_names_that_are_not_utf8_are_listed_and_end_nothing(class_folders):
    root = class_folders({"cat": 8, "dog": 8, "bird": 8})
    (root / "cat" / "000.png").rename(root / "cat" / os.fsdecode(b"caf\xe9.png"))
    (root / "bird").rename(root / os.fsdecode(b"b\xeerd"))
    data = load_dataset(root)
    assert data.labels.names == ("cat", "dog")
    assert len(data) == 15
    assert ignored(data) == dict.fromkeys(
        [r"b\udceerd", r"cat/caf\udce9.png"], "its name is not UTF-8: rename it"
    )
    assert len(data.fingerprint) == 64
    for name in ("cat", "dog"):
        (root / name).rename(root / os.fsdecode(name.encode() + b"\xff"))
    with pytest.raises(DataError, match=r"Names that are not UTF-8, such as b\\udceerd, are left out"):
        load_dataset(root)
    other = root.rename(root.with_name(os.fsdecode(b"\xff")))
    with pytest.raises(DataError, match=r"udcff cannot be read: its name is not UTF-8: rename it"):
        load_dataset(other)


def test_a_missing_file_is_no_crash_at_loading(class_folders):
    root = class_folders({"cat": 8, "dog": 8})
    (root / "cat" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    data = load_dataset(root)
    assert len(data) == 17


def test_a_missing_text_is_listed(class_folders):
    root = class_folders({"ham": 8, "spam": 8}, content="mail")
    (root / "ham" / "gone.txt").symlink_to(root / "nowhere.txt")
    data = load_dataset(root)
    assert len(data) == 16
    assert ignored(data) == {"ham/gone.txt": "cannot be read: No such file or directory"}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "is empty. Put the files of each class"),
        ({"cat": 5}, r"has one class only \('cat'\): a classifier needs two"),
        ({"cat": 5, "dog": 1}, "the class 'dog' has 1 row"),
        ({"cat": 5, "dog": 2}, "the class 'dog' has 2 row.*at least 3"),
        ({"": 3}, "has no class folders, only 3 loose file"),
        ({"cat": 0, "dog": 0}, "has no image or .txt file in its folders 'cat', 'dog'"),
    ],
)
def test_folders_that_are_no_data_set_are_named_errors(class_folders, counts, message):
    with pytest.raises(DataError, match=message):
        load_dataset(class_folders(counts))


def test_a_missing_folder_suggests_its_neighbour(class_folders, tmp_path):
    class_folders({"cat": 3, "dog": 3})
    with pytest.raises(DataError, match=r"photo does not exist\. Did you mean 'photos'"):
        load_dataset(tmp_path / "photo")


def test_columns_of_a_folder_are_a_wrong_request(class_folders):
    with pytest.raises(RequestError, match="--label-column kind names a column"):
        load_dataset(class_folders({"cat": 3, "dog": 3}), label_column="kind")


def test_a_folder_of_tables_names_one(class_folders):
    root = class_folders({})
    (root / "data.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match=r"name one, such as .*data\.csv"):
        load_dataset(root)
