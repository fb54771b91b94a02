"""The classic recipe, and heads of two layers, through the whole program."""

import csv
import json

import pytest
import yaml
from safetensors.numpy import load_file

import unfreeze

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
