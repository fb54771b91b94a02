"""Training from data to run folder."""

import csv
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import unfreeze
from unfreeze.choose.settings import Decisions
from unfreeze.config import TrainRequest, read_config
from unfreeze.errors import DataError, RequestError, StoppedError
from unfreeze.evaluation import evaluate_run
from unfreeze.proportions import wilson_interval
from unfreeze.training.prepare import open_backbone, read_data

DESIGNED = {
    "n", "accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_f1", "log_loss", "ece",
    "per_class", "confusion", "labels",
}  # fmt: skip
BESIDE = {
    "balanced_accuracy_low", "balanced_accuracy_high", "macro_f1_low", "macro_f1_high", "top_k", "roc_auc",
}  # fmt: skip


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_finished_run_folder_holds_these_files_and_no_half_written_ones(image_run, text_run):
    files = {
        "README.md", "bundle.json", "config.yaml", "examples.safetensors", "golden.safetensors", "metrics.json",
        "model.safetensors", "predictions.csv", "report.html",
    }  # fmt: skip
    assert {path.name for path in image_run.run.folder.iterdir()} == files
    assert {path.name for path in text_run.run.folder.iterdir()} == files | {"assets"}


def test_the_classes_are_learned(image_run, text_run):
    assert image_run.run.validation.accuracy > 0.65
    assert text_run.run.validation.accuracy > 0.75
    assert image_run.run.validation.n + image_run.run.test.n == 28
    assert text_run.run.validation.n + text_run.run.test.n == 144


def test_metrics_have_the_designed_schema_and_nothing_unknown(image_run):
    metrics = metrics_of(image_run.run.folder)
    assert set(metrics) == {"validation", "test", "baselines"}
    for baseline in metrics["baselines"]:
        assert set(baseline) == {"kind", "name"} | {
            f"{of}{end}" for of in ("accuracy", "difference") for end in ("", "_low", "_high")
        }
    assert [baseline["kind"] for baseline in metrics["baselines"]] == ["chance", "majority"]
    for part in (metrics["validation"], metrics["test"]):
        assert set(part) == DESIGNED | BESIDE | {"how"}
        assert part["labels"] == ["green", "red"]
        assert set(part["per_class"]) == {"green", "red"}
        assert all(set(row) == {"precision", "recall", "f1", "support"} for row in part["per_class"].values())
        assert sum(map(sum, part["confusion"])) == part["n"]
        assert part["accuracy_low"] <= part["accuracy"] <= part["accuracy_high"]


def test_confusion_has_true_classes_as_rows_in_label_order(text_run):
    test = metrics_of(text_run.run.folder)["test"]
    for row, name in zip(test["confusion"], test["labels"], strict=True):
        assert sum(row) == test["per_class"][name]["support"]
    right = sum(test["confusion"][index][index] for index in range(3))
    assert test["accuracy"] == pytest.approx(right / test["n"])


def test_every_setting_has_its_origin_and_reason(image_run):
    config = yaml.safe_load((image_run.run.folder / "config.yaml").read_text())
    assert config["image_size"]["value"] == 64
    assert config["image_size"]["origin"] == "user"
    assert config["seed"]["origin"] == "default"
    for name, entry in config.items():
        assert set(entry) == {"value", "origin", "reason"}, name
        assert entry["origin"] in ("default", "data", "probe", "trial", "user"), name
        assert entry["reason"], name
        assert entry["value"] != "auto", name


def test_a_second_training_computes_no_feature_again_and_gives_the_same_numbers(
    text_run, tmp_path, recorder, monkeypatch, plain_torch
):
    monkeypatch.setenv("UNFREEZE_CACHE", str(text_run.cache))
    again = unfreeze.train(
        str(text_run.data), output_dir=tmp_path / "again", progress=recorder, **text_run.settings
    )
    rows = text_run.run.validation.n
    assert any(f"{rows} of {rows} rows came from the store" in sentence for sentence in recorder.said)
    assert not any("came from the store" in sentence for sentence in text_run.said)
    assert metrics_of(again.folder) == metrics_of(text_run.run.folder)
    first, second = (load_file(run.folder / "model.safetensors") for run in (text_run.run, again))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_unreadable_picture_is_named_left_out_and_not_replaced(
    image_run, tmp_path, recorder, monkeypatch, plain_torch
):
    monkeypatch.setenv("UNFREEZE_CACHE", str(image_run.cache))
    data = tmp_path / "photos"
    shutil.copytree(image_run.data, data)
    broken = data / "red" / "broken.png"
    broken.write_bytes((data / "red" / "03.png").read_bytes()[:400])
    empty = data / "green" / "empty.png"
    empty.write_bytes(b"")
    run = unfreeze.train(str(data), output_dir=tmp_path / "run", progress=recorder, **image_run.settings)
    assert run.validation.n + run.test.n == 28
    report = (run.folder / "report.html").read_text()
    for name in ("broken.png", "empty.png"):
        assert name in report
        assert any(sentence.startswith("Left out: ") and name in sentence for sentence in recorder.said)
    predicted = (run.folder / "predictions.csv").read_text()
    assert "broken.png" not in predicted
    assert "empty.png" not in predicted


