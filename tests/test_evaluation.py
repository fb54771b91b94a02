"""Scoring a run on other data."""

import csv
import shutil

import pytest

from unfreeze.errors import DataError, RequestError
from unfreeze.evaluation import evaluate_run


def write_table(path, rows, header=("image", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def test_table(image_run, tmp_path):
    with (image_run.run.folder / "predictions.csv").open(newline="") as file:
        rows = [(image_run.data / row["input"], row["true_label"]) for row in csv.DictReader(file)]
    return rows


def test_a_part_that_the_data_do_not_have_is_refused_and_not_taken_for_all_rows(
    image_run, test_table, tmp_path
):
    table = write_table(tmp_path / "t.csv", test_table)
    with pytest.raises(DataError, match=r"has no test rows: it comes in no parts"):
        evaluate_run(image_run.run.folder, table, part="test")


def test_rows_that_the_run_has_learnt_are_warned_of(image_run, test_table, tmp_path):
    learnt = evaluate_run(image_run.run.folder, str(image_run.data))
    assert "most of the rows have been learnt" in learnt.warnings[0]
    assert learnt.to_dict()["warnings"] == list(learnt.warnings)
    assert evaluate_run(image_run.run.folder, write_table(tmp_path / "t.csv", test_table)).warnings == ()


def test_files_that_are_not_read_are_told_beside_the_scores(image_run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "red" / "IMG.heic").write_bytes(b"x")
    evaluation = evaluate_run(image_run.run.folder, str(tmp_path / "photos"))
    (warning,) = evaluation.warnings
    assert warning.startswith("1 file is left out, of formats that are not read: 1 .heic.")
    assert evaluation.to_dict()["warnings"] == [warning]


def test_texts_that_were_cut_are_told_beside_the_scores(text_run, tmp_path):
    rows = [("prize " * 40, "spam"), ("agenda", "ham"), ("agenda minutes", "ham"), ("cash " * 40, "spam")]
    table = write_table(tmp_path / "t.csv", rows, ("text", "label"))
    evaluation = evaluate_run(text_run.run.folder, table)
    told = "2 of 4 texts (50.0%) are longer than the 16 tokens that are read of each, and were cut."
    assert evaluation.warnings == (told,)


def test_rows_of_a_group_make_the_interval_wider(text_run, tmp_path):
    rows = [
        (words, label, f"{label}-{group}")
        for words, label in (("prize cash claim", "spam"), ("agenda minutes report", "ham"))
        for group in range(3)
        for _ in range(8)
    ]
    rows += [("agenda minutes", "spam", "odd")] * 8
    table = write_table(tmp_path / "t.csv", rows, ("text", "label", "author"))
    alone, together = (
        evaluate_run(text_run.run.folder, table, group_column=column) for column in (None, "author")
    )
    assert together.scores.accuracy == alone.scores.accuracy
    assert together.scores.accuracy_low < alone.scores.accuracy_low
    assert together.scores.accuracy_high > alone.scores.accuracy_high
    assert together.majority == 32 / 56


def test_the_test_rows_give_the_numbers_of_the_training(image_run, test_table, tmp_path):
    evaluation = evaluate_run(image_run.run.folder, write_table(tmp_path / "t.csv", test_table))
    ours, theirs = evaluation.scores, image_run.run.test
    assert ours.n == theirs.n
    assert ours.confusion == theirs.confusion
    assert ours.labels == theirs.labels
    assert ours.log_loss == pytest.approx(theirs.log_loss, abs=1e-4)
    assert ours.ece == pytest.approx(theirs.ece, abs=1e-4)
    assert evaluation.unreadable == ()


def test_unreadable_rows_are_named_and_not_counted(image_run, test_table, tmp_path):
    rows = [*test_table, (tmp_path / "gone.png", "red")]
    evaluation = evaluate_run(image_run.run.folder, write_table(tmp_path / "t.csv", rows))
    assert evaluation.scores.n == len(test_table)
    ((name, reason),) = evaluation.unreadable
    assert name.endswith("gone.png")
    assert reason
    assert evaluation.to_dict()["unreadable"] == [{"input": name, "reason": reason}]


def test_classes_are_matched_by_name_when_the_data_lack_one(image_run, photos, tmp_path):
    rows = [(path, "red") for path in sorted((photos / "red").iterdir())]
    scores = evaluate_run(image_run.run.folder, write_table(tmp_path / "t.csv", rows)).scores
    assert scores.labels == ("green", "red")
    assert scores.confusion[0] == (0, 0)
    assert sum(scores.confusion[1]) == 14
    assert scores.accuracy > 0.65
    assert scores.roc_auc is None


def test_a_class_that_the_run_does_not_know_is_refused(image_run, photos, tmp_path):
    table = write_table(tmp_path / "t.csv", [(photos / "red" / "00.png", "rod")] * 2)
    with pytest.raises(DataError, match="'red'"):
        evaluate_run(image_run.run.folder, table)


def test_data_of_the_other_modality_are_refused(image_run, mails, tmp_path):
    table = write_table(
        tmp_path / "t.csv", [("a red one", "red"), ("a green one", "green")], ("text", "label")
    )
    with pytest.raises(RequestError, match=r"classifies images.*texts"):
        evaluate_run(image_run.run.folder, table)


def test_a_part_is_scored_alone_and_an_unknown_one_refused(text_run, tmp_path):
    rows = [
        ("prize cash claim", "spam", "test"),
        ("agenda minutes", "ham", "train"),
        ("storm border", "news", "train"),
        *[("agenda report", "ham", "train")] * 5,
    ]
    table = write_table(tmp_path / "t.csv", rows, ("text", "label", "split"))
    assert evaluate_run(text_run.run.folder, table, part="test").scores.n == 1
    assert evaluate_run(text_run.run.folder, table).scores.n == 8
    with pytest.raises(RequestError, match="train, val, test"):
        evaluate_run(text_run.run.folder, table, part="holdout")
    with pytest.raises(DataError, match="no val rows"):
        evaluate_run(text_run.run.folder, table, part="val")


def test_data_without_one_readable_row_are_refused(image_run, tmp_path):
    rows = [(tmp_path / "a.png", "red"), (tmp_path / "b.png", "green")]
    with pytest.raises(DataError, match="None of the 2 rows"):
        evaluate_run(image_run.run.folder, write_table(tmp_path / "t.csv", rows))
