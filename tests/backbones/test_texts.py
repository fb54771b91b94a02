"""Loading text backbones from folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from unfreeze.backbones import load_backbone, rebuild
from unfreeze.backbones.hf import HfBackbone, masked_mean, pool, sample_texts
from unfreeze.contracts import State
from unfreeze.errors import RequestError

Writer = Callable[..., Path]


def load(folder: Path, *, pooling: str | None = None, max_length: int | None = None) -> HfBackbone:
    backbone = load_backbone(str(folder), modality="text", pooling=pooling, max_length=max_length)
    assert isinstance(backbone, HfBackbone)
    return backbone


def test_a_folder_is_loaded_in_float32_with_every_weight_of_its_file(write_model: Writer) -> None:
    folder = write_model()
    # Copies: what is loaded lies in the file that is written over.
    stored = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(
        {name: value.half() for name, value in stored.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    backbone = load(folder)
    own = backbone.module.state_dict()
    assert {value.dtype for value in own.values()} == {torch.float32}
    assert set(stored) - set(own) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(value, stored[name].half().float()) for name, value in own.items())


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_that_a_configuration_names_is_not_fetched(
    write_model: Writer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model()
    config = json.loads((folder / "config.json").read_text()) | {key: "somebody/kernel"}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(
        "transformers.modeling_flash_attention_utils._lazy_imports", lambda *_: pytest.fail("it was fetched")
    )
    assert load(folder).module.config._attn_implementation != "somebody/kernel"


def test_the_tokenizer_loses_its_own_truncation_and_padding(write_model: Writer) -> None:
    backbone = load(write_model())
    tokenizer = Tokenizer.from_str(backbone.assets["tokenizer.json"].decode())
    assert len(tokenizer.encode("a cat sat a cat sat").ids) == 8
    assert backbone.preprocess.pad_id == 0


@pytest.mark.parametrize(
    ("model_type", "sentence", "asked", "expected"),
    [
        ("bert", None, None, "mean"),
        ("bert", "pooling_mode_cls_token", None, "cls"),
        ("bert", "pooling_mode_lasttoken", None, "last"),
        ("bert", "pooling_mode_cls_token", "mean", "mean"),
        ("bert", None, "native", "native"),
        ("llama", None, None, "last"),
        ("llama", None, "native", "last"),
        ("llama", None, "mean", "mean"),
    ],
)
def test_the_pooling_is_what_was_asked_else_the_models_own_else_the_kinds(
    write_model: Writer, model_type: str, sentence: str | None, asked: str | None, expected: str
) -> None:
    assert load(write_model(model_type, sentence=sentence), pooling=asked).pooling == expected


def test_a_pooling_without_an_equal_is_noted(write_model: Writer) -> None:
    backbone = load(write_model(sentence="pooling_mode_max_tokens"))
    assert backbone.pooling == "mean"
    assert "pooling_mode_max_tokens" in backbone.notes[0]


def test_native_pooling_is_the_librarys_pooler_and_belongs_to_the_last_stage(write_model: Writer) -> None:
    backbone = load(write_model(), pooling="native")
    ids = torch.tensor([[2, 4, 5, 3]])
    with torch.no_grad():
        wanted = backbone.module(input_ids=ids).pooler_output
        assert torch.allclose(backbone.run(State(ids)).h, wanted, atol=1e-6)
    assert backbone.stages[-1].tensors == ("pooler.dense.weight", "pooler.dense.bias")


def test_native_pooling_is_refused_where_nothing_pretrained_pools(write_model: Writer) -> None:
    with pytest.raises(RequestError, match="mean, cls or last"):
        load(write_model("electra"), pooling="native")
    with pytest.raises(RequestError, match="without its pooler"):
        load(write_model(pooler=False), pooling="native")


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[2.0, 20.0], [3.0, 30.0]]),
        ("cls", [[1.0, 10.0], [3.0, 30.0]]),
        ("last", [[3.0, 30.0], [3.0, 30.0]]),
    ],
)
def test_poolings_read_real_tokens_only(pooling: str, expected: list[list[float]]) -> None:
    h = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]], [[3.0, 30.0], [99.0, 99.0], [99.0, 99.0]]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert pool(None, h, mask, pooling=pooling).tolist() == expected  # type: ignore[arg-type]
    assert masked_mean(h, torch.zeros_like(mask)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("sentence", "asked", "expected"),
    [
        (None, None, 40),
        (None, 16, 16),
        ("pooling_mode_mean_tokens", None, 20),
        ("pooling_mode_mean_tokens", 40, 40),
    ],
)
def test_the_longest_text_is_bounded_by_the_model(
    write_model: Writer, sentence: str | None, asked: int | None, expected: int
) -> None:
    assert load(write_model(sentence=sentence), max_length=asked).preprocess.max_length == expected


def test_positions_of_roberta_start_behind_the_padding(write_model: Writer) -> None:
    backbone = load(write_model("roberta"))
    assert backbone.preprocess.max_length == 39
    ids = torch.full((1, 39), 4)
    assert backbone.run(State(ids)).h.shape == (1, 16)


@pytest.mark.parametrize("length", [41, 7, 0, -1])
def test_a_length_that_the_model_cannot_read_is_refused(write_model: Writer, length: int) -> None:
    with pytest.raises(RequestError, match=rf"is {length} tokens.* at most 40"):
        load(write_model(), max_length=length)


def test_unknown_poolings_and_damaged_folders_are_named(write_model: Writer, tmp_path: Path) -> None:
    folder = write_model()
    with pytest.raises(RequestError, match=r"'max'.*native, mean, cls, last"):
        load(folder, pooling="max")
    with pytest.raises(RequestError, match=r"no config\.json"):
        load(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(RequestError, match="no tokenizer"):
        load(folder)
    stored = load_file(folder / "model.safetensors")
    del stored["embeddings.LayerNorm.weight"]
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match=r"lack 1 tensors, such as 'embeddings\.LayerNorm\.weight'"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="holds no weights"):
        load(folder)


def test_code_from_a_folder_is_never_run(write_model: Writer) -> None:
    folder = write_model()
    (folder / "mine.py").write_text("raise SystemExit('this code ran')")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match="never run"):
        load(folder)


def test_a_recipe_names_no_machine_and_no_class_outside_of_the_library(
    write_model: Writer, tmp_path: Path
) -> None:
    backbone = load(write_model())
    assert str(tmp_path) not in json.dumps(backbone.recipe)
    tensors = backbone.module.state_dict()
    with pytest.raises(RequestError, match="no model class 'pipeline'"):
        rebuild({**backbone.recipe, "class": "pipeline"}, tensors, backbone.assets)
    with pytest.raises(RequestError, match=r"tokenizer\.json"):
        rebuild(backbone.recipe, tensors, {})
    wrong = {**tensors, "embeddings.LayerNorm.weight": torch.ones(3)}
    with pytest.raises(RequestError, match=r"LayerNorm\.weight has the shape \(3,\)"):
        rebuild(backbone.recipe, wrong, backbone.assets)
    with pytest.raises(RequestError, match="cannot be read"):
        rebuild({"library": "transformers", "name": "x"}, tensors, backbone.assets)
    with pytest.raises(RequestError, match="'keras'"):
        rebuild({"library": "keras"}, tensors, {})


@pytest.mark.parametrize(
    "more",
    [{"vocab_size": 10**11}, {"hidden_size": 2 * 10**6}, {"num_hidden_layers": 10**9}],
    ids=lambda m: next(iter(m)),
)
def test_a_recipe_of_a_network_far_larger_than_its_weights_is_not_built(
    write_model: Writer, more: dict[str, int]
) -> None:
    backbone = load(write_model())
    config = backbone.recipe["config"]
    assert isinstance(config, dict)
    with pytest.raises(RequestError, match="far larger than the weights that came along"):
        rebuild(
            {**backbone.recipe, "config": {**config, **more}}, backbone.module.state_dict(), backbone.assets
        )


def test_a_decoder_with_several_ends_of_a_text_is_loaded(write_model: Writer) -> None:
    backbone = load(write_model("llama", eos_token_id=[2, 3], bos_token_id=1))
    assert backbone.family == "decoder"
    ids = sample_texts(backbone.module.config).h
    assert set(ids[0].tolist()) <= {4, 5, 6, 7}


def test_a_model_whose_layers_are_not_called_as_modules_runs_as_one_stage(write_model: Writer) -> None:
    backbone = load(write_model("squeezebert", embedding_size=16))
    assert backbone.family == "opaque"
    assert "runs as one stage, since it has no plain list of layers" in backbone.notes[0]


def test_a_model_that_mixes_padding_into_its_texts_is_refused(write_model: Writer) -> None:
    with pytest.raises(
        RequestError, match=r"looks at padding: .* differ by \d+\.\d%.* Choose another backbone"
    ):
        load(write_model("fnet"))


def test_a_model_that_looks_at_padding_a_little_says_so(write_model: Writer) -> None:
    backbone = load(write_model("convbert", embedding_size=16))
    (note,) = backbone.notes
    assert "looks at padding" in note
    assert backbone.recipe["notes"] == [note]
    assert load(write_model("bert")).notes == ()


def test_an_attention_that_a_short_text_switches_is_full_from_the_start(write_model: Writer) -> None:
    backbone = load(write_model("big_bird", attention_type="block_sparse", block_size=2, num_random_blocks=1))
    again = rebuild(backbone.recipe, backbone.module.state_dict(), backbone.assets)
    modules = (backbone.module, again.module)
    assert [module.attention_type for module in modules] == ["original_full"] * 2
    ids = torch.randint(4, 8, (2, 32), generator=torch.Generator().manual_seed(0))
    text = State(ids, torch.ones_like(ids, dtype=torch.bool))
    with torch.no_grad():
        assert torch.equal(again.run(text).h, backbone.run(text).h)
