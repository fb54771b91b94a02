"""Numbers and names that programs trip over, through the real way from data to a run folder and its answers."""

from __future__ import annotations

import csv
import json
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import unfreeze
from unfreeze.backbones import load_backbone
from unfreeze.engine.stepping import Stepper
from unfreeze.errors import DivergedError, RequestError, UnfreezeError
from unfreeze.heads.probe import fit_probe

pytestmark = pytest.mark.usefixtures("plain_torch")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz")
# How programs write numbers, dates, truth values and missing ones; each is the name of a class here.
NAMES = (
    "1", "01", "1.0", "1e3", "0x1", "-1", "true", "TRUE", "True", "2024-01-02", "NA", "N/A", "null", "None", "nan",
    "NaN", "inf", "1,5", "1_000",
)  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a text encoder of two layers with random weights; each letter is a word of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel

    from unfreeze.backbones.hf_loading import quiet_transformers

    folder = tmp_path_factory.mktemp("bert") / "tiny"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model(
        "bert", vocab_size=len(WORDS), max_position_embeddings=40, pad_token_id=0, **sizes
    )
    with quiet_transformers():
        AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "model_max_length": 40}))
    return folder


@pytest.fixture
def train(bert, tmp_path):
    """Trains on a CSV of these (text, label, ...) rows; the folder is the run's."""

    def call(rows, *, header=("text", "label"), backbone=bert, **settings):
        data = write_csv(tmp_path / "data.csv", [header, *rows])
        given = {"strategy": "feature-extraction", "max_length": 12} | settings
        return unfreeze.train(str(data), output_dir=tmp_path / "run", backbone=str(backbone), **given)

    return call


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def changed_weights(bert, folder, change):
    """The same folder with other weights: ``change`` maps a tensor's name and value to the new value."""
    import shutil

    shutil.copytree(bert, folder)
    tensors = {name: change(name, value) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def two_classes(count=60):
    random = np.random.default_rng(0)
    return [
        (" ".join(random.choice(list("abcd" if n % 3 else "wxyz"), 5)), "no" if n % 3 else "yes")
        for n in range(count)
    ]


def ships_numbers_only(run):
    """No file that a person or program reads next holds NaN or infinity."""

    def refuse(name):
        raise AssertionError(name)

    for name in ("metrics.json", "bundle.json"):
        json.loads((run.folder / name).read_text(), parse_constant=refuse)
    for row in read_csv(run.folder / "predictions.csv"):
        assert math.isfinite(float(row["probability"]))
    for tensor in load_file(run.folder / "model.safetensors").values():
        assert torch.isfinite(tensor).all()
    names = {name.lower() for name in run.model().labels}
    for page in ("report.html", "README.md") if "nan" not in names else ():
        text = (run.folder / page).read_text(encoding="utf-8")
        assert ">nan<" not in text.lower()
        assert "nan %" not in text.lower()


# -- weights


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_named_and_refused(bert, tmp_path, train, value):
    place = "encoder.layer.1.output.dense.weight"

    def spoil(name, tensor):
        if name == place:
            tensor[1, 2] = value
        return tensor

    folder = changed_weights(bert, tmp_path / "spoilt", spoil)
    with pytest.raises(RequestError, match=rf"weights of spoilt are damaged: {place} has 1 of 1,024 values"):
        train(two_classes(), backbone=folder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["weight", "running_var"])
def test_a_file_of_timm_weights_with_a_nan_is_named_and_refused(tmp_path, what):
    import timm

    tensors = timm.create_model("test_resnet", num_classes=0).state_dict()
    name = next(name for name in tensors if name.startswith("layer2") and name.endswith(what))
    tensors[name].view(-1)[0] = math.nan
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(RequestError, match=rf"weights of test_resnet are damaged: {name}"):
        load_backbone(f"timm:test_resnet@{tmp_path / 'w.safetensors'}", modality="image", image_size=32)


@pytest.mark.parametrize("scale", [0.0, 1e-40], ids=["zeros", "denormals"])
@pytest.mark.parametrize("settings", [{}, {"strategy": "full", "epochs": 2}], ids=["probe", "full"])
def test_a_backbone_that_says_the_same_of_everything_gives_the_classes_shares(
    bert, tmp_path, train, scale, settings
):
    folder = changed_weights(bert, tmp_path / "flat", lambda name, tensor: tensor * scale)
    run = train(two_classes(300), backbone=folder, **settings)
    ships_numbers_only(run)
    # Of test rows that look alike, all have the larger class.
    assert {row["label"] for row in read_csv(run.folder / "predictions.csv")} == {"no"}
    assert run.test.balanced_accuracy == 0.5
    shares = run.model().predict_proba(["a b", "x y z"])
    assert shares[0] == pytest.approx(shares[1])
    if not settings:
        assert shares[0] == pytest.approx([2 / 3, 1 / 3], abs=0.05)


def test_of_few_rows_it_gives_each_class_the_same(bert, tmp_path, train):
    folder = changed_weights(bert, tmp_path / "flat", lambda name, tensor: tensor * 0.0)
    assert train(two_classes(), backbone=folder).model().predict_proba(["a b"])[0] == pytest.approx(
        [0.5, 0.5]
    )


def test_weights_whose_features_overflow_are_explained(bert, tmp_path, train):
    folder = changed_weights(bert, tmp_path / "huge", lambda name, tensor: tensor * 1e20)
    with pytest.raises(
        UnfreezeError, match=r"huge gives numbers that are not finite for data\.csv:1"
    ) as caught:
        train(two_classes(), backbone=folder)
    assert "another backbone" in str(caught.value)
    assert not (tmp_path / "run").exists()


# -- features


@pytest.mark.parametrize("scale", [1e-44, 1e-40, 1e-36, 1e-30, 1.0, 1e30, 1e37])
def test_features_of_any_size_give_finite_heads_and_the_same_answers(scale):
    y = np.arange(80) % 2
    features = (np.random.default_rng(0).normal(size=(80, 6)) + 2 * y[:, None]) * scale
    features = np.hstack([features, np.full((80, 1), 7.0)]).astype(np.float32)
    probe = fit_probe({1: features}, y, classes=2, boundaries_names={1: "pool"}, seed=0).probe
    assert all(np.isfinite(tensor).all() for tensor in probe.head.tensors.values())
    assert np.isfinite(probe.head.logits(features)).all()
    # Below the smallest normal number nothing can be told apart, and the classes have their shares.
    assert probe.accuracy > 0.9 if scale > 1e-38 else probe.accuracy == 0.5
    assert probe.head.tensors["weight"][:, -1] == pytest.approx(0.0)


# -- losses


def test_a_loss_that_is_no_number_says_what_to_do_and_keeps_the_best_weights(
    bert, tmp_path, train, monkeypatch
):
    gradients, steps = Stepper._gradients, []

    def broken(self, state, rows, parts):
        steps.append(len(rows))
        loss = gradients(self, state, rows, parts)
        return loss * math.nan if len(steps) == 7 else loss

    monkeypatch.setattr(Stepper, "_gradients", broken)
    settings = {"strategy": "full", "epochs": 6, "batch_size": 16}
    where = r"phase 'full', epoch 3, step 1 \(training rows data\.csv:\d+, .*"
    with pytest.raises(DivergedError, match=where + r"--resume and a lower --lr") as caught:
        train(two_classes(), **settings)
    assert caught.value.exit_status == 1
    assert not (tmp_path / "run" / "bundle.json").exists()
    with pytest.raises(RequestError, match=r"another --batch-size \(16, now 8\)"):
        train(two_classes(), resume=True, **settings | {"batch_size": 8})
    # From the beginning of that epoch it goes on to its end, at the rates that are asked for now.
    before = len(steps)
    run = train(two_classes(), resume=True, lr=1e-5, **settings)
    assert len(steps) - before == 4 * 3
    ships_numbers_only(run)
    assert len(read_csv(run.folder / "history.csv")) == 6
    (record,) = json.loads((run.folder / "ledger.json").read_text())
    assert record["groups"][0]["rate"] == pytest.approx(1e-5)


# -- names


def spelled(count):
    """Rows of every class, which differ in one letter of three."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        (f"{letters[place]} {letters[place]} {letters[n]}", name)
        for n in range(count)
        for place, name in enumerate(NAMES)
    ]


def test_names_like_numbers_dates_and_nothing_stay_as_written_everywhere(train, tmp_path, command):
    rows = spelled(10)
    run = train([*rows, ("a a a", ""), ("b b b", "  ")])
    ships_numbers_only(run)
    order = sorted(NAMES)
    assert json.loads((run.folder / "bundle.json").read_text())["labels"] == order
    metrics = json.loads((run.folder / "metrics.json").read_text())["test"]
    assert metrics["labels"] == order
    assert set(metrics["per_class"]) == set(NAMES)
    kept = read_csv(run.folder / "predictions.csv")
    assert {row["true_label"] for row in kept} == set(NAMES)
    assert run.test.accuracy > 0.9
    texts = {name: text for text, name in rows}
    inputs = write_csv(tmp_path / "inputs.csv", [("text",), *((text,) for text in texts.values())])
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        out = tmp_path / f"out.{ending}"
        answer = command("predict", run.folder, inputs, "--output", out)
        assert answer.status == 0, answer.err
        assert labels_of(out) == list(texts), ending
    answer = command("predict", run.folder, inputs, "--json")
    assert [row["label"] for row in json.loads(answer.out)["predictions"]] == list(texts)
    # Scored by name, against a table of the same names.
    answer = command("evaluate", run.folder, tmp_path / "data.csv", "--json")
    assert json.loads(answer.out)["labels"] == order


def labels_of(path):
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).column("label").to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line)["label"] for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return [
            row["label"] for row in csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        ]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_rows_without_a_name_are_left_out_and_named_and_no_others(tmp_path, kind):
    from unfreeze.data.load import load_dataset

    rows = [*spelled(4), ("a b c", ""), ("a b d", " ")]
    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({"text": text, "label": name}) for text, name in rows))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t" if kind == "tsv" else ",").writerows([("text", "label"), *rows])
    data = load_dataset(str(path))
    assert data.labels.names == tuple(sorted(NAMES))
    assert len(data) == 4 * len(NAMES)
    assert [(entry.name, entry.reason) for entry in data.ignored] == [
        (f"data.{kind}:{len(rows) - 1}", "no label"),
        (f"data.{kind}:{len(rows)}", "no label"),
    ]


def test_folders_named_like_numbers_and_nothing_are_classes_as_written(tmp_path):
    from unfreeze.data.load import load_dataset

    names = [name for name in NAMES if "/" not in name]
    for place, name in enumerate(names):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            colour = (place * 13 % 256, number, 7)
            Image.new("RGB", (4, 4), colour).save(tmp_path / "photos" / name / f"{number}.png")
    assert load_dataset(str(tmp_path / "photos")).labels.names == tuple(sorted(names))


# -- classes


def test_a_class_that_is_absent_from_validation_and_test_is_no_division_by_zero(train):
    random = np.random.default_rng(1)
    rows = [
        (" ".join(random.choice(list(letters), 5)), name, part)
        for part, names in (("train", "abc"), ("val", "ab"), ("test", "a"))
        for name, letters in zip(names, ("abcd", "mnop", "wxyz"), strict=False)
        for _ in range(20)
    ]
    run = train(rows, header=("text", "label", "split"))
    ships_numbers_only(run)
    test = json.loads((run.folder / "metrics.json").read_text())["test"]
    assert test["labels"] == ["a", "b", "c"]
    assert [test["per_class"][name]["support"] for name in "abc"] == [20, 0, 0]
    # Of the classes that occur: there is one.
    assert test["balanced_accuracy"] == test["accuracy"] == test["per_class"]["a"]["recall"]
    assert len(test["confusion"]) == 3
    assert all(len(row) == 3 for row in test["confusion"])


def test_one_class_at_999_of_1000_is_found_and_balanced_figures_stand_beside(train):
    random = np.random.default_rng(2)
    rows = [
        (
            " ".join(random.choice(list("wxyz" if n % 1000 == 0 else "abcd"), 6)),
            "rare" if n % 1000 == 0 else "common",
        )
        for n in range(6000)
    ]
    run = train(rows)
    ships_numbers_only(run)
    settings = (run.folder / "config.yaml").read_text()
    assert "class_weight:\n  value: balanced" in settings
    rare = run.test.to_dict()["per_class"]["rare"]
    assert rare["support"] >= 1
    assert rare["recall"] == 1.0
    assert run.test.balanced_accuracy > 0.95
    card = (run.folder / "README.md").read_text(encoding="utf-8").lower()
    assert "balanced accuracy" in card


def test_a_class_of_two_rows_in_a_thousand_is_explained(train, tmp_path):
    rows = [(f"a b {n}", "rare" if n in (3, 700) else "common") for n in range(1000)]
    with pytest.raises(
        RequestError, match=r"'rare' has 2 row.* at least 3 .*Add some, or leave the class out"
    ):
        train(rows)
    assert not (tmp_path / "run").exists()


def test_a_thousand_classes_of_three_rows_are_split_scored_and_shown_in_files_of_some_size(
    train, tmp_path, monkeypatch
):
    # One penalty: the search for the best one takes minutes at this size.
    monkeypatch.setattr("unfreeze.heads.search.FIRST_PENALTIES", (0.1,))
    monkeypatch.setattr("unfreeze.heads.search.WORTH_GROWING", np.inf)
    letters = "abcdefghij"
    words = [" ".join((a, b, c)) for a in letters for b in letters for c in letters]
    run = train([(word, f"class {place:03}") for _ in range(3) for place, word in enumerate(words)])
    ships_numbers_only(run)
    assert (run.validation.n, run.test.n) == (2000, 1000)
    test = json.loads((run.folder / "metrics.json").read_text())["test"]
    # One row of each class is held out.
    assert {entry["support"] for entry in test["per_class"].values()} == {1}
    assert [sum(row) for row in test["confusion"]] == [1] * 1000
    # At random one in a thousand would be right.
    assert test["accuracy"] > 0.01
    sizes = {path.name: path.stat().st_size for path in run.folder.iterdir()}
    assert sizes["metrics.json"] < 8_000_000
    assert sizes["report.html"] < 2_000_000
    assert sizes["README.md"] < 10_000


def test_warnings_of_libraries_about_many_classes_are_not_shown():
    from unfreeze.evaluate.baselines import tfidf_baseline

    texts = [f"{chr(97 + n // 26)}{chr(97 + n % 26)} word" for n in range(60)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tfidf_baseline(texts, np.arange(60) // 2 + 20 * (np.arange(60) > 40), [texts], classes=60, seed=0)
