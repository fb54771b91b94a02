"""Tables: the same rows in every format; columns are worked out, or the question is put clearly."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unfreeze.data import links
from unfreeze.data.audit import audit
from unfreeze.data.columns import content_column
from unfreeze.data.groups import RowGroups
from unfreeze.data.load import load_dataset, load_whole
from unfreeze.data.rows import Columns
from unfreeze.data.table import read_table_file
from unfreeze.data.tables import open_table
from unfreeze.errors import DataError, RequestError

TEXTS = [f'a mail, number {n}\nwith "two" lines' for n in range(40)]
KINDS = ["spam" if n % 4 == 0 else "ham" for n in range(40)]


def write(path, columns: dict[str, list]):
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        import csv

        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    return path


def inferred(data):
    return {entry.what: entry.value for entry in data.inferred}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    data = load_dataset(write(tmp_path / f"mails.{kind}", {"text": TEXTS, "label": KINDS}))
    assert data.modality == "text"
    assert data.labels.names == ("ham", "spam")
    assert [data.samples.read(row) for row in range(40)] == TEXTS
    assert [data.labels.names[code] for code in data.label] == KINDS
    assert data.samples.name(2) == f"mails.{kind}:3"
    assert inferred(data)["text column"] == "text"
    assert inferred(data)["label column"] == "label"


def test_every_format_draws_the_same_split(tmp_path):
    parts = [
        load_dataset(write(tmp_path / f"mails.{kind}", {"text": TEXTS, "label": KINDS}), seed=3).part.tolist()
        for kind in ("csv", "tsv", "jsonl", "parquet")
    ]
    assert parts[0] == parts[1] == parts[2] == parts[3]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 0] * 20),
        pa.array([1.0, 0.0] * 20),
        pa.array(np.array([1.0, 0.0] * 20, dtype=np.float16)),
        pa.array(["1", "0"] * 20, pa.string_view()),
        pa.array(["1", "0"] * 20),
        pa.array([" 1", "0 "] * 20),
        pa.array(["1", "0"] * 20).dictionary_encode(),
    ],
)
def test_labels_of_every_type_become_the_same_names(tmp_path, values):
    pq.write_table(pa.table({"text": TEXTS, "label": values}), tmp_path / "mails.parquet")
    data = load_dataset(tmp_path / "mails.parquet")
    assert data.labels.names == ("0", "1")
    assert data.label.tolist() == [1, 0] * 20


def test_numbers_that_no_integer_holds_keep_their_spelling(tmp_path):
    pq.write_table(pa.table({"text": TEXTS, "label": [1e300, float("inf")] * 20}), tmp_path / "mails.parquet")
    assert load_dataset(tmp_path / "mails.parquet").labels.names == ("1e+300", "inf")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_label_that_is_not_a_number_is_none(tmp_path, kind):
    labels = [float("nan"), 1.0, 2.0, 1.0] * 10
    data = load_dataset(write(tmp_path / f"mails.{kind}", {"text": TEXTS, "label": labels}))
    assert data.labels.names == ("1", "2")
    assert len(data) == 30
    assert {entry.reason for entry in data.ignored} == {"no label"}


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        (
            {"text": [[n] for n in range(40)]},
            {"text_column": "text"},
            r"'text' holds list<.*> ?, which is no text",
        ),
        (
            {"text": TEXTS, "g": [{"a": 1}] * 40},
            {"group_column": "g"},
            "'g' holds struct<.*not one value a row",
        ),
        (
            {"text": TEXTS, "label": pa.array([0, 1] * 20, pa.timestamp("ns", "Mars/Olympus"))},
            {},
            "'label' holds timestamp.*which is no text",
        ),
    ],
)
def test_columns_of_other_types_are_named(tmp_path, columns, asked, message):
    pq.write_table(pa.table({"label": KINDS} | columns), tmp_path / "mails.parquet")
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "mails.parquet", **asked)


def test_text_that_is_no_utf8_is_named(tmp_path):
    path = tmp_path / "mails.parquet"
    pq.write_table(pa.table({"text": TEXTS, "label": KINDS}), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"number 7", b"number \xff"))
    with pytest.raises(DataError, match="UTF8"):
        load_dataset(path)


def test_a_name_that_has_no_utf8_is_no_column(tmp_path):
    rows = [{"text": text, "label": kind, "\ud800": 1} for text, kind in zip(TEXTS, KINDS, strict=True)]
    (tmp_path / "mails.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(load_dataset(tmp_path / "mails.jsonl")) == 40


@pytest.mark.parametrize("features", ["x", [1], {"label": {"_type": "ClassLabel", "names": [1, None]}}])
def test_notes_of_a_hub_that_are_none_name_nothing(tmp_path, features):
    meta = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"text": TEXTS, "label": [0, 1] * 20}).replace_schema_metadata(meta)
    pq.write_table(table, tmp_path / "mails.parquet")
    assert load_dataset(tmp_path / "mails.parquet").labels.names == ("0", "1")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_booleans_are_true_and_false(tmp_path, kind):
    data = load_dataset(write(tmp_path / f"m.{kind}", {"text": TEXTS, "label": [True, False] * 20}))
    assert data.labels.names == ("false", "true")


def test_class_labels_of_hub_files_keep_their_names(tmp_path):
    features = {"label": {"_type": "ClassLabel", "names": ["neg", "pos"]}, "text": {"_type": "Value"}}
    meta = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"text": TEXTS, "label": [0, 1, -1, 1] * 10}).replace_schema_metadata(meta)
    pq.write_table(table, tmp_path / "mails.parquet")
    data = load_dataset(tmp_path / "mails.parquet")
    assert data.labels.names == ("neg", "pos")
    assert len(data) == 30
    assert {entry.reason for entry in data.ignored} == {"no label"}
    assert data.ignored[0].name == "mails.parquet:3"


def test_rows_without_label_or_text_are_listed(tmp_path):
    texts, kinds = list(TEXTS), list(KINDS)
    texts[5], texts[6], kinds[7] = "", "  ", ""
    data = load_dataset(write(tmp_path / "mails.csv", {"text": texts, "label": kinds}))
    assert len(data) == 37
    assert {entry.name: entry.reason for entry in data.ignored} == {
        "mails.csv:8": "no label",
        "mails.csv:6": "empty 'text'",
        "mails.csv:7": "empty 'text'",
    }
    assert data.samples.name(5) == "mails.csv:9"
    assert data.samples.read(5) == TEXTS[8]


def test_many_ignored_rows_are_counted_not_listed(tmp_path):
    kinds = ["", *["a", "b"] * 10, *[""] * 2999]
    data = load_dataset(
        write(tmp_path / "m.csv", {"text": [f"text {n}" for n in range(3020)], "label": kinds})
    )
    assert len(data) == 20
    assert len(data.ignored) == 1001
    assert data.ignored[-1].name == "2,000 more"


def test_broken_lines_are_listed(tmp_path):
    lines = [json.dumps({"text": t, "label": k}) for t, k in zip(TEXTS, KINDS, strict=True)]
    (tmp_path / "m.jsonl").write_text("\n".join([*lines[:3], "{oops", "[1]", "", *lines[3:]]))
    data = load_dataset(tmp_path / "m.jsonl")
    assert len(data) == 40
    assert [entry.name for entry in data.ignored] == ["m.jsonl:4", "m.jsonl:5"]
    assert data.samples.name(3) == "m.jsonl:7"
    body = "".join(f"text {n},{k}\n" for n, k in enumerate(KINDS))
    (tmp_path / "m.csv").write_text("text,label\n" + body + "one,two,three\n")
    data = load_dataset(tmp_path / "m.csv")
    assert len(data) == 40
    assert data.ignored[0].reason == "3 cells where 2 are expected"


def test_rows_behind_a_skipped_one_keep_the_number_that_they_have_in_the_file(tmp_path):
    lines = [f"text {n},{kind}" for n, kind in enumerate(KINDS)]
    (tmp_path / "m.csv").write_text(
        "\n".join(["text,label", *lines[:3], "one,two,three", *lines[3:], "four"])
    )
    data = load_dataset(tmp_path / "m.csv")
    assert [entry.name for entry in data.ignored] == ["m.csv:4", "m.csv:42"]
    assert [data.samples.name(row) for row in (2, 3, 39)] == ["m.csv:3", "m.csv:5", "m.csv:41"]
    assert data.samples.read(3) == "text 3"


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_a_quote_that_is_never_closed_is_named_and_takes_no_rows(tmp_path, mark):
    lines = [f"text {n}{mark}{kind}" for n, kind in enumerate(KINDS)]
    lines[20] = f'"he said{mark}ham'
    path = tmp_path / ("m.tsv" if mark == "\t" else "m.csv")
    path.write_text("\n".join([f"text{mark}label", *lines]))
    if mark == "\t":
        data = load_dataset(path)
        assert len(data) == 40
        assert data.samples.read(20) == '"he said'
        assert inferred(data)["quotes"] == "part of the text"
    else:
        with pytest.raises(DataError, match="the quote that opens a cell in line 22 is never closed"):
            load_dataset(path)


def test_in_a_tsv_quotes_that_do_not_enclose_a_cell_are_part_of_the_text(tmp_path):
    lines = [f"text {n}\t{kind}" for n, kind in enumerate(KINDS)]
    lines[20] = '"Hello" he said\tham'
    (tmp_path / "m.tsv").write_text("\n".join(["text\tlabel", *lines]))
    assert load_dataset(tmp_path / "m.tsv").samples.read(20) == '"Hello" he said'


def test_quotes_inside_a_cell_open_nothing(tmp_path):
    lines = [f'a 5" pipe and "{n}",{kind}' for n, kind in enumerate(KINDS)]
    lines[0] = '"said ""no""",ham'
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(['"text",label', *lines]).encode())
    data = load_dataset(tmp_path / "m.csv")
    assert [data.samples.read(row) for row in (0, 39)] == ['said "no"', 'a 5" pipe and "39"']
    assert not data.ignored


