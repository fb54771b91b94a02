"""Loading image backbones: sizes, weight files, the check of the cut."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from unfreeze.backbones import load_backbone, timm_families
from unfreeze.backbones.staging import assign_tensors, hash_weights
from unfreeze.backbones.timm_ import TimmBackbone, assemble, image_preprocess, normalise
from unfreeze.backbones.timm_loading import create_timm, rebuild_timm
from unfreeze.contracts import State
from unfreeze.errors import RequestError
from unfreeze.runtime.preprocess import ImagePreprocess


def save_vit(folder: Path, *, drop: str | None = None, size: int = 64) -> Path:
    """A random test_vit with classifier, as a safetensors file."""
    torch.manual_seed(0)
    tensors = timm.create_model("test_vit", img_size=size).state_dict()
    if drop is not None:
        del tensors[drop]
    path = folder / "weights.safetensors"
    save_file({name: value.half() for name, value in tensors.items()}, path)
    return path


def load(name: str, *, image_size: int | None = None) -> TimmBackbone:
    backbone = load_backbone(name, modality="image", image_size=image_size)
    assert isinstance(backbone, TimmBackbone)
    return backbone


def test_a_weight_file_loses_its_classifier_and_nothing_else(tmp_path: Path) -> None:
    path = save_vit(tmp_path)
    backbone = load(f"timm:test_vit@{path}", image_size=64)
    torch.manual_seed(0)
    whole = timm.create_model("test_vit", img_size=64).half().float().eval()
    x = torch.rand(2, 64, 64, 3) * 255
    with torch.no_grad():
        wanted = whole.forward_head(
            whole.forward_features(normalise(x, backbone.preprocess, whole)), pre_logits=True
        )
        assert torch.allclose(backbone.run(State(x)).h, wanted, atol=1e-5)
    assert {value.dtype for value in backbone.module.state_dict().values()} == {torch.float32}
    assert backbone.name == "test_vit"
    assert backbone.notes == ("Weights from the file weights.safetensors.",)


def test_position_embeddings_of_another_size_are_resampled(tmp_path: Path) -> None:
    backbone = load(f"timm:test_vit@{save_vit(tmp_path, size=64)}", image_size=96)
    assert backbone.module.pos_embed.shape[1] == (96 // 16) ** 2 + 1
    assert (backbone.preprocess.height, backbone.preprocess.width) == (96, 96)


def test_a_file_that_lacks_a_tensor_or_is_of_another_network_is_refused(tmp_path: Path) -> None:
    path = save_vit(tmp_path, drop="blocks.0.norm1.weight")
    with pytest.raises(
        RequestError, match=r"has no tensor 'blocks\.0\.norm1\.weight' \(1 missing, 0 unknown\)"
    ):
        load(f"timm:test_vit@{path}", image_size=64)
    with pytest.raises(RequestError, match="another architecture"):
        load(f"timm:test_resnet@{path}")


def test_a_pickle_with_more_than_tensors_is_never_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (sys.exit, ("this code ran",))

    path = tmp_path / "weights.pth"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(RequestError, match=r"give a \.safetensors file"):
        load(f"timm:test_vit@{path}", image_size=64)
    (tmp_path / "broken.safetensors").write_bytes(b"no header here")
    with pytest.raises(RequestError, match="does not hold plain tensors"):
        load(f"timm:test_vit@{tmp_path / 'broken.safetensors'}", image_size=64)
    with pytest.raises(RequestError, match="does not exist"):
        load(f"timm:test_vit@{tmp_path / 'absent.pth'}")


@pytest.mark.parametrize(
    ("size", "said"),
    [(15, "give 16 to 4096"), (0, "give 16 to 4096"), (24_000, "give 16 to 4096"), (72, "take 64 or 80")],
)
def test_a_size_that_the_network_cannot_read_is_refused(tmp_path: Path, size: int, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        load(f"timm:test_vit@{save_vit(tmp_path)}", image_size=size)


def test_dinov2_reads_224_pixels_unless_told(tmp_path: Path) -> None:
    from unfreeze.backbones.timm_loading import _sizing

    name = "vit_small_patch14_dinov2"
    config = timm.get_pretrained_cfg(name)
    arguments, notes = _sizing(name, config, None)
    assert arguments == {"img_size": [224, 224]}
    assert "518" in notes[0]
    assert _sizing(name, config, 518) == ({"img_size": [518, 518]}, ())


@pytest.mark.parametrize("side", [32, 48])
def test_dinov3_keeps_its_rotary_positions_and_gives_the_bits_of_the_network_for_any_size(side: int) -> None:
    name, sizes = "vit_small_patch16_dinov3", {"depth": 2, "embed_dim": 48, "num_heads": 3}
    arguments = {**sizes, "img_size": [side, side]}
    torch.manual_seed(0)
    # At its own size: timm makes the positions of this one anew for each batch.
    free = timm.create_model(name, num_classes=0, **sizes).eval()
    assert free.dynamic_img_size
    module = create_timm(name, arguments)
    module.load_state_dict(free.state_dict())
    backbone = assemble(module, name, architecture=name, arguments=arguments)
    assert backbone.module.rope.get_embed().shape[0] == (side // 16) ** 2
    x = torch.randint(0, 256, (2, side, side, 3), generator=torch.Generator().manual_seed(1)).byte()
    with torch.no_grad():
        assert torch.equal(backbone.run(State(x)).h, free(normalise(x, backbone.preprocess, free)))
    # What a run folder says of it is as before, and builds the same.
    assert backbone.recipe["arguments"] == {"num_classes": 0, **arguments}
    again = rebuild_timm(backbone.recipe, free.state_dict())
    with torch.no_grad():
        assert torch.equal(again.run(State(x)).h, backbone.run(State(x)).h)
    assert again.weights_hash == backbone.weights_hash == hash_weights(free.state_dict())


def test_the_preprocess_is_the_pretrained_one_and_keeps_the_whole_image() -> None:
    config = timm.get_pretrained_cfg("tf_efficientnet_lite0").to_dict()
    value = image_preprocess(config, None, name="lite0")
    assert value == ImagePreprocess(
        height=224, width=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), fit="squash", crop_fraction=0.875
    )
    assert image_preprocess({**config, "interpolation": "random"}, (96, 64), name="lite0").width == 64
    with pytest.raises(RequestError, match="1 channels"):
        image_preprocess({**config, "input_size": (1, 28, 28)}, None, name="digits")


def test_pixels_are_normalised_per_channel_and_stay_channels_last() -> None:
    value = ImagePreprocess(height=2, width=2, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 2, 2, 3)
    x = normalise(pixels, value, torch.nn.Linear(1, 1))
    assert x[0, :, 0, 0].tolist() == [0.0, -1.0, -4.0]
    assert x[0, :, 0, 1].tolist() == [1.0, 1.0, 0.0]
    image = torch.zeros((2, 4, 4, 3), dtype=torch.uint8)
    assert normalise(image, value, torch.nn.Linear(1, 1)).is_contiguous(memory_format=torch.channels_last)
    assert normalise(image, value, torch.nn.Linear(1, 1).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("wrong", ["efficientnet", "resnet", "vision_transformer"])
def test_a_wrong_cut_falls_back_to_one_stage_and_says_so(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    # GhostNet runs under EfficientNet's row without an error, and gives something slightly else.
    monkeypatch.setitem(timm_families.FAMILIES, "ghostnet", timm_families.FAMILIES[wrong])
    torch.manual_seed(0)
    module = timm.create_model("ghostnet_050", num_classes=0).eval()
    backbone = assemble(module, "ghostnet_050", architecture="ghostnet_050", arguments={}, image_size=64)
    assert backbone.family == "opaque"
    assert len(backbone.stages) == 1
    assert "not exact" in backbone.notes[0]
    x = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(backbone.run(State(x)).h, module(normalise(x, backbone.preprocess, module)))


def test_prefixes_claim_whole_names() -> None:
    module = torch.nn.ModuleDict({"layer1": torch.nn.Linear(1, 1), "layer10": torch.nn.Linear(1, 1)})
    stages = assign_tensors(module, [("rest", ()), ("one", ("layer1",))])
    assert stages[0].tensors == ("layer10.weight", "layer10.bias")
    assert stages[1].tensors == ("layer1.weight", "layer1.bias")


def test_the_hash_sees_names_types_shapes_and_values_but_not_the_order() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    wanted = hash_weights(base)
    assert hash_weights(dict(reversed(base.items()))) == wanted
    others = [
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.nextafter(torch.ones(1), torch.zeros(1))},
    ]
    assert wanted not in {hash_weights(other) for other in others}
    assert len({hash_weights(other) for other in others}) == 4
    assert hash_weights({"a": torch.tensor(3), "h": torch.ones(2, dtype=torch.bfloat16)})