def test_texts_that_are_blank_or_no_utf8_are_named_and_left_out(tmp_path, recorder, plain_torch):
    for name, word in {"ham": "meeting", "spam": "prize"}.items():
        (tmp_path / "mails" / name).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "mails" / name / f"{number}.txt").write_text(f"{word} {number}")
        # As many as it takes for some in every part.
        for number in range(6):
            (tmp_path / "mails" / name / f"blank {number}.txt").write_text(" \n" * number)
            (tmp_path / "mails" / name / f"latin {number}.txt").write_bytes(b"caf\xe9 %d" % number)
    settings = {"backbone": "all-minilm-l6-v2", "max_length": 16, "strategy": "feature-extraction"}
    run = unfreeze.train(str(tmp_path / "mails"), output_dir=tmp_path / "run", progress=recorder, **settings)
    assert run.validation.n + run.test.n == 24
    assert any(sentence.startswith("Left out: ") for sentence in recorder.said)
    report = (run.folder / "report.html").read_text()
    assert "it is not UTF-8 text: convert it" in report
    assert "an empty text" in report
    assert "22 of 46 rows cannot be used" in report


def test_rows_that_a_stray_quote_swallowed_are_warned_of_before_training_and_after(
    tmp_path, recorder, plain_torch
):
    rows = [
        f"{word} {number},{kind}"
        for number in range(14)
        for kind, word in (("ham", "desk"), ("spam", "cash"))
    ]
    rows[4], rows[7] = f'"{rows[4]}', rows[7].replace(",", '",')
    (tmp_path / "mails.csv").write_text("\n".join(["text,label", *rows]))
    settings = {"backbone": "all-minilm-l6-v2", "max_length": 16, "strategy": "feature-extraction"}
    run = unfreeze.train(
        str(tmp_path / "mails.csv"), output_dir=tmp_path / "run", progress=recorder, **settings
    )
    (told,) = [said for said in recorder.said if "seems to hold 3 rows of the table" in said]
    assert "in line 6 is closed in line 9 only" in told
    assert run.to_dict()["warnings"][0] == told
    assert evaluate_run(run.folder, str(tmp_path / "mails.csv")).warnings[1] == told


def test_given_validation_rows_are_not_fitted_on_and_match_by_name(tmp_path, make_mails, plain_torch):
    make_mails(tmp_path / "train.csv", per_class=24, seed=1)
    make_mails(tmp_path / "many.csv", per_class=60, seed=2, classes=("ham", "spam"), noise=0)
    make_mails(tmp_path / "few.csv", per_class=10, seed=3, classes=("spam", "news"))
    settings = {"backbone": "all-minilm-l6-v2", "max_length": 16, "strategy": "feature-extraction"}
    heads, runs = {}, {}
    for name in ("many", "few"):
        run = unfreeze.train(
            str(tmp_path / "train.csv"),
            val=str(tmp_path / f"{name}.csv"),
            output_dir=tmp_path / name,
            **settings,
        )
        tensors = load_file(run.folder / "model.safetensors")
        heads[name] = {key: value for key, value in tensors.items() if key.startswith("head.")}
        runs[name] = run
    assert heads["many"].keys() == heads["few"].keys()
    for key, value in heads["many"].items():
        assert np.array_equal(value, heads["few"][key])
    many = metrics_of(runs["many"].folder)["validation"]
    assert many["how"] == "120 validation rows that were given"
    assert many["n"] == 120
    assert runs["many"].learned_from == runs["few"].learned_from == 72 - runs["many"].test.n
    assert many["labels"] == ["ham", "news", "spam"]
    support = {name: row["support"] for name, row in many["per_class"].items()}
    assert support == {"ham": 60, "news": 0, "spam": 60}
    assert many["accuracy"] > 0.7
    few = metrics_of(runs["few"].folder)["validation"]
    assert few["how"].startswith("out of fold")


def test_texts_that_stand_twice_do_not_flatter_what_is_known_of_noise(tmp_path, plain_torch):
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdefghijklmnop"), 8)) for _ in range(60)]
    labels = list(random.choice(["left", "right"], 60))
    run = unfreeze.train(
        (texts * 2, labels * 2),
        output_dir=tmp_path / "run",
        backbone="all-minilm-l6-v2",
        max_length=16,
        strategy="feature-extraction",
    )
    assert metrics_of(run.folder)["validation"]["accuracy"] < 0.65


