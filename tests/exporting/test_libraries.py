"""A folder of another library gives the run's answers when that library alone reads it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from unfreeze.backbones.timm_loading import create_timm
from unfreeze.bundle.loading import load
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.exporting import libraries, to_timm
from unfreeze.exporting.hosting import calibrated_linear, graft_refusal, refusal
from unfreeze.exporting.run import export
from unfreeze.exporting.to_timm import data_arguments, with_classifier
from unfreeze.exporting.to_transformers import write_tokenizer_config
from unfreeze.heads.head import Head
from unfreeze.runtime.decode import decode_image
from unfreeze.runtime.preprocess import ImagePreprocess

pytestmark = pytest.mark.usefixtures("plain_torch")

PAGE_SHOWS = (("vit", "transformers"), ("lite0", "timm"), ("mean", "peft"))


def test_the_code_of_the_card_gives_the_runs_probabilities_without_us(
    shared, photos, tmp_path, job_of, alone
):
    pictures = [photos / "red" / "00.png", tmp_path / "long.png"]
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 90, 3)).astype(np.uint8)).save(
        pictures[-1]
    )
    jobs = [job_of(made, pictures) for made in shared.values()]
    for (name, made), job, found in zip(shared.items(), jobs, alone(jobs), strict=True):
        wanted = made.run.model().predict_proba(job["inputs"])
        assert np.abs(found - wanted).max() < 1e-4, name
        assert np.ptp(found[:, 0]) > 1e-3, f"{name} answers everything alike"


def test_the_configuration_says_labels_and_preprocessing(shared):
    for name, format, architecture, side in (
        ("lite0", "timm", "tf_efficientnet_lite0", 64),
        ("vit", "transformers", "test_vit", 32),
    ):
        folder = shared[name, format].folder
        config = json.loads((folder / "config.json").read_text())
        assert config["architecture"] == architecture
        assert config["label_names"] == ["green", "red"]
        reads = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}", pretrained=True))
        assert tuple(reads["input_size"]) == (3, side, side)
        assert (reads["crop_mode"], reads["crop_pct"], reads["interpolation"]) == ("squash", 1.0, "bicubic")
    config = json.loads((shared["bert", "transformers"].folder / "config.json").read_text())
    assert config["id2label"] == {"0": "ham", "1": "news", "2": "spam"}
    assert config["label2id"] == {"ham": 0, "news": 1, "spam": 2}
    assert config["problem_type"] == "single_label_classification"
    settings = json.loads((shared["bert", "transformers"].folder / "tokenizer_config.json").read_text())
    assert (settings["model_max_length"], settings["pad_token"]) == (8, "[PAD]")


def test_the_code_of_the_page_is_that_of_the_cards(shared):
    page = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```", page[page.index("## Back to") :], re.DOTALL)
    for code, made in zip(shown, (shared[key] for key in PAGE_SHOWS), strict=True):
        code = re.sub(r"runs/\w+/exported/\w+", "FOLDER", code).replace("new/one.jpg", "photo.jpg")
        if made.base is not None:
            code = code.replace("sentence-transformers/all-MiniLM-L6-v2", made.base.name)
        (wanted,) = re.findall(r"```python\n(.*?)```", (made.folder / "README.md").read_text(), re.DOTALL)
        assert code == re.sub(r"  # or .*", "", wanted)


def test_the_head_is_in_the_adapter_where_the_base_has_a_classifier(shared):
    def of(name):
        folder = shared[name, "peft"].folder
        return folder, json.loads((folder / "adapter_config.json").read_text())

    assert of("vit")[1]["modules_to_save"] == ["head"]
    assert of("bert")[1]["modules_to_save"] == ["classifier"]
    assert all(path.startswith("bert.encoder.") for path in of("bert")[1]["target_modules"])
    folder, config = of("mean")
    assert config["modules_to_save"] is None
    assert (folder / "head.safetensors").is_file()
    assert not (of("vit")[0] / "head.safetensors").exists()


def test_the_temperature_is_in_the_last_layer(trained):
    classifier = load(trained["bert"].folder).classifier
    hot = replace(classifier, temperature=4.0)
    for name, tensor in calibrated_linear(hot).items():
        assert torch.allclose(tensor * 4, torch.from_numpy(classifier.head.tensors[name]))


def test_no_file_names_a_folder_of_this_machine(shared, tmp_path_factory):
    here = str(tmp_path_factory.getbasetemp())
    for made in shared.values():
        for path in made.folder.iterdir():
            assert here.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(40, 60), (97, 31), (64, 64), (300, 200)])
def test_timms_transforms_resize_as_we_do(fit, size, tmp_path):
    rows, columns = np.indices(size)
    waves = 127 + 60 * np.sin(rows / 9)[..., None] + 60 * np.cos(columns / 7)[..., None] * np.ones(3)
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "one.png")
    reads = ImagePreprocess(32, 32, (0.5, 0.4, 0.3), (0.5, 0.5, 0.5), fit=fit, crop_fraction=0.875)
    transform = timm.data.create_transform(**data_arguments(reads), is_training=False)
    theirs = transform(Image.open(tmp_path / "one.png")).permute(1, 2, 0).numpy()
    ours = (decode_image((tmp_path / "one.png").read_bytes(), reads) / 255 - reads.mean) / reads.std
    gap = np.abs(theirs - ours).mean() * 127.5
    # In grey levels: squashing is the same call of Pillow; the others round an offset to another pixel.
    assert gap < (1e-3 if fit == "squash" else 8)


@pytest.mark.parametrize("target", [(32, 32), (33, 48)])
@pytest.mark.parametrize("share", [0.875, 1.0, 1.15, 2.0])
@pytest.mark.parametrize("size", [(40, 60), (97, 31), (64, 64), (300, 200)])
def test_a_crop_lies_where_timms_does_on_the_same_border(target, share, size, tmp_path):
    rows, columns = np.indices(size)
    ramp = np.stack([rows / size[0], columns / size[1], np.ones(size)], axis=-1) * 200 + 40
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "one.png")
    reads = ImagePreprocess(
        *target, (0.5, 0.4, 0.3), (0.5,) * 3, fit="crop", crop_fraction=share, interpolation="bilinear"
    )
    transform = timm.data.create_transform(**data_arguments(reads), is_training=False, normalize=False)
    theirs = transform(Image.open(tmp_path / "one.png")).permute(1, 2, 0).numpy()
    ours = decode_image((tmp_path / "one.png").read_bytes(), reads)
    assert np.array_equal(theirs.any(axis=2), ours.any(axis=2))
    # Half a step from one row to the next, where a side of 61.5 pixels is rounded another way.
    assert np.abs(theirs.astype(int) - ours).max() <= 3


def head(classifier, kind="linear", boundaries=None):
    given = classifier.head
    return replace(classifier, head=Head(kind, boundaries or given.boundaries, given.tensors))


def test_what_a_library_cannot_hold_is_refused_in_a_sentence(trained):
    lite0, bert, mean = (load(trained[name].folder).classifier for name in ("lite0", "bert", "mean"))
    assert "choose --format transformers" in refusal(bert, "timm")
    assert "train with --head linear" in refusal(head(lite0, kind="mlp"), "timm")
    joined = (len(lite0.backbone.stages) - 1, len(lite0.backbone.stages))
    assert "train with --strategy partial, lora or full" in refusal(head(lite0, boundaries=joined), "timm")
    assert "reads blocks.0, and" in refusal(head(lite0, boundaries=(2,)), "transformers")
    assert "train with --strategy lora" in refusal(lite0, "peft")
    assert "train with --pooling native" in refusal(mean, "transformers")
    for kind, family, told in (
        ("roberta", "encoder", "untrained layer"),
        ("llama", "decoder", "without a bias"),
    ):
        recipe = {**mean.backbone.recipe, "config": {"model_type": kind}}
        other = replace(mean, backbone=replace(mean.backbone, family=family, recipe=recipe))
        assert told in refusal(other, "transformers")
        assert refusal(other, "peft") == ""
    assert refusal(head(lite0, kind="mlp"), "onnx") == ""


def test_the_command_refuses_with_status_two(trained, tmp_path, command):
    done = command("export", trained["lite0"].folder, "--format", "peft", "--output", tmp_path / "out")
    assert done.status == 2
    assert "The run has no LoRA" in done.err
    assert (
        "Did you mean 'transformers'"
        in command("export", trained["lite0"].folder, "--format", "transformer").err
    )
    assert not list(tmp_path.glob("*out*"))


def test_texts_that_keep_their_end_are_refused(trained, tmp_path):
    backbone = load(trained["bert"].folder).classifier.backbone
    both = replace(backbone, preprocess=replace(backbone.preprocess, truncation="head+tail"))
    with pytest.raises(RequestError, match=r"keeps head\+tail: export to onnx"):
        write_tokenizer_config(both, tmp_path)
    assert not list(tmp_path.iterdir())


def hosted(architecture):
    """Logits by timm's network with a classifier, and by the head on the features of the one without."""
    torch.manual_seed(0)
    bare = create_timm(architecture, {"num_classes": 0}).eval()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = bare(pixels).numpy()
    chance = np.random.default_rng(0)
    arrays = {"weight": chance.normal(size=(3, features.shape[1])), "bias": chance.normal(size=3)}
    head = Head("linear", (1,), {name: array.astype(np.float32) for name, array in arrays.items()})
    backbone = SimpleNamespace(name=architecture, recipe={"architecture": architecture, "arguments": {}})
    classifier = SimpleNamespace(backbone=backbone, labels=("a", "b", "c"), head=head, temperature=2.0)
    module, name = with_classifier(classifier, bare.state_dict())
    module.get_submodule(name).load_state_dict(calibrated_linear(classifier))
    with torch.no_grad():
        return module(pixels).numpy(), head.logits(features) / 2