def test_a_cell_that_took_in_many_rows_is_pointed_out(tmp_path):
    lines = [f"text {n},{kind}" for n, kind in enumerate(KINDS)]
    lines[4], lines[30] = '"he said,ham', 'he replied",ham'
    (tmp_path / "m.csv").write_text("\n".join(["text,label", *lines]))
    data = load_dataset(tmp_path / "m.csv")
    assert len(data) == 40 - 26
    assert "1 of 20 lines or more, the first of 27 lines from line 6 on" in inferred(data)["long cells"]
    assert "long cells" not in inferred(
        load_dataset(write(tmp_path / "n.csv", {"text": TEXTS, "label": KINDS}))
    )


def row_of(layout, mark, number, text):
    cells = {"id": str(number), "text": text, "label": KINDS[number]}
    return mark.join(cells[name] for name in layout)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("layout", [("text", "label"), ("label", "text"), ("id", "text", "label")])
@pytest.mark.parametrize("closed_by", ["a stray one", "one that opens a cell"])
def test_rows_that_a_stray_quote_took_into_a_cell_are_warned_of(tmp_path, mark, layout, closed_by):
    texts = [f"text {n}" for n in range(40)]
    last = {"a stray one": 'he replied"', "one that opens a cell": f'"a text{mark} quoted"'}
    texts[4], texts[8] = '"he said', last[closed_by]
    rows = [row_of(layout, mark, number, text) for number, text in enumerate(texts)]
    path = tmp_path / ("m.tsv" if mark == "\t" else "m.csv")
    path.write_text("\n".join([mark.join(layout), *rows]) + "\n")
    data = load_dataset(path, text_column="text", label_column="label")
    if mark == "\t" and closed_by == "one that opens a cell":
        # There a quote that is closed elsewhere than at the end of its cell is part of the text.
        assert data.warnings == ()
        assert data.samples.read(4) == '"he said'
        return
    (told,) = data.warnings
    assert f"{path.name}: 1 quoted cell seems to hold 4 rows of the table" in told
    assert "in line 6 is closed in line 10 only" in told
    assert audit(data).warnings[0] == told