def test_intervals_are_over_groups_where_the_data_have_them(tmp_path, make_mails, plain_torch):
    make_mails(tmp_path / "mails.csv", per_class=40, seed=1, noise=0.5)
    with (tmp_path / "mails.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "senders.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "sender"])
        writer.writeheader()
        writer.writerows(row | {"sender": f"sender {number // 5}"} for number, row in enumerate(rows))
    run = unfreeze.train(
        str(tmp_path / "senders.csv"),
        group_column="sender",
        output_dir=tmp_path / "run",
        backbone="all-minilm-l6-v2",
        max_length=16,
        strategy="feature-extraction",
    )
    assert len(run.test_groups) == len(run.test_names) == run.test.n
    assert len(set(run.test_groups)) == run.test.n / 5
    validation = metrics_of(run.folder)["validation"]
    assert (
        "They are over groups of rows, on test and validation rows."
        in (run.folder / "report.html").read_text()
    )
    right = round(validation["accuracy"] * validation["n"])
    assert (validation["accuracy_low"], validation["accuracy_high"]) != wilson_interval(
        right / validation["n"], validation["n"]
    )


PAIRS = [f"{word}, {number}" for number in range(2) for word in ("moon", "rain", "bread")]


@pytest.mark.parametrize("strategy", ["auto", "full", "contrastive"])
def test_one_row_of_each_class_to_train_on_is_enough(strategy, tmp_path, plain_torch):
    data = PAIRS, ["a", "b", "c"] * 2
    run = unfreeze.train(
        data,
        test=data,
        output_dir=tmp_path / "run",
        backbone="all-minilm-l6-v2",
        max_length=16,
        strategy=strategy,
        **({} if strategy == "auto" else {"epochs": 1}),
    )
    assert run.test.n == 6


def test_epochs_of_a_head_cannot_be_chosen_by_one_row_of_each_class(tmp_path, plain_torch):
    data = PAIRS, ["a", "b", "c"] * 2
    with pytest.raises(RequestError, match="--head mlp needs a class with two rows to train on"):
        unfreeze.train(
            data,
            test=data,
            output_dir=tmp_path / "run",
            backbone="all-minilm-l6-v2",
            max_length=16,
            strategy="full",
            head="mlp",
        )


def test_where_nothing_can_be_held_out_it_is_said(tmp_path, plain_torch):
    data = PAIRS[:3], ["a", "b", "c"]
    with pytest.raises(DataError, match="has one row of each class to learn from"):
        unfreeze.train(data, val=data, test=data, output_dir=tmp_path / "run", backbone="all-minilm-l6-v2")


def test_a_backbone_that_nobody_chose_is_told_with_its_reason(photos, tiny_cnn, recorder, monkeypatch):
    best = tiny_cnn, "the best one at hand"
    monkeypatch.setattr("unfreeze.training.prepare.default_backbone", lambda modality: best)
    for backbone in (None, tiny_cnn):
        request = TrainRequest(data=str(photos), image_size=32, backbone=backbone)
        open_backbone(read_data(request), Decisions(request), recorder)
    assert recorder.said.count(f"Backbone {tiny_cnn}: the best one at hand.") == 1


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("texts", {"augment": "strong", "mixup": 0.3}, "--mixup mixes images"),
        ("texts", {"augment": "strong"}, "--augment strong varies images"),
        ("texts", {"fit": "crop"}, "--fit says how images become squares"),
        ("images", {"token_dropout": 0.5}, "--token-dropout leaves words out of texts"),
    ],
)
@pytest.mark.parametrize("strategy", ["auto", "partial"])
def test_a_setting_of_the_other_kind_of_input_is_refused_before_anything_is_computed(
    mails, photos, tmp_path, kind, settings, told, strategy
):
    data = {"texts": mails, "images": photos}[kind]
    # A network that there is not would be refused next.
    with pytest.raises(RequestError, match=told):
        unfreeze.train(
            str(data), output_dir=tmp_path / "run", strategy=strategy, backbone="nothing", **settings
        )


def test_shares_decide_how_many_rows_are_test(text_run):
    with (text_run.run.folder / "predictions.csv").open() as file:
        truth = Counter(line.rstrip().rpartition(",")[2] for line in file.readlines()[1:])
    assert sum(truth.values()) == text_run.run.test.n == pytest.approx(0.15 * 144, abs=1.5)


