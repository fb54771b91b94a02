"""The classic recipe, and heads of two layers, through the whole program."""

import csv
import json
import shutil

import pytest
import yaml
from safetensors.numpy import load_file

import unfreeze
from unfreeze.engine import fit as engine

SETTINGS = {"backbone": "efficientnet-lite0", "image_size": 64, "precision": "fp32", "device": "cpu"}


def test_the_classic_head_alone_is_a_plan_that_ships_its_new_mlp(photos, tmp_path, plain_torch):
    run = unfreeze.train(str(photos), output_dir=tmp_path / "run", recipe="classic", **SETTINGS)
    assert run.strategy == "feature-extraction"
    with (run.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["epoch"]) for row in rows] == [("head", str(epoch)) for epoch in range(5)]
    assert {row["rates"] for row in rows} == {"head 0.001; head (no decay) 0.001"}
    (record,) = json.loads((run.folder / "ledger.json").read_text())
    assert record["frozen_unchanged"]
    assert set(record["change"]) == {"head"}
    saved = load_file(run.folder / "model.safetensors")
    assert saved["head.hidden.weight"].shape == (256, 1280)
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert (config["recipe"]["value"], config["recipe"]["origin"]) == ("classic", "user")
    assert config["augment"]["value"] == "light"
    # The probe is the floor beside it.
    assert [baseline.kind for baseline in run.report.baselines] == ["chance", "majority", "probe"]
    with (run.folder / "predictions.csv").open() as file:
        told = list(csv.DictReader(file))
    found = run.model().predict([photos / row["input"] for row in told])
    assert [prediction.label for prediction in found] == [row["label"] for row in told]
    assert [prediction.probability for prediction in found] == pytest.approx(
        [float(row["probability"]) for row in told], abs=1e-4
    )


@pytest.mark.parametrize(("recipe", "weighed"), [("classic", False), ("own", True)])
def test_uneven_classes_are_recorded_as_they_are_weighed(
    photos, tiny_cnn, tmp_path, monkeypatch, plain_torch, recipe, weighed
):
    shutil.copytree(photos / "green", tmp_path / "data" / "green")
    (tmp_path / "data" / "red").mkdir()
    for number in range(4):
        shutil.copy(photos / "red" / f"{number:02}.png", tmp_path / "data" / "red")
    tasks, real = [], engine.fit

    def fit(plan, *, task, **settings):
        tasks.append(task)
        return real(plan, task=task, **settings)

    monkeypatch.setattr(engine, "fit", fit)
    epochs = {} if recipe == "classic" else {"epochs": 1}
    settings = {"backbone": tiny_cnn, "image_size": 32, "strategy": "partial", "recipe": recipe, **epochs}
    run = unfreeze.train(str(tmp_path / "data"), output_dir=tmp_path / "run", **settings)
    told = yaml.safe_load((run.folder / "config.yaml").read_text())["class_weight"]
    assert (tasks[0].class_weight is not None) == weighed
    assert told["value"] == ("balanced" if weighed else "none")
    assert ("the classic guide weighs no classes" in told["reason"]) != weighed
    assert "every class weighs the same in the fit" in told["reason"]


def test_thawing_starts_from_the_fitted_mlp_that_was_asked_for(photos, tmp_path, plain_torch):
    run = unfreeze.train(
        str(photos),
        output_dir=tmp_path / "run",
        strategy="partial",
        head="mlp",
        epochs=1,
        views=1,
        **SETTINGS,
    )
    assert load_file(run.folder / "model.safetensors")["head.hidden.weight"].shape == (256, 1280)