LETTERS = (
    "Dear all,\nham, spam and eggs, as ever,\n\nyours,\nham",
    "the list:\nbread,spam\nmilk,ham\nand no more",
    "said one,ham\nnothing like a row\nsaid another",
    "bread,spam\nmilk, ham\nno, thanks, really,ham",
    "spam,first\nthen a line of its own\nand one, two, three",
)


@pytest.mark.parametrize("layout", [("text", "label"), ("label", "text"), ("id", "text", "label")])
def test_texts_with_lines_commas_and_names_of_classes_are_no_rows(tmp_path, layout):
    columns = {"id": list(range(40)), "text": [f"{LETTERS[n % 5]} {n}" for n in range(40)], "label": KINDS}
    path = write(tmp_path / "m.csv", {name: columns[name] for name in layout})
    data = load_dataset(path, text_column="text", label_column="label")
    assert len(data) == 40
    assert data.warnings == ()


def test_warnings_of_held_out_data_are_told_too(tmp_path):
    lines = [f"text {n},{kind}" for n, kind in enumerate(KINDS)]
    (tmp_path / "m.csv").write_text("\n".join(["text,label", *lines]))
    lines[4], lines[30] = '"he said,ham', 'he replied",ham'
    (tmp_path / "test.csv").write_text("\n".join(["text,label", *lines]))
    data = load_dataset(tmp_path / "m.csv", test=tmp_path / "test.csv", train_size=20)
    assert data.warnings == load_whole(tmp_path / "test.csv").warnings
    assert data.warnings[0].startswith("test.csv: 1 quoted cell seems to hold 26 rows")


