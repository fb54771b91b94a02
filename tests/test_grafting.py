"""LoRA and adapters through the whole program: trained, shipped beside their base, loaded again."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import unfreeze
from unfreeze.errors import RequestError
from unfreeze.runtime.files import file_hash

SETTINGS = {"image_size": 32, "epochs": 2, "views": 2, "batch_size": 8, "precision": "fp32", "device": "cpu"}
ARCHITECTURE = "test_vit"


@pytest.fixture(scope="module")
def weights(tiny_vit, tmp_path_factory):
    """A file of the tiny vision transformer's weights that may be damaged."""
    return Path(shutil.copy(tiny_vit.partition("@")[2], tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module", params=["lora", "adapters"])
def run(request, photos, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNFREEZE_CACHE", str(folder / "cache"))
        patch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
        return unfreeze.train(
            str(photos),
            output_dir=folder / "run",
            strategy=request.param,
            backbone=f"timm:{ARCHITECTURE}@{weights}",
            **SETTINGS,
        )


def test_the_folder_holds_the_adapter_and_the_head_alone(run, weights):
    names = {path.name for path in run.folder.iterdir()}
    assert {"adapter", "head.safetensors", "bundle.json", "ledger.json", "report.html"} <= names
    assert "model.safetensors" not in names
    config = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"timm:{ARCHITECTURE}@{weights}"
    size = sum(path.stat().st_size for path in (run.folder / "adapter").iterdir())
    assert size < weights.stat().st_size
    (record,) = json.loads((run.folder / "ledger.json").read_text())
    assert record["frozen_unchanged"]
    assert all("graft" in declared for declared in record["declared"])


def test_the_loaded_model_gives_the_tested_probabilities(run, photos):
    with (run.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = run.model().predict([photos / row["input"] for row in rows])
    for row, prediction in zip(rows, found, strict=True):
        assert prediction.label == row["label"]
        assert prediction.probability == pytest.approx(float(row["probability"]), abs=1e-4)


def test_another_process_gives_the_golden_answers(run):
    code = f"import unfreeze; print(unfreeze.load({str(run.folder)!r}).labels)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "green" in done.stdout


def test_peft_itself_reads_the_adapter(run, weights):
    if run.strategy != "lora":
        pytest.skip("bottleneck adapters are not PEFT's")
    import timm
    from peft import PeftModel

    bare = timm.create_model(ARCHITECTURE, num_classes=0, img_size=32)
    base = unfreeze.load_backbone(f"timm:{ARCHITECTURE}@{weights}", modality="image", image_size=32)
    bare.load_state_dict(base.module.state_dict())
    wrapped = PeftModel.from_pretrained(bare, run.folder / "adapter").eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    ours = run.model().features(list(pixels))
    preprocess = base.preprocess
    inputs = (
        torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(preprocess.mean).view(3, 1, 1)
    ) / (torch.tensor(preprocess.std).view(3, 1, 1))
    with torch.no_grad():
        assert np.allclose(wrapped(inputs).numpy(), ours, atol=1e-4)


def test_a_base_that_is_gone_or_changed_is_named(run, weights, tmp_path):
    kept = weights.read_bytes()
    try:
        tensors = load_file(weights)
        tensors["norm.bias"] += 1
        save_file(tensors, weights)
        with pytest.raises(RequestError, match="for other weights than timm:"):
            unfreeze.load(run.folder)
        weights.unlink()
        with pytest.raises(RequestError, match="holds an adapter, and the network below it cannot be loaded"):
            unfreeze.load(run.folder)
    finally:
        weights.write_bytes(kept)
    assert unfreeze.load(run.folder).labels


def test_a_run_can_be_what_another_one_starts_from(run, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unfreeze.engine.choice.available_executors", lambda device: ("torch-fp32",))
    settings = SETTINGS | {"image_size": None, "epochs": 1}
    if run.strategy == "adapters":
        with pytest.raises(RequestError, match=r"has adapters between its layers.* start from timm:"):
            unfreeze.train(str(photos), output_dir=tmp_path / "run", backbone=str(run.folder))
        return
    second = unfreeze.train(
        str(photos), output_dir=tmp_path / "run", strategy="partial", backbone=str(run.folder), **settings
    )
    lineage = json.loads((second.folder / "bundle.json").read_text())["lineage"]
    assert len(lineage) == 1
    assert lineage[0].startswith(str(run.folder.resolve()))
    assert unfreeze.load(second.folder).classifier.backbone.preprocess.height == 32
    with pytest.raises(RequestError, match="is a run: its image size"):
        unfreeze.train(str(photos), output_dir=tmp_path / "b", backbone=str(run.folder), image_size=64)


def test_bottlenecks_on_a_convolutional_network_are_refused_before_any_work(photos, tmp_path):
    with pytest.raises(
        RequestError, match="--strategy adapters puts bottlenecks behind the blocks of a transformer"
    ):
        unfreeze.train(
            str(photos), output_dir=tmp_path / "run", strategy="adapters", backbone="efficientnet-lite0"
        )
    assert not (tmp_path / "run").exists()


def with_tensors(folder, target, change):
    """A copy of a run folder whose adapter's tensors were changed by someone who mended the hashes too."""
    copied = shutil.copytree(folder, target)
    file = copied / "adapter" / "adapter_model.safetensors"
    change(file)
    bundle = copied / "bundle.json"
    values = json.loads(bundle.read_text())
    values["files"]["adapter/adapter_model.safetensors"] = file_hash(file)
    bundle.write_text(json.dumps(values))
    return copied


def edited(folder, target, change):
    """A copy of a run folder whose adapter's configuration was changed by someone who mended the hashes too."""
    copied = shutil.copytree(folder, target)
    config = copied / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    bundle = copied / "bundle.json"
    values = json.loads(bundle.read_text())
    values["files"]["adapter/adapter_config.json"] = file_hash(config)
    bundle.write_text(json.dumps(values))
    return copied


HOSTILE = {
    "type": {"peft_type": "IA3"},
    "huge": {"r": 10**9, "reduction": 10**9},
    "truth": {"r": True, "reduction": True},
    "word": {"target_modules": "all-linear", "blocks": "blocks.0"},
    "another-kind": {"lora_alpha": "much", "norm": 1},
    "without-a-norm": {"r": 5, "norm": False},
    "elsewhere": {"target_modules": ["patch_embed.proj"], "blocks": ["patch_embed"]},
    "nowhere": {"target_modules": ["nowhere"], "blocks": ["nowhere"]},
    "nothing": {"target_modules": [], "blocks": []},
    "other-shape": {"r": 4, "reduction": 3},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_an_adapter_that_ours_never_write_is_refused_in_a_sentence(run, tmp_path, change):
    with pytest.raises(RequestError, match="is damaged: its files contradict each other"):
        unfreeze.load(edited(run.folder, tmp_path / "copy", change))


def first(change):
    """A change of the first tensor of a file; None takes it out."""

    def write(file):
        tensors = load_file(file)
        name = min(tensors)
        tensor = change(tensors.pop(name))
        save_file(tensors if tensor is None else tensors | {name: tensor.contiguous()}, file)

    return write


DAMAGED = {
    "not-a-number": first(lambda tensor: tensor * float("nan")),
    "infinite": first(lambda tensor: torch.full_like(tensor, float("inf"))),
    "one-value": first(lambda tensor: tensor.flatten()[:1]),
    "turned": first(lambda tensor: tensor.flatten()[None]),
    "missing": first(lambda tensor: None),
    "whole-numbers": first(lambda tensor: torch.ones_like(tensor, dtype=torch.int32)),
    "unknown": lambda file: save_file(load_file(file) | {"evil": torch.zeros(1)}, file),
    "truncated": lambda file: os.truncate(file, file.stat().st_size - 7),
    "header-alone": lambda file: os.truncate(file, 8),
    "empty": lambda file: os.truncate(file, 0),
    "noise": lambda file: file.write_bytes(b"x" * 500),
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_damaged_tensors_of_an_adapter_are_a_sentence(run, photos, tmp_path, command, change):
    answer = command(
        "predict", with_tensors(run.folder, tmp_path / "copy", change), photos / "red" / "00.png"
    )
    assert answer.status in (1, 2), answer.out
    assert answer.out == ""
    assert answer.err.startswith("Error: ")
    assert (
        "contradict each other" in answer.err or "does not give the answers it was saved with" in answer.err
    )


BASES = {
    "nothing": {"source": ""},
    "no-network": {"source": "timm:no_such_network"},
    "no-file": {"source": "timm:test_vit@gone.safetensors"},
    "a-device": {"source": "timm:test_vit@/dev/zero"},
    "a-folder": {"source": "/"},
    "another-network": {"source": "timm:test_resnet"},
    "code": {"source": "__import__('os').system('touch escaped')"},
    "no-size": {"image_size": 0},
    "another-size": {"image_size": 64},
    "a-pooling": {"pooling": "evil"},
    "a-length": {"max_length": 5},
    "a-number": {"source": 3},
    "extra": {"evil": 1},
}


@pytest.mark.parametrize("change", BASES.values(), ids=BASES)
def test_a_base_that_is_none_is_a_sentence(run, photos, tmp_path, command, change, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied = edited(run.folder, tmp_path / "copy", {})
    values = json.loads((copied / "bundle.json").read_text())
    values["backbone"]["base"] |= change
    (copied / "bundle.json").write_text(json.dumps(values))
    answer = command("predict", copied, photos / "red" / "00.png")
    assert (answer.status, answer.out) == (2, ""), answer.err
    assert answer.err.startswith("Error: ")
    assert not (tmp_path / "escaped").exists()


def test_options_that_change_what_lora_means_are_refused(run, tmp_path):
    if run.strategy != "lora":
        pytest.skip("bottleneck adapters have no such options")
    for number, change in enumerate(
        ({"use_dora": True}, {"alpha_pattern": {"qkv": 99}}, {"lora_alpha": 1e9})
    ):
        with pytest.raises(RequestError, match="contradict each other"):
            unfreeze.load(edited(run.folder, tmp_path / str(number), change))


def test_a_run_that_stands_on_itself_is_refused(run, tmp_path):
    copied = edited(run.folder, tmp_path / "copy", {})
    values = json.loads((copied / "bundle.json").read_text())
    values["backbone"]["base"] |= {"source": str(copied), "image_size": None}
    (copied / "bundle.json").write_text(json.dumps(values))
    with pytest.raises(RequestError, match="names itself as the run that it stands on"):
        unfreeze.load(copied)


def test_a_base_of_another_size_is_refused_before_it_is_built(run, tmp_path, monkeypatch):
    monkeypatch.setattr("unfreeze.backbones.load_backbone", lambda *_, **__: pytest.fail("it was built"))
    for size, told in (
        (24_000, r"damaged at backbone\.base\.image_size"),
        (4_096, "its base has the size 4096"),
    ):
        copied = edited(run.folder, tmp_path / str(size), {})
        values = json.loads((copied / "bundle.json").read_text())
        values["backbone"]["base"]["image_size"] = size
        (copied / "bundle.json").write_text(json.dumps(values))
        with pytest.raises(RequestError, match=told):
            unfreeze.load(copied)


def test_a_run_that_learnt_from_what_would_be_tested_is_refused(run, photos, tmp_path):
    if run.strategy != "lora":
        pytest.skip("adapters cannot be started from at all")
    with pytest.raises(RequestError, match="was trained on another split of"):
        unfreeze.train(str(photos), output_dir=tmp_path / "run", backbone=str(run.folder), seed=9)


@pytest.mark.parametrize("strategy", ["lora", "adapters"])
def test_the_last_epoch_of_a_graft_is_an_adapter_of_its_own(strategy, photos, weights, tmp_path, plain_torch):
    settings = SETTINGS | {"lr": 0.1, "strategy": strategy, "backbone": f"timm:{ARCHITECTURE}@{weights}"}
    run = unfreeze.train(str(photos), output_dir=tmp_path / "run", **settings)
    taken, kept = (
        load_file(folder / "adapter" / "adapter_model.safetensors")
        for folder in (run.folder, run.folder / "last")
    )
    assert taken.keys() == kept.keys()
    assert any(not torch.equal(taken[name], kept[name]) for name in taken)
    assert unfreeze.load(run.folder / "last").labels == run.model().labels