@pytest.mark.parametrize(
    "architecture", ["mobilenetv3_small_050", "convnext_atto", "resnet18", "vit_tiny_patch16_224"]
)
def test_timms_families_host_the_head(architecture):
    found, wanted = hosted(architecture)
    assert np.abs(found - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(
    ("architecture", "told"),
    [("deit_tiny_distilled_patch16_224", "in more than that"), ("dla46_c", "no plain linear layer")],
)
def test_a_network_that_cannot_host_it_is_refused(architecture, told):
    with pytest.raises(RequestError, match=told):
        hosted(architecture)


def test_an_adapter_on_another_run_is_refused_for_peft(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("unfreeze.exporting.to_peft.is_run", lambda source: True)
    with pytest.raises(RequestError, match="stands on another run"):
        export(trained["vit"].folder, format="peft", output=tmp_path / "out")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("temperature", "does not give the trained model's answers"),
        ("labels", "with the library's own preprocessing"),
        ("logits", "its logits differ by"),
        ("broken", "cannot be used by its library"),
    ],
)
def test_a_folder_that_answers_otherwise_is_deleted(trained, tmp_path, monkeypatch, how, told):
    if how == "temperature":
        real = to_timm.calibrated_linear
        monkeypatch.setattr(
            to_timm, "calibrated_linear", lambda given: {k: v / 3 for k, v in real(given).items()}
        )
    elif how == "labels":
        real = to_timm._config
        monkeypatch.setattr(
            to_timm, "_config", lambda *given: {**real(*given), "label_names": ["red", "green"]}
        )
    elif how == "logits":
        monkeypatch.setattr(libraries, "LOGITS_GAP", -1.0)
    else:
        monkeypatch.setattr(to_timm, "answers_of", lambda *given: 1 / 0)
    with pytest.raises(UnfreezeError, match=told):
        export(trained["vit"].folder, format="timm", output=tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_the_card_of_the_folder_is_read_by_the_hubs_own_library(shared):
    from huggingface_hub import ModelCard

    for (name, format), made in shared.items():
        text = (made.folder / "README.md").read_text()
        values = ModelCard(text).data.to_dict()
        assert values["library_name"] == format
        task = "text-classification" if name in ("bert", "mean") else "image-classification"
        assert values["pipeline_tag"] == task
        (result,) = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
        measured = json.loads((made.run.folder / "metrics.json").read_text())["test"]["accuracy"]
        assert result["metrics"][0]["value"] == pytest.approx(measured, abs=1e-4)
        assert "base_model" not in values
        assert "## How it was made" not in text
        assert "## Limits" in text


def test_a_run_without_its_card_is_exported_with_a_short_one(trained, tmp_path):
    import shutil

    copied = shutil.copytree(trained["vit"].folder, tmp_path / "run")
    (copied / "README.md").unlink()
    done = export(copied, format="timm", output=tmp_path / "out")
    text = (done.file / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["tags"] == ["unfreeze", "image-classification", "lora"]
    assert "local-dir:" in text


def test_the_page_says_which_strategy_goes_into_which_format(vit_weights):
    import unfreeze
    from unfreeze.config import CHOICES as SETTINGS
    from unfreeze.exporting.run import CHOICES
    from unfreeze.plan import Adapters, Lora
    from unfreeze.strategies import STRATEGIES
    from unfreeze.strategies.settings import StrategySettings

    page = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text(encoding="utf-8")
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    formats = [name for cell in header[1:] for name in cell.split(", ")]
    assert sorted(formats) == sorted(CHOICES)
    assert {row[0] for row in rows} == set(SETTINGS["strategy"]) - {"auto"}
    backbone = unfreeze.load_backbone(f"timm:test_vit@{vit_weights}", modality="image", image_size=32)
    kinds = {type(None): "none", Lora: "lora", Adapters: "adapters"}
    for strategy, *cells in rows:
        graft = None
        # Of texts, which timm does not take, and without a graft.
        if strategy in STRATEGIES and strategy != "contrastive":
            graft = STRATEGIES[strategy](backbone, StrategySettings(rows=100, classes=2)).graft
        for names, cell in zip(header[1:], cells, strict=True):
            for format in names.split(", "):
                held = not graft_refusal(kinds[type(graft)], format) and (strategy, format) != (
                    "contrastive",
                    "timm",
                )
                assert held == (cell != "–"), (strategy, format)
                assert (cell == "merged") == (
                    held and strategy == "lora" and format in ("transformers", "timm")
                )