def test_labels_keep_their_spelling_in_csv(tmp_path):
    data = load_dataset(write(tmp_path / "m.csv", {"text": TEXTS, "label": ["01", "1", "NA", "None"] * 10}))
    assert data.labels.names == ("01", "1", "NA", "None")


def test_semicolons_and_a_byte_order_mark_are_understood(tmp_path):
    body = "text;label\n" + "".join(f"text {n};{kind}\n" for n, kind in enumerate(KINDS))
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbf" + body.encode())
    assert load_dataset(tmp_path / "m.csv").labels.names == ("ham", "spam")


def test_split_columns_are_kept(tmp_path):
    parts = (["train"] * 6 + ["validation", "Test"] * 2) * 4
    data = load_dataset(write(tmp_path / "m.csv", {"text": TEXTS, "label": KINDS, "split": parts}))
    assert data.given == {"train", "val", "test"}
    assert [len(data.rows(part)) for part in ("train", "val", "test")] == [24, 8, 8]
    assert inferred(data)["split column"] == "split"


def test_image_paths_are_relative_to_the_table(tmp_path, picture):
    (tmp_path / "img").mkdir()
    for number in range(12):
        (tmp_path / "img" / f"{number}.PNG").write_bytes(picture(number))
    columns = {"path": [f"img/{n}.PNG" for n in range(12)], "kind": ["a", "b"] * 6}
    data = load_dataset(write(tmp_path / "list.csv", columns))
    assert data.modality == "image"
    assert data.samples.name(3) == "img/3.PNG"
    assert data.samples.read(3) == picture(3)
    assert inferred(data)["label column"] == "kind"


def test_a_url_among_paths_is_fetched_once_and_a_path_read_where_it_lies(tmp_path, picture, monkeypatch):
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / "far.png").write_bytes(picture(1))
    fetched = []
    monkeypatch.setattr(links, "fetch_file", lambda url: fetched.append(url) or tmp_path / "far.png")
    paths = ["0.png", *("s3://far/1.png" for _ in range(11))]
    data = load_dataset(write(tmp_path / "list.csv", {"image": paths, "label": ["a", "b"] * 6}))
    assert [data.samples.read(row) for row in (0, 1, 2)] == [picture(0), picture(1), picture(1)]
    assert fetched == ["s3://far/1.png"]
    paths = [f"{row}.png" for row in range(12)]
    here = load_dataset(write(tmp_path / "here.csv", {"image": paths, "label": ["a", "b"] * 6}))
    assert here.samples.root == tmp_path


