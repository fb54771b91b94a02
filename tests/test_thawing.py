"""Thawing strategies through the whole program: from folders of pictures to a run folder, stopped and resumed."""

import csv
import json
import shutil

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import unfreeze
from unfreeze.bundle.loading import load
from unfreeze.contracts import Passed
from unfreeze.engine import choice
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.training import saving, thawing
from unfreeze.training.reopening import open_source

SETTINGS = {
    "backbone": "efficientnet-lite0",
    "image_size": 64,
    "strategy": "partial",
    "epochs": 2,
    "views": 2,
    "batch_size": 8,
    # Other cache folders remember nothing of what measuring has decided here.
    "precision": "fp32",
    "store": "on",
    "device": "cpu",
}


def history_of(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def thawed(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("thawed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNFREEZE_CACHE", str(folder / "cache"))
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        return unfreeze.train(str(photos), output_dir=folder / "run", **SETTINGS)


def test_a_thawed_run_brings_its_history_and_a_ledger_that_proves_what_stayed(thawed):
    rows = history_of(thawed.folder)
    assert [(row["phase"], row["epoch"]) for row in rows] == [("partial", "0"), ("partial", "1")]
    (record,) = json.loads((thawed.folder / "ledger.json").read_text())
    assert record["frozen_unchanged"]
    assert record["frozen_before"] == record["frozen_after"]
    assert record["declared"] == ["blocks.5: weights", "blocks.6: weights", "pool: weights"]
    assert set(record["change"]) == {"blocks.5", "blocks.6", "pool", "head"}
    assert record["precision"] == "fp32"
    drift = record["drift"]
    assert list(drift) == ["stem", *(f"blocks.{index}" for index in range(7)), "pool"]
    assert {drift[name] for name in drift if name not in record["change"]} == {0.0}
    assert not (thawed.folder / "checkpoints").exists()


def test_what_measured_the_trained_network_was_proven_on_it(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "cache"))
    real = choice.build_executor

    def wrong_for_new_weights(name, backbone, **settings):
        built = real(name, backbone, **settings)
        if not name.startswith("openvino") or "cache_dir" in settings:
            return built
        return Negated(built)

    monkeypatch.setattr(choice, "build_executor", wrong_for_new_weights)
    run = unfreeze.train(str(photos), output_dir=tmp_path / "run", **SETTINGS | {"epochs": 1, "views": 1})
    settings = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert settings["executor"]["value"] == "openvino-fp32"
    assert settings["measured_by"]["value"] == "torch-fp32"
    assert "too far" in settings["measured_by"]["reason"]
    with (run.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    answers = run.model().predict([photos / row["input"] for row in rows])
    assert [answer.label for answer in answers] == [row["label"] for row in rows]


def test_a_training_file_that_is_gone_at_the_end_costs_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    real = thawing.run_plan

    def then_gone(material, training, **settings):
        done = real(material, training, **settings)
        for row in training.train:
            (data / material.dataset.samples.name(int(row))).unlink()
        return done

    monkeypatch.setattr(thawing, "run_plan", then_gone)
    settings = SETTINGS | {"epochs": 1, "views": 1, "keep_both": False}
    run = unfreeze.train(str(data), output_dir=tmp_path / "run", examples=False, **settings)
    assert run.test.n
    assert "8 rows" in yaml.safe_load((run.folder / "config.yaml").read_text())["measured_by"]["reason"]


class Negated:
    """An executor whose features have the other sign, as of a conversion that went wrong."""

    def __init__(self, inner):
        self.inner, self.name, self.precision = inner, inner.name, inner.precision
        self.boundaries, self.device = inner.boundaries, inner.device

    def __call__(self, batch):
        return Passed(tuple(-summary for summary in self.inner(batch).summaries))


def test_frozen_stages_are_saved_as_they_were_pretrained(thawed):
    saved = load_file(thawed.folder / "model.safetensors")
    backbone = unfreeze.load_backbone("efficientnet-lite0", modality="image", image_size=64)
    pretrained = {name: tensor.numpy() for name, tensor in backbone.module.state_dict().items()}
    for index, stage in enumerate(backbone.stages):
        same = all(np.array_equal(saved[f"backbone.{name}"], pretrained[name]) for name in stage.tensors)
        # What thaws is the last third, or the weights there were taken from the start.
        assert same or index >= 6


def test_the_probe_stands_beside_as_the_floor(thawed):
    assert [baseline.kind for baseline in thawed.report.baselines] == ["chance", "majority", "probe"]
    assert {"How it was thawed", "The ledger"} <= {section.title for section in thawed.report.sections}
    assert "which could also choose the epoch" in thawed.report.validation_how


def test_the_loaded_model_gives_the_tested_probabilities(thawed, photos):
    with (thawed.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = thawed.model().predict([photos / row["input"] for row in rows])
    for row, prediction in zip(rows, found, strict=True):
        assert prediction.label == row["label"]
        assert prediction.probability == pytest.approx(float(row["probability"]), abs=1e-4)


def test_stopped_and_resumed_gives_the_bits_of_a_run_never_stopped(
    thawed, photos, tmp_path, plain_torch, stopping
):
    with stopping(3):
        unfreeze.train(str(photos), output_dir=tmp_path / "run", **SETTINGS)
    assert (tmp_path / "run" / "checkpoints").is_dir()
    assert not (tmp_path / "run" / "bundle.json").exists()
    with pytest.raises(
        RequestError, match=r"another --lr \(network 0\.0003, head 0\.003, now network 0\.0001"
    ):
        unfreeze.train(str(photos), output_dir=tmp_path / "run", resume=True, **SETTINGS | {"lr": 1e-4})
    resumed = unfreeze.train(str(photos), output_dir=tmp_path / "run", resume=True, **SETTINGS)
    ours, theirs = (load_file(run.folder / "model.safetensors") for run in (resumed, thawed))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(RequestError, match="finished"):
        unfreeze.train(str(photos), output_dir=tmp_path / "run", resume=True, **SETTINGS)


def test_a_run_that_does_not_load_is_told_and_keeps_its_checkpoints(
    photos, tmp_path, plain_torch, monkeypatch
):
    real, spoilt = saving.save, []

    def spoil(classifier, folder, **settings):
        real(classifier, folder, **settings)
        weights = folder / "model.safetensors"
        spoilt.append(weights)
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")

    settings = SETTINGS | {"epochs": 1, "views": 1, "keep_both": False}
    with monkeypatch.context() as patch:
        patch.setattr(saving, "save", spoil)
        with pytest.raises(UnfreezeError, match="was written, and does not load"):
            unfreeze.train(str(photos), output_dir=tmp_path / "run", **settings)
    assert spoilt == [tmp_path / "run" / "model.safetensors"]
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    run = unfreeze.train(str(photos), output_dir=tmp_path / "run", resume=True, **settings)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run.model().labels == ("green", "red")


def test_too_many_frozen_stages_and_a_resume_of_nothing_are_refused(photos, tmp_path, plain_torch):
    with pytest.raises(RequestError, match=r"--freeze 99 is out of range .* stem"):
        unfreeze.train(str(photos), output_dir=tmp_path / "a", **SETTINGS, freeze=99)
    assert not (tmp_path / "a").exists()
    with pytest.raises(RequestError, match="holds nothing to continue"):
        unfreeze.train(str(photos), output_dir=tmp_path / "b", resume=True, **SETTINGS)
    with pytest.raises(RequestError, match="--resume needs --output-dir"):
        unfreeze.train(str(photos), resume=True, **SETTINGS)


def test_pairs_of_texts_are_trained_and_the_head_is_fitted_on_what_they_leave(mails, text_run, tmp_path):
    run = unfreeze.train(
        str(mails), output_dir=tmp_path / "run", strategy="contrastive", epochs=2, train_size=60,
        backbone="all-minilm-l6-v2", max_length=16, device="cpu",
    )  # fmt: skip
    assert [(row["phase"], row["val_accuracy"]) for row in history_of(run.folder)] == [
        ("contrastive", "")
    ] * 2
    (record,) = json.loads((run.folder / "ledger.json").read_text())
    assert "head" not in record["change"]
    assert "which trained nothing" in run.report.validation_how
    told = [sentence for section in run.report.sections for sentence in section.paragraphs]
    assert any("The rule: the last weights" in sentence for sentence in told)
    # Words tell most of these mails apart; a head that did not fit the network would be right on a third.
    assert run.test.accuracy > 0.6
    answers = unfreeze.load(run.folder).predict(["prize winner cash", "meeting agenda"])
    assert [answer.label for answer in answers] == ["spam", "ham"]


def test_contrastive_is_for_texts(photos, tmp_path):
    settings = SETTINGS | {"strategy": "contrastive"}
    with pytest.raises(RequestError, match="is for texts"):
        unfreeze.train(
            str(photos), output_dir=tmp_path / "run", **{k: settings[k] for k in ("backbone", "strategy")}
        )
    with pytest.raises(RequestError, match="The classic guide has no contrastive"):
        unfreeze.train(str(photos), output_dir=tmp_path / "run", strategy="contrastive", recipe="classic")
    with pytest.raises(
        RequestError, match="--mixup is a setting of every strategy but feature-extraction and contr"
    ):
        unfreeze.train(str(photos), output_dir=tmp_path / "run", strategy="contrastive", mixup=0.2)


WILD = SETTINGS | {"lr": 0.1, "epochs": 2}


def test_weights_that_are_not_taken_are_a_run_of_their_own(photos, tmp_path, plain_torch):
    run = unfreeze.train(str(photos), output_dir=tmp_path / "run", **WILD)
    last = unfreeze.load(run.folder / "last")
    assert last.labels == run.model().labels
    taken, kept = (load_file(folder / "model.safetensors") for folder in (run.folder, run.folder / "last"))
    assert taken.keys() == kept.keys()
    assert any(not np.array_equal(taken[name], kept[name]) for name in taken)
    section = next(one for one in run.report.sections if one.title == "How it was thawed")
    record = history_of(run.folder)[-1]
    told = f"log-loss {float(record['val_log_loss']):.3f}, {float(record['val_accuracy']):.1%} right"
    assert (
        f"The last ones ({told} on validation) are kept as a run of their own in last/."
        in section.paragraphs[1]
    )
    # Its data are read and split as those of the run itself.
    parts = [open_source(load(folder), None)[0].part for folder in (run.folder, run.folder / "last")]
    assert np.array_equal(*parts)
    done = unfreeze.export(
        run.folder / "last", format="torchscript", output=tmp_path / "out", data=str(photos)
    )
    assert not done.parity.problem


def test_weights_that_are_not_taken_can_be_left_out(photos, tmp_path, plain_torch):
    run = unfreeze.train(str(photos), output_dir=tmp_path / "run", keep_both=False, **WILD)
    assert not (run.folder / "last").exists()
    section = next(one for one in run.report.sections if one.title == "How it was thawed")
    assert "last/" not in " ".join(section.paragraphs)


def test_pictures_that_memory_has_no_room_for_train_the_same_from_a_file(
    thawed, photos, tmp_path, monkeypatch, plain_torch
):
    mapped = []

    def noted(*arguments, **settings):
        mapped.append(settings["shape"])
        return memmap(*arguments, **settings)

    memmap = np.memmap
    monkeypatch.setattr("unfreeze.arrays.MEMORY_BYTES", 0)
    monkeypatch.setattr("unfreeze.arrays.np.memmap", noted)
    run = unfreeze.train(str(photos), output_dir=tmp_path / "run", **SETTINGS)
    assert any(shape[1:] == (64, 64, 3) for shape in mapped)
    losses = [[row["train_loss"], row["val_log_loss"]] for row in history_of(run.folder)]
    assert losses == [[row["train_loss"], row["val_log_loss"]] for row in history_of(thawed.folder)]
