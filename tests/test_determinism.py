"""The same command twice, with features at hand or not and any number of readers: the same bits."""

import csv
import json

import pytest

import unfreeze

SETTINGS = {"device": "cpu", "epochs": 2, "batch_size": 8, "precision": "fp32"}
COUNTED = ("model.safetensors", "head.safetensors", "adapter/adapter_model.safetensors", "predictions.csv")
# Times and memory are those of the day.
MEASURED = {"seconds", "rows_per_second", "wait_share", "peak_bytes"}


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


def read_with(readers, monkeypatch):
    for room in ("training.material", "training.exampling", "engine.choice", "engine.frozen_pass"):
        monkeypatch.setattr(f"unfreeze.{room}.reading_threads", lambda device: readers)


def twice(data, folder, monkeypatch, **settings):
    """Two runs: one reader and nothing stored, then four readers and what the first has stored."""
    runs = []
    for readers in (1, 4):
        read_with(readers, monkeypatch)
        runs.append(unfreeze.train(str(data), output_dir=folder / str(readers), **settings))
    return [bits(run) for run in runs]


# On toys every strategy is trained twice, and resumed, to the same bits: tests/strategies/test_laws.py.
@pytest.mark.parametrize(
    ("strategy", "epochs"),
    [
        ("feature-extraction", None),
        ("gradual", 2),
        ("lora", 2),
        ("partial", 1),
        ("discriminative", 1),
        ("full", 1),
        ("adapters", 1),
        ("scratch", 1),
    ],
)
def test_the_same_seed_gives_the_same_bits(
    strategy, epochs, tiny_vit, photos, tmp_path, monkeypatch, plain_torch
):
    settings = SETTINGS | {"strategy": strategy, "backbone": tiny_vit, "epochs": epochs}
    if strategy == "feature-extraction":
        settings = {name: settings[name] for name in ("strategy", "backbone", "device")}
    first, second = twice(photos, tmp_path, monkeypatch, **settings)
    assert first == second


def test_stopped_with_one_reader_and_resumed_with_four_gives_the_same_bits(
    tiny_vit, photos, tmp_path, monkeypatch, plain_torch, stopping
):
    settings = SETTINGS | {"strategy": "gradual", "backbone": tiny_vit}
    read_with(2, monkeypatch)
    whole = unfreeze.train(str(photos), output_dir=tmp_path / "whole", **settings)
    read_with(1, monkeypatch)
    with stopping(3):
        unfreeze.train(str(photos), output_dir=tmp_path / "cut", **settings)
    read_with(4, monkeypatch)
    resumed = unfreeze.train(str(photos), output_dir=tmp_path / "cut", resume=True, **settings)
    assert bits(resumed) == bits(whole)


def test_what_was_measured_once_is_decided_for_every_later_run(
    tiny_vit, photos, tmp_path, monkeypatch, plain_torch, recorder
):
    """Whatever is faster a second time: the precision of a phase, and whether its prefix is stored."""
    settings = SETTINGS | {"strategy": "partial", "backbone": tiny_vit, "epochs": 1, "precision": "auto"}
    monkeypatch.setattr("unfreeze.engine.devices.precisions", lambda device, wanted: ("fp32", "bf16"))
    monkeypatch.setattr("unfreeze.engine.phase_precision.FEW_STEPS", 0)
    runs = []
    for faster, verdict in (("bf16", "does not pay"), ("fp32", "pays"), ("fp32", "pays")):
        seconds = (1.0, 0.5) if faster == "bf16" else (1.0, 1.5)
        monkeypatch.setattr(
            "unfreeze.engine.phase_precision._time_steps", lambda *given, found=seconds: found
        )
        monkeypatch.setattr("unfreeze.engine.storing.weigh_store", lambda *given, found=verdict, **how: found)
        if len(runs) == 2:
            # Another cache folder remembers nothing.
            monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "other"))
        folder = tmp_path / str(len(runs))
        runs.append(unfreeze.train(str(photos), output_dir=folder, progress=recorder, **settings))
    assert bits(runs[1]) == bits(runs[0])
    assert bits(runs[2])["model.safetensors"] != bits(runs[0])["model.safetensors"]
    phases = [json.loads((run.folder / "ledger.json").read_text())[0] for run in runs]
    assert [phase["precision"] for phase in phases] == ["bf16", "bf16", "fp32"]
    assert sum("as in an earlier run" in sentence for sentence in recorder.said) == 2


def test_another_seed_gives_other_bits(tiny_vit, photos, tmp_path, plain_torch):
    settings = SETTINGS | {"strategy": "partial", "backbone": tiny_vit, "epochs": 1}
    first, second = (
        unfreeze.train(str(photos), output_dir=tmp_path / str(seed), seed=seed, **settings) for seed in (0, 1)
    )
    assert bits(first) != bits(second)