def test_repeated_paths_keep_unique_names(tmp_path):
    columns = {"image": [f"{n % 6}.png" for n in range(12)], "label": ["a", "b"] * 6}
    data = load_dataset(write(tmp_path / "list.csv", columns))
    names = [data.samples.name(row) for row in range(12)]
    assert len(set(names)) == 12
    assert names[7] == "1.png (row 8)"


def test_paths_with_the_same_end_are_rows_of_their_own(tmp_path, picture):
    # The split knows a path elsewhere without the folder that all of those have in common: by its end alone.
    folders = {"here": "a", str(tmp_path / "far"): "b", str(tmp_path / "far" / "here"): "a"}
    rows, contents = [], []
    for folder, kind in folders.items():
        (tmp_path / "table" / folder).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            contents.append(picture(len(contents)))
            (tmp_path / "table" / folder / f"{number}.png").write_bytes(contents[-1])
            rows.append((f"{folder}/{number}.png", kind))
    path = write(tmp_path / "table" / "m.csv", {"image": [p for p, _ in rows], "label": [k for _, k in rows]})
    identity = read_table_file(path, Columns()).identity.to_pylist()
    assert identity[3] == identity[23] == "here/3.png"
    data = load_dataset(path)
    assert [data.samples.name(row) for row in range(30)] == [name for name, _ in rows]
    assert [data.samples.read(row) for row in range(30)] == contents
    assert [data.labels.names[code] for code in data.label] == [kind for _, kind in rows]
    # What is known alike shares a part, as rows of one text do.
    assert data.part[:10].tolist() == data.part[20:].tolist()
    assert sorted(np.bincount(data.part)) == [4, 6, 20]


def test_urls_that_differ_in_what_is_not_shown_keep_unique_names(tmp_path):
    urls = [f"https://h/image?id={n}" for n in range(12)]
    data = load_dataset(
        write(tmp_path / "m.csv", {"image": urls, "label": ["a", "b"] * 6}), image_column="image"
    )
    names = [data.samples.name(row) for row in range(12)]
    assert names[4] == "https://h/image (row 5)"
    assert len(set(names)) == 12


@pytest.mark.parametrize("wrapped", [True, False])
def test_embedded_images_are_read_by_row_group(tmp_path, picture, wrapped):
    content = [picture(n) for n in range(12)]
    image = [{"bytes": data, "path": None} for data in content] if wrapped else content
    table = pa.table({"image": image, "label": ["a", "b"] * 6})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=5)
    data = load_dataset(tmp_path / "d.parquet")
    assert data.modality == "image"
    assert [data.samples.read(row) for row in range(12)] == content
    chosen = data.select([11, 0, 6])
    assert [chosen.samples.read(row) for row in range(3)] == [content[11], content[0], content[6]]
    assert chosen.samples.name(0) == "d.parquet:12"


def test_an_empty_image_cell_is_unreadable_not_another_row(tmp_path, picture):
    image = [None if n == 4 else picture(n) for n in range(12)]
    pq.write_table(pa.table({"image": image, "label": ["a", "b"] * 6}), tmp_path / "d.parquet")
    data = load_dataset(tmp_path / "d.parquet")
    with pytest.raises(OSError, match="empty"):
        data.samples.read(4)
    assert data.samples.read(5) == picture(5)


