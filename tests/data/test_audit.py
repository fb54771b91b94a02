"""The audit finds what was put there: sizes, lengths, bad files, duplicates, contradictions."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from unfreeze.data.audit import audit
from unfreeze.data.findings import Spread
from unfreeze.data.load import load_dataset
from unfreeze.runtime.decode import Quarantined
from unfreeze.runtime.preprocess import TextPreprocess
from unfreeze.runtime.tokenize import TextEncoder


def test_counts_sizes_and_formats_are_those_of_the_files(class_folders, picture):
    root = class_folders({"cat": 40, "dog": 20})
    (root / "cat" / "long.jpg").write_bytes(picture(900, size=(90, 30), kind="JPEG"))
    found = audit(load_dataset(root))
    assert found.rows == 61
    assert sum(found.counts[part]["cat"] for part in found.counts) == 41
    assert found.counts["train"] == {"cat": 29, "dog": 14}
    assert found.imbalance == pytest.approx(2.07)
    assert found.images is not None
    assert found.images.width == Spread(8.0, 8.0, 90.0)
    assert found.images.height == Spread(6.0, 6.0, 30.0)
    assert found.images.aspect == Spread(1.333, 1.333, 3.0)
    assert found.images.extreme == ("cat/long.jpg",)
    assert found.images.formats == {"PNG": 60, "JPEG": 1}
    assert found.images.modes == {"RGB": 61}
    assert any("such as cat/long.jpg" in warning for warning in found.warnings)


def test_bad_files_are_named_with_reasons(class_folders):
    root = class_folders({"cat": 10, "dog": 10})
    whole = (root / "cat" / "002.png").read_bytes()
    (root / "cat" / "002.png").write_bytes(whole[:-40])
    (root / "dog" / "005.png").write_bytes(b"")
    found = audit(load_dataset(root))
    assert [bad.name for bad in found.quarantined] == ["cat/002.png", "dog/005.png"]
    assert found.quarantined[1] == Quarantined("dog/005.png", "the file is empty")
    assert "2 of 20 rows cannot be used, such as cat/002.png" in found.warnings[0]


def test_files_of_formats_that_are_not_read_are_counted_by_ending(class_folders):
    root = class_folders({"cat": 10, "dog": 10})
    for number in range(1_005):
        (root / "cat" / f"{number}.HEIC").write_bytes(b"x")
    (root / "dog" / "film.mov").write_bytes(b"x")
    for name in (".hidden.heic", "README.md", "notes.txt", "labels.csv", "Thumbs.db"):
        (root / "dog" / name).write_bytes(b"x")
    found = audit(load_dataset(root))
    told = (
        "1,006 files are left out, of formats that are not read: 1,005 .heic, 1 .mov. Convert what is meant as an "
        "input."
    )
    assert told in found.warnings
    assert sum(entry.count for entry in found.ignored) == 1_011


def test_duplicates_across_parts_and_contradictions_are_found(class_folders, picture):
    root = class_folders({"train/cat": 12, "train/dog": 12, "val/cat": 4, "val/dog": 4, "test/cat": 4})
    same = picture(1000)
    for name in ("train/cat/a.png", "train/cat/b.png", "test/cat/c.png"):
        (root / name).write_bytes(same)
    other = picture(1001)
    for name in ("train/cat/x.png", "train/dog/y.png"):
        (root / name).write_bytes(other)
    found = audit(load_dataset(root))
    assert found.duplicate_rows == 3
    assert [group.names for group in found.duplicates] == [
        ("train/cat/a.png", "train/cat/b.png", "test/cat/c.png"),
        ("train/cat/x.png", "train/dog/y.png"),
    ]
    assert found.across_parts == (found.duplicates[0],)
    assert found.across_parts[0].parts == ("train", "test")
    assert found.contradictions == (found.duplicates[1],)
    assert found.contradictions[0].labels == ("cat", "dog")
    assert any("1 contents carry different classes" in warning for warning in found.warnings)
    assert any("1 contents lie in more than one part" in warning for warning in found.warnings)
    assert any("test part has no row of 'dog'" in warning for warning in found.warnings)


def test_unreadable_files_are_no_duplicates_of_each_other(class_folders):
    root = class_folders({"cat": 10, "dog": 10})
    data = load_dataset(root)
    for number in range(3):
        (root / "cat" / f"00{number}.png").unlink()
    found = audit(data)
    assert len(found.quarantined) == 3
    assert found.duplicate_rows == 0


def encoder(max_length: int) -> TextEncoder:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    file = tokenizer.to_str().encode()
    return TextEncoder(TextPreprocess(max_length, 0, hashlib.sha256(file).hexdigest()), file)


def test_text_lengths_and_the_share_that_is_cut():
    texts = [" ".join([f"w{n}"] * (n + 1)) for n in range(20)]
    data = load_dataset((texts, ["a", "b"] * 10))
    found = audit(data, encoder=encoder(15))
    assert found.texts is not None
    assert found.texts.unit == "tokens"
    assert found.texts.length == Spread(1.0, 10.5, 20.0)
    assert found.texts.truncated == 0.25
    assert any("25.0% of the texts are longer than 15 tokens" in warning for warning in found.warnings)
    words = audit(data).texts
    assert words is not None
    assert (words.unit, words.truncated) == ("words", None)
    assert words.length == Spread(1.0, 10.5, 20.0)


def test_duplicate_texts_are_found():
    texts = [f"text {n}" for n in range(20)]
    texts[13] = texts[4]
    found = audit(load_dataset((texts, ["a", "b"] * 10)))
    assert found.duplicate_rows == 1
    assert found.contradictions[0].names == ("item 5", "item 14")


def test_imbalance_and_small_parts_are_warned_of():
    data = load_dataset(([f"text {n}" for n in range(220)], ["a"] * 205 + ["b"] * 15))
    warnings = audit(data).warnings
    assert any("13 times the rows of the smallest" in warning for warning in warnings), warnings
    assert any("The test part has 33 rows" in warning for warning in warnings), warnings


def test_the_dictionary_is_json_and_progress_reaches_the_end(class_folders):
    seen = []
    found = audit(load_dataset(class_folders({"cat": 9, "dog": 9})), progress=seen.append)
    assert seen[-1] == 18
    read = json.loads(json.dumps(found.to_dict()))
    assert read["rows"] == 18
    assert read["labels"] == ["cat", "dog"]
    assert read["images"]["width"]["median"] == 8.0


def test_facts_and_findings_are_words_for_a_page(class_folders, picture):
    root = class_folders({"cat": 10, "dog": 10})
    for name in ("cat/x.png", "dog/y.png"):
        (root / name).write_bytes(picture(1, size=(50, 10)))
    found = audit(load_dataset(root))
    assert found.facts[:3] == (
        ("Width", "8 to 50, median 8 pixels"),
        ("Height", "6 to 10, median 6 pixels"),
        ("Long side over short side", "1.333 to 5, median 1.333"),
    )
    assert [(finding.title, finding.total) for finding in found.findings if finding.title[0] != "S"] == [
        ("Rows that repeat an earlier one", 1),
        ("Extreme shapes", 2),
    ]
    assert found.findings[0].title == "Same content, different class"
    assert found.findings[0].items[0][0] == "cat/x.png, dog/y.png"
    texts = audit(load_dataset(([f"text {n}" for n in range(12)], ["a", "b"] * 6)), encoder=encoder(1))
    assert texts.facts == (("Length", "2 to 2, median 2 tokens"), ("Longer than 1 tokens", "100.0%"))


def test_groups_across_given_parts_are_counted(tmp_path):
    lines = [
        f"text {n},{'ab'[n % 2]},{'train' if n < 20 else 'test'},g{n % 10 if n < 30 else n}\n"
        for n in range(40)
    ]
    (tmp_path / "m.csv").write_text("text,label,split,g\n" + "".join(lines))
    data = load_dataset(tmp_path / "m.csv", group_column="g", val=0.2)
    found = audit(data)
    in_test = np.unique(data.group[data.rows("test")])
    elsewhere = np.unique(data.group[data.rows("train", "val")])
    assert found.groups_across_parts == len(np.intersect1d(in_test, elsewhere)) == 10
