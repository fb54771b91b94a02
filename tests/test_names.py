"""Names that mean something to a spreadsheet, a path, a page or a terminal, from a table to all that is written."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import unfreeze

FORMULA, UP, NUMBER, LINES, TURNED = '=HYPERLINK("x")', "../up", "+1", "two\nlines", "gpj.\u202exe\u2066!"
NAMES = (FORMULA, UP, NUMBER, LINES, TURNED)
# What a page may not hold, even as text: it would turn round what follows.
MARKS_OF_DIRECTION = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.fixture
def table(tmp_path):
    """A table of pictures whose classes and files have these names; a file's name holds no slash."""
    folder = tmp_path / "data"
    folder.mkdir()
    chance = np.random.default_rng(3)
    rows = []
    for place, name in enumerate(NAMES):
        for number in range(8):
            file = f"{name.replace('/', '_')}{number}.png"
            pixels = np.clip(chance.normal(30 + 45 * place, 20, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / file)
            rows.append((f"../data/{file}" if number == 0 else file, name))
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as written:
        csv.writer(written).writerows([("image", "label"), *rows])
    return folder / "table.csv"


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def cells(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_names_stay_as_written_and_harm_neither_spreadsheets_nor_pages_nor_paths(
    table, command, tmp_path, tiny_vit, plain_torch
):
    model = ["--backbone", tiny_vit, "--device", "cpu"]
    few, work = ["--epochs", "1", "--batch-size", "8"], tmp_path / "work"
    work.mkdir()
    before = tree(tmp_path)
    run, answers = work / "run", work / "answers"
    answers.mkdir()
    for arguments in (
        ["train", table, "--output-dir", run, "--strategy", "partial", *few, *model],
        *(
            ["predict", run, table, "--output", answers / f"rows.{end}"]
            for end in ("csv", "jsonl", "parquet")
        ),
        ["predict", run, table.with_name(f"{TURNED}0.png"), "--explain", work / "why"],
    ):
        answer = command(*arguments)
        assert answer.status == 0, answer.err
        # Standard output of predict is a table; all else is for a person's terminal.
        shown = answer.err if arguments[0] == "predict" else answer.out + answer.err
        assert not set(shown) & set(MARKS_OF_DIRECTION)
    # Nothing lies elsewhere, and no folder is named by a class.
    made = tree(tmp_path) - before
    assert all(name.startswith(("work/", "unfreeze-cache")) for name in made)
    assert not [name for name in made if "up" in name.split("/") or "HYPERLINK" in name or "\n" in name]

    labels = tuple(sorted(NAMES))
    assert unfreeze.load(run).labels == labels
    assert tuple(json.loads((run / "bundle.json").read_text())["labels"]) == labels
    metrics = json.loads((run / "metrics.json").read_text())
    for part in ("validation", "test"):
        assert tuple(metrics[part]["labels"]) == labels

    given = [row["label"] for row in cells(table.read_text(encoding="utf-8"))]
    files = [row["image"] for row in cells(table.read_text(encoding="utf-8"))]
    lines = [json.loads(line) for line in (answers / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["input"] for row in lines] == files
    found = [row["label"] for row in lines]
    # The classes are told apart by their brightness: the comparison is not one of a single answer.
    assert set(found) == set(NAMES)
    assert sum(one == other for one, other in zip(found, given, strict=True)) > 20
    assert parquet.read_table(answers / "rows.parquet").column("label").to_pylist() == found

    def defused(name):
        return "'" + name if name[0] in "=+" and name != NUMBER else name

    sheet = cells((answers / "rows.csv").read_bytes().decode())
    assert [row["label"] for row in sheet] == [defused(name) for name in found]
    assert [row["input"] for row in sheet] == [defused(name) for name in files]
    tested = cells((run / "predictions.csv").read_bytes().decode())
    assert {row["true_label"] for row in tested} == {defused(name) for name in NAMES}
    for row in [*sheet, *tested]:
        # A number in a cell is that number; everything else that begins like a formula is text.
        assert not [cell for cell in row.values() if cell.startswith(("=", "@", "\t", "\r"))]
        assert not [cell for cell in row.values() if cell.startswith(("+", "-")) and cell != NUMBER]

    pages = [run / "report.html", work / "why" / "explanations.html", run / "README.md"]
    for path in pages:
        page = path.read_text(encoding="utf-8")
        assert not set(page) & set(MARKS_OF_DIRECTION), path
        assert "gpj.\ufffdxe\ufffd!" in page or "gpj\\.\ufffdxe\ufffd!" in page, path
    assert "=HYPERLINK(&#34;x&#34;)" in pages[0].read_text(encoding="utf-8")