def test_the_cache_of_row_groups_is_bounded(tmp_path):
    blobs = [bytes([n]) * 1_000_000 for n in range(40)]
    pq.write_table(pa.table({"image": blobs}), tmp_path / "d.parquet", row_group_size=4, compression="none")
    groups = RowGroups([tmp_path / "d.parquet"], "image", cache_bytes=9_000_000)
    before = pa.total_allocated_bytes()
    assert [groups.cell(row)[0] for row in range(40)] == list(range(40))
    # Two cached groups of 4 MB, the one being read and its file buffer; all ten would be 40 MB.
    assert pa.total_allocated_bytes() - before < 20_000_000
    assert groups.cell(0) == blobs[0]


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        (
            {"text": TEXTS, "body": TEXTS, "id": [str(n) for n in range(40)]},
            {},
            "which column holds the label",
        ),
        ({"one": TEXTS, "two": TEXTS, "label": KINDS}, {}, "could be 'one', 'two'.*--text-column"),
        ({"text": TEXTS, "image": ["a.png"] * 40, "label": KINDS}, {}, "--image-column or --text-column"),
        (
            {"text": TEXTS, "a": KINDS, "b": KINDS},
            {},
            "holds the label is unclear .*'a', 'b'.*--label-column",
        ),
        ({"text": TEXTS, "label": TEXTS}, {}, "40 different values in 40 rows, like an identifier"),
        ({"text": TEXTS, "label": ["one"] * 40}, {}, r"one class only \('one'\)"),
        ({"text": [""] * 40, "label": KINDS}, {"text_column": "text"}, "no row with both"),
    ],
)
def test_unclear_tables_name_candidates_and_flags(tmp_path, columns, asked, message):
    with pytest.raises(DataError, match=message):
        load_dataset(write(tmp_path / "m.csv", columns), **asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"label_column": "lable"}, "has no such column. Did you mean 'label'.*'text', 'label'"),
        ({"text_column": "text", "image_column": "text"}, "choose one"),
        ({"text_column": "label", "label_column": "label"}, "must differ"),
    ],
)
def test_wrong_columns_are_wrong_requests(tmp_path, asked, message):
    with pytest.raises(RequestError, match=message):
        load_dataset(write(tmp_path / "m.csv", {"text": TEXTS, "label": KINDS}), **asked)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables_without_labels_tell_their_content_and_rows(tmp_path, kind):
    path = write(tmp_path / f"m.{kind}", {"id": KINDS, "text": TEXTS, "photo": ["a.png"] * 40})
    table = open_table(path)
    assert table.rows() == 40
    assert content_column(table, modality="text", asked=None) == "text"
    assert content_column(table, modality="image", asked=None) == "photo"
    assert content_column(table, modality="text", asked="id") == "id"
    with pytest.raises(RequestError, match="Did you mean 'text'"):
        content_column(table, modality="text", asked="tex")
    with pytest.raises(RequestError, match="--column 'tex'"):
        content_column(table, modality="text", asked="tex")


PATHS = [f"{number}.png" for number in range(40)]


@pytest.mark.parametrize(
    ("modality", "columns", "asked", "message"),
    [
        ("text", {"image": PATHS, "label": KINDS}, None, "reads texts, and .* holds images .column 'image'"),
        ("text", {"image": PATHS, "colour": KINDS}, None, "reads texts, and .* holds images .column 'image'"),
        (
            "text",
            {"image": PATHS, "text": TEXTS},
            "image",
            "reads texts, and .* holds images .column 'image'",
        ),
        ("image", {"text": TEXTS, "label": KINDS}, None, "reads images, and .* holds texts .column 'text'"),
        ("image", {"text": TEXTS, "label": PATHS}, None, "reads images, and .* holds texts .column 'text'"),
        ("text", {"label": KINDS, "species": KINDS}, None, "holds the texts is unclear"),
        ("image", {"colour": KINDS}, None, "holds the images is unclear"),
    ],
)
def test_a_label_is_no_input_and_a_table_of_the_other_kind_is_named(
    tmp_path, modality, columns, asked, message
):
    table = open_table(write(tmp_path / "n.csv", columns))
    with pytest.raises(DataError, match=message):
        content_column(table, modality=modality, asked=asked)


def test_a_caption_beside_an_image_is_a_text(tmp_path):
    table = open_table(write(tmp_path / "n.csv", {"image": PATHS, "caption": TEXTS, "label": KINDS}))
    assert content_column(table, modality="text", asked=None) == "caption"
    assert content_column(table, modality="text", asked="label") == "label"


