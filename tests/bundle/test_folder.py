"""The run folder refuses what was changed."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from unfreeze.bundle.loading import golden_gap, load, read_bundle
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.runtime.files import file_hash


@pytest.fixture
def run(image_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(image_run.run.folder, folder)
    return folder


def edit_bundle(folder, change):
    path = folder / "bundle.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def rehash(folder, name):
    edit_bundle(folder, lambda values: values["files"].update({name: file_hash(folder / name)}))


def refused(folder, match):
    with pytest.raises(RequestError, match=match) as caught:
        load(folder)
    assert caught.value.exit_status == 2


def test_a_whole_folder_loads_with_its_labels_and_temperature(image_run):
    loaded = load(image_run.run.folder)
    assert loaded.classifier.labels.names == ("green", "red")
    assert loaded.classifier.temperature == loaded.bundle.calibration.temperature
    assert not loaded.classifier.backbone.module.training


def test_changed_weights_are_refused(run):
    tensors = load_file(run / "model.safetensors")
    tensors["head.bias"] = tensors["head.bias"] + np.float32(1e-4)
    save_file(tensors, run / "model.safetensors")
    refused(run, r"model\.safetensors was changed")


def test_one_flipped_byte_is_refused(run):
    data = bytearray((run / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "model.safetensors").write_bytes(data)
    refused(run, r"model\.safetensors was changed")


def test_swapped_golden_answers_are_refused(run):
    golden = load_file(run / "golden.safetensors")
    save_file(golden | {"logits": golden["logits"][::-1].copy()}, run / "golden.safetensors")
    refused(run, r"golden\.safetensors was changed")


def test_weights_that_answer_differently_are_refused_even_with_a_matching_hash(run):
    tensors = load_file(run / "model.safetensors")
    tensors["head.bias"] = tensors["head.bias"] + np.array([0.5, -0.5], dtype=np.float32)
    save_file(tensors, run / "model.safetensors")
    rehash(run, "model.safetensors")
    with pytest.raises(UnfreezeError, match="does not give the answers"):
        load(run)


def test_another_backbone_is_refused_even_with_a_matching_hash(run):
    tensors = load_file(run / "model.safetensors")
    name = next(
        name for name in tensors if name.startswith("backbone.") and name.endswith("conv_stem.weight")
    )
    tensors[name] = tensors[name] * np.float32(1.5)
    save_file(tensors, run / "model.safetensors")
    rehash(run, "model.safetensors")
    refused(run, "does not hold the weights")


@pytest.mark.parametrize("name", ["model.safetensors", "golden.safetensors"])
def test_a_missing_file_is_refused(run, name):
    (run / name).unlink()
    refused(run, "is missing")


def test_a_folder_without_bundle_is_unfinished(run):
    (run / "bundle.json").unlink()
    refused(run, "no finished run")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "link", "itself", "huge"])
def test_a_bundle_that_is_no_file_of_the_folder_is_refused(run, kind):
    path, content = run / "bundle.json", (run / "bundle.json").read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 2**40)
    else:
        (run.parent / "bundle.json").write_bytes(content)
        path.symlink_to({"device": "/dev/zero", "link": "../bundle.json", "itself": "bundle.json"}[kind])
    refused(run, "cannot be read" if kind in ("pipe", "huge", "itself") else "link to the outside")


def test_a_folder_that_is_none_is_refused(tmp_path):
    refused(tmp_path / "nothing", "no run folder")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "no run folder")


def test_another_number_of_labels_is_refused(run):
    edit_bundle(run, lambda values: values["labels"].append("blue"))
    refused(run, "2 logits for 3 labels")


BASE = {"source": "timm:test_vit", "weights_hash": "0" * 64}


def resize(values, side):
    for preprocess in (values["preprocess"], values["backbone"]["recipe"]["preprocess"]):
        preprocess.update(height=side, width=side)


def drop_weights(values):
    del values["files"]["model.safetensors"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v: v["files"].update({"../outside.bin": "0"}), "outside the run folder"),
        (lambda v: v["files"].update({"/etc/hostname": "0"}), "outside the run folder"),
        (drop_weights, "lists no model"),
        (lambda v: v.update(labels=["red", "red"]), "damaged"),
        (lambda v: v.update(labels=["red"]), "damaged at labels"),
        (lambda v: v.update(surprise=1), "damaged at surprise"),
        (lambda v: v.update(schema_version=99), "newer Unfreeze"),
        (lambda v: v["calibration"].update(temperature=0), r"damaged at calibration\.temperature"),
        (lambda v: v["head"].update(boundaries=[99]), "damaged"),
        (lambda v: v["head"].update(boundaries=[1]), "damaged"),
        (lambda v: v["head"].update(kind="mlp"), "damaged"),
        (lambda v: v["backbone"].update(assets=["tokenizer.json"]), "damaged"),
        (lambda v: v["backbone"].update(recipe={}), "recipe"),
        (lambda v: v["preprocess"].update(fit="crop"), "preprocess"),
        (lambda v: resize(v, 20_000), "height must be a whole number from 1 to 4096"),
        (lambda v: resize(v, 4_096), "golden inputs .* are of another size than it reads"),
        (
            lambda v: v["backbone"].update(base=BASE | {"image_size": 24_000}),
            r"damaged at backbone\.base\.image_size",
        ),
        (
            lambda v: v["backbone"].update(base=BASE | {"max_length": 10**9}),
            r"damaged at backbone\.base\.max_length",
        ),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(run, change, match):
    edit_bundle(run, change)
    refused(run, match)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_file_that_cannot_be_is_refused(run, name):
    edit_bundle(run, lambda values: values["files"].update({name: "0" * 64}))
    refused(run, "which no file can be called")


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg_overlay", "cache_dir"])
def test_a_recipe_that_has_other_files_read_is_refused(run, name, monkeypatch):
    """A checkpoint can be a pickle, whatever the run folder itself holds."""
    monkeypatch.setattr("timm.models._factory.load_checkpoint", lambda *_, **__: pytest.fail("it was read"))
    arguments = {name: str(run / "model.safetensors")}
    edit_bundle(run, lambda values: values["backbone"]["recipe"]["arguments"].update(arguments))
    refused(run, f"'{name}', which is refused")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_recipe_that_names_a_kernel_of_a_repository_runs_none(text_run, tmp_path, monkeypatch, key):
    folder = tmp_path / "run"
    shutil.copytree(text_run.run.folder, folder)
    edit_bundle(
        folder, lambda values: values["backbone"]["recipe"]["config"].update({key: "somebody/kernel"})
    )
    monkeypatch.setattr(
        "transformers.modeling_flash_attention_utils._lazy_imports", lambda *_: pytest.fail("it was fetched")
    )
    assert load(folder).classifier.backbone.module.config._attn_implementation != "somebody/kernel"


@pytest.mark.parametrize("temperature", [1e-320, 1e300, 0.0, -1.0])
def test_a_temperature_that_leaves_no_probability_is_refused(run, temperature):
    edit_bundle(run, lambda values: values["calibration"].update(temperature=temperature))
    refused(run, r"damaged at calibration\.temperature")


def test_a_link_to_the_outside_is_refused(run, tmp_path):
    elsewhere = tmp_path / "elsewhere.safetensors"
    (run / "model.safetensors").rename(elsewhere)
    (run / "model.safetensors").symlink_to(elsewhere)
    refused(run, "outside the run folder")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"labels": 3}'])
def test_a_bundle_that_is_no_object_is_refused(run, text):
    (run / "bundle.json").write_text(text)
    with pytest.raises(RequestError, match="damaged"):
        read_bundle(run)


@pytest.mark.parametrize("damage", ["no logits", "no rows", "other classes", "no safetensors"])
def test_golden_answers_that_cannot_be_checked_are_refused(run, damage):
    path = run / "golden.safetensors"
    golden = load_file(path)
    if damage == "no logits":
        save_file({"h": golden["h"]}, path)
    elif damage == "no rows":
        save_file({name: array[:0].copy() for name, array in golden.items()}, path)
    elif damage == "other classes":
        save_file(golden | {"logits": np.zeros((len(golden["h"]), 3), dtype=np.float32)}, path)
    else:
        path.write_bytes(b"nothing of the kind")
    rehash(run, "golden.safetensors")
    refused(run, "damaged")


@pytest.mark.parametrize("shape", [(4, 1), (1, 2), (2,), (0, 2)])
def test_golden_answers_of_another_shape_are_not_spread_over_the_rows(shape):
    with pytest.raises(ValueError, match=r"golden logits .* for answers \(4, 2\)"):
        golden_gap(torch.zeros(4, 2), torch.zeros(shape))
    assert golden_gap(torch.zeros(4, 2), torch.full((4, 2), 0.5))[0] == 0.5


def test_golden_inputs_are_real_rows_of_the_test(image_run):
    golden = load_file(image_run.run.folder / "golden.safetensors")
    assert golden["h"].shape == (4, 64, 64, 3)
    assert golden["h"].dtype == np.uint8
    assert golden["logits"].shape == (4, 2)
    assert len(np.unique(golden["h"].reshape(4, -1), axis=0)) == 4


def test_a_text_run_brings_its_tokenizer_and_a_changed_one_is_refused(text_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(text_run.run.folder, folder)
    asset = folder / "assets" / "tokenizer.json"
    asset.write_text(asset.read_text() + " ")
    refused(folder, r"tokenizer\.json was changed")


def test_nothing_in_the_folder_is_pickled(image_run, text_run):
    for trained in (image_run, text_run):
        for path in trained.run.folder.rglob("*"):
            assert path.suffix in (".json", ".yaml", ".csv", ".html", ".md", ".safetensors", ".txt", "")
            if path.is_file():
                assert path.read_bytes()[:2] not in (b"PK", b"\x80\x04", b"\x80\x05")
