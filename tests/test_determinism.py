"""The same command twice, with features at hand or not and any number of readers: the same bits."""

import csv

import pytest

import unfreeze

SETTINGS = {"device": "cpu", "epochs": 2, "batch_size": 8, "precision": "fp32"}
COUNTED = ("model.safetensors", "head.safetensors", "adapter/adapter_model.safetensors", "predictions.csv")
# Times and memory are those of the day.
MEASURED = {"seconds", "rows_per_second", "wait_share", "peak_bytes"}


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return f"timm:test_vit@{path}"


def bits(run):
    """Everything that a run came to, by file."""
    found = {name: (run.folder / name).read_bytes() for name in COUNTED if (run.folder / name).exists()}
    assert len(found) > 1
    history = run.folder / "history.csv"
    if history.exists():
        with history.open() as file:
            rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
        found["history"] = repr(rows).encode()
    return found


def twice(data, folder, monkeypatch, **settings):
    """Two runs: one reader and nothing stored, then four readers and what the first has stored."""
    runs = []
    for readers in (1, 4):
        for room in ("material", "exampling"):
            monkeypatch.setattr(f"unfreeze.training.{room}.reading_threads", lambda device, n=readers: n)
        for room in ("choice", "frozen_pass"):
            monkeypatch.setattr(f"unfreeze.engine.{room}.reading_threads", lambda device, n=readers: n)
        runs.append(unfreeze.train(str(data), output_dir=folder / str(readers), **settings))
    return [bits(run) for run in runs]


# On toys every strategy is trained twice, and resumed, to the same bits: tests/strategies/test_laws.py.
@pytest.mark.parametrize("strategy", ["feature-extraction", "gradual", "lora"])
def test_the_same_seed_gives_the_same_bits(strategy, vit, photos, tmp_path, monkeypatch, plain_torch):
    settings = SETTINGS | {"strategy": strategy, "backbone": vit}
    if strategy == "feature-extraction":
        settings = {name: settings[name] for name in ("strategy", "backbone", "device")}
    first, second = twice(photos, tmp_path, monkeypatch, **settings)
    assert first == second


def test_another_seed_gives_other_bits(vit, photos, tmp_path, plain_torch):
    settings = SETTINGS | {"strategy": "partial", "backbone": vit, "epochs": 1}
    first, second = (
        unfreeze.train(str(photos), output_dir=tmp_path / str(seed), seed=seed, **settings) for seed in (0, 1)
    )
    assert bits(first) != bits(second)