def test_named_columns_win_over_inferred_ones(tmp_path):
    columns = {"text": TEXTS, "body": [t.upper() for t in TEXTS], "label": KINDS, "mood": ["x", "y"] * 20}
    data = load_dataset(write(tmp_path / "m.csv", columns), text_column="body", label_column="mood")
    assert data.labels.names == ("x", "y")
    assert data.samples.read(0) == TEXTS[0].upper()
    assert "label column" not in inferred(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"", "has no rows: the file is empty"),
        ("m.csv", b"text,label\n", "has no rows"),
        ("m.csv", b"text,label\n\xff\xfe,a\n", "UTF-8"),
        ("m.csv", b"text,text\na,b\n", "more than one column called 'text'"),
        (
            "m.parquet",
            b"nothing of the kind",
            r"damaged, or of another kind .* \(Parquet .* footer\)\. Write it again",
        ),
        ("m.parquet", None, "has no rows"),
        ("m.parquet", "twice", "more than one column called 'text'"),
        ("m.jsonl", b"[1]\n", "none of its lines is a JSON object"),
        ("m.jsonl", b'{"text": "\xff", "label": "a"}\n', r"line 1 is not UTF-8\. Save it as UTF-8"),
        ("m.xlsx", b"x", "its name must end in one of .csv, .tsv"),
    ],
)
def test_damaged_tables_are_named_errors(tmp_path, name, content, message):
    if content == "twice":
        pq.write_table(pa.Table.from_arrays([pa.array(TEXTS)] * 2, names=["text", "text"]), tmp_path / name)
    elif content is None:
        pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": [""][:0]}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / name)


def test_an_unknown_part_is_named(tmp_path):
    parts = ["train"] * 1500 + ["extra"] * 500
    columns = {
        "text": [f"t {n}" for n in range(2000)],
        "label": ["a", "b"] * 1000,
        "split": parts,
    }
    with pytest.raises(DataError, match="'extra', which names no part"):
        load_dataset(write(tmp_path / "m.csv", columns))


def test_indexing_keeps_columns_and_no_objects(tmp_path):
    rows = 50_000
    path = tmp_path / "m.csv"
    with path.open("w") as file:
        file.write("image,label,unused\n")
        file.writelines(f"folder/{n}.png,{n % 3},{'x' * 100}\n" for n in range(rows))
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    data = load_dataset(path)
    kept = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert len(data) == rows
    # Path of 16 bytes, offset, label, part and row index: 40 bytes; a Python string alone would take 65.
    assert kept / rows < 120
    assert np.bincount(data.part).tolist() == [35_000, 7_500, 7_500]


def test_the_split_of_image_paths_does_not_depend_on_where_the_folder_lies(tmp_path) -> None:
    parts = []
    for place in ("here", "some/where/else"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        table = folder / "cells.csv"
        rows = [f"{folder}/images/{index:03d}.png,{'ab'[index % 2]}" for index in range(60)]
        table.write_text("\n".join(["image,label", *rows]), encoding="utf-8")
        parts.append(load_dataset(str(table), seed=3).part.tolist())
    assert parts[0] == parts[1]
    assert len(set(parts[0])) == 3


@pytest.mark.parametrize("place", ["images", "{}/images", "s3://far/images"])
def test_what_the_split_knows_of_a_path_is_not_changed_by_a_row_elsewhere_nor_by_a_link_to_the_folder(
    tmp_path, place
):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    rows = [f"{place.format(tmp_path)}/{n}.png,{'ab'[n % 2]}" for n in range(12)]
    known = []
    for folder, more in ((tmp_path, []), (tmp_path, ["more/1.png,a"]), (tmp_path / "link", ["/x/1.png,a"])):
        path = folder / "cells.csv"
        path.write_text("\n".join(["image,label", *rows, *more]))
        known.append(read_table_file(path, Columns()).identity.to_pylist()[:12])
    assert known[0] == known[1] == known[2]
    assert known[0][3] == ("3.png" if "://" in place else "images/3.png")


def test_a_column_of_fractions_is_no_label_however_few_there_are(tmp_path):
    kinds, scores = ["bill", "note"] * 20, [0.5, 1.0, 0.5, 0.5] * 10
    table = pa.table({"text": TEXTS, "kind": kinds, "score": scores})
    pq.write_table(table, tmp_path / "mails.parquet")
    assert load_dataset(tmp_path / "mails.parquet").labels.names == ("bill", "note")