def test_a_failed_training_leaves_no_folder(tmp_path, photos, monkeypatch):
    def fail(*args, **kwargs):
        raise DataError("The toy fails.")

    monkeypatch.setattr("unfreeze.training.probed.open_backbone", fail)
    with pytest.raises(DataError, match="The toy fails"):
        unfreeze.train(str(photos), output_dir=tmp_path / "deep" / "run")
    assert not (tmp_path / "deep" / "run").exists()


def test_an_interrupted_training_can_be_resumed(tmp_path, photos, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("unfreeze.training.probed.open_backbone", interrupt)
    for resume in (None, True):
        with pytest.raises(StoppedError, match="Continue with the same command"):
            unfreeze.train(str(photos), output_dir=tmp_path / "run", resume=resume)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".unfinished"]


def test_lists_of_arrays_with_labels_train_like_files(tmp_path, monkeypatch, plain_torch):
    """Only as far as the data: the features of arrays are those of their lossless files."""
    seen = {}

    def stop(dataset, decisions, progress):
        seen["rows"] = len(dataset)
        seen["labels"] = dataset.labels.names
        raise RequestError("seen")

    monkeypatch.setattr("unfreeze.training.probed.open_backbone", stop)
    pictures = [np.full((8, 8, 3), number, dtype=np.uint8) for number in range(24)]
    with pytest.raises(RequestError, match="seen"):
        unfreeze.train((pictures, ["dark"] * 12 + ["bright"] * 12), output_dir=tmp_path / "run")
    assert seen == {"rows": 24, "labels": ("bright", "dark")}


def test_the_page_of_a_notebook_names_the_result(image_run):
    html = image_run.run._repr_html_()
    assert f"{image_run.run.test.accuracy:.1%}" in html
    assert "report.html" in html


def test_data_in_memory_are_named_and_not_written_out(tmp_path, monkeypatch, plain_torch, mails):
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "cache"))
    with mails.open() as file:
        rows = list(csv.DictReader(file))
    inputs, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    run = unfreeze.train(
        (inputs[:120], labels[:120]),
        test=(inputs[120:], labels[120:]),
        output_dir=tmp_path / "run",
        backbone="all-minilm-l6-v2",
        max_length=8,
        strategy="feature-extraction",
    )
    written = (run.folder / "config.yaml").read_text()
    assert "value: data in memory" in written
    assert inputs[120] not in written
    assert inputs[120] not in run.report.command
    assert "test" not in read_config(run.folder / "config.yaml")


def test_brighter_copies_of_learnt_pictures_in_the_test_part_are_told(tmp_path, plain_torch):
    from PIL import Image

    chance = np.random.default_rng(0)
    for place in range(48):
        part, kind = "test" if place % 4 == 0 else "train", ("dark", "light")[place // 4 % 2]
        folder = tmp_path / "data" / part / kind
        folder.mkdir(parents=True, exist_ok=True)
        blocks = chance.integers(0, 200, (3, 3, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((64, 64), chance.integers(0, 4))
        picture.save(folder / f"{place}.png")
        if place == 1:
            brighter = picture.point(lambda value: min(255, int(1.05 * value)))
            brighter.save(tmp_path / "data" / "test" / kind / "copy.png")
    run = unfreeze.train(
        str(tmp_path / "data"),
        output_dir=tmp_path / "run",
        strategy="feature-extraction",
        backbone="efficientnet-lite0",
        image_size=64,
    )
    told = [warning for warning in run.to_dict()["warnings"] if "nearly the same" in warning]
    assert len(told) == 1
    assert "of 13 test rows" in told[0]
    assert "test/dark/copy.png (like train/dark/1.png, similarity" in told[0]
    assert told[0].endswith("Take them out of one of the parts.")
    marked = dict(zip(run.test_names, run.copy_marks, strict=True))
    assert marked.pop("test/dark/copy.png") == "~"
    assert f"{1 + list(marked.values()).count('~')} of 13 test rows" in told[0]
    assert run.nearest_copy.startswith("test/dark/copy.png (like train/dark/1.png, similarity")
    found = {entry.title: entry for entry in run.report.data.findings}
    assert found["Test rows like one that was learnt from"].items[0][0] == "test/dark/copy.png"


def test_words_are_counted_in_so_many_texts_at_most_and_the_report_says_so(
    tmp_path, monkeypatch, plain_torch
):
    monkeypatch.setattr("unfreeze.reporting.WORD_ROWS", 30)
    texts = [f"{('meeting', 'prize')[number % 2]} {number % 7}" for number in range(60)]
    run = unfreeze.train(
        (texts, ["ham", "spam"] * 30),
        output_dir=tmp_path / "run",
        backbone="all-minilm-l6-v2",
        max_length=8,
        strategy="feature-extraction",
    )
    assert "TF-IDF + logistic regression on 30 of the texts" in (run.folder / "report.html").read_text()
