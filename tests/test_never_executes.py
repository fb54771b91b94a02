"""Files made to run code, to read other files or to change a page: none of them does, wherever it is put."""

import json
import os
import shutil
import struct
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import unfreeze
from unfreeze.errors import RequestError, UnfreezeError

TINY = {"strategy": "feature-extraction", "device": "cpu"}


@pytest.fixture
def trap(tmp_path):
    """A folder that code makes which should not have run."""
    return tmp_path / "it ran"


@pytest.fixture
def payload(trap):
    """Bytes of a pickle that makes the folder when it is read as one."""
    import pickle

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(trap),))

    made = pickle.dumps({"state_dict": Trap()})
    pickle.loads(made)  # noqa: S301 - a payload that does nothing would prove nothing
    assert trap.is_dir()
    trap.rmdir()
    return made


@pytest.fixture
def text_model(tmp_path):
    """A folder of a tiny BERT with its tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    from unfreeze.backbones.hf_loading import quiet_transformers

    torch.manual_seed(0)
    folder = tmp_path / "model"
    words = ("[PAD]", "[UNK]", "meeting", "prize", "storm")
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=len(words)
    )
    with quiet_transformers():
        BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return folder


class Elements(HTMLParser):
    """The attributes and the scripts of a page, as a browser would find them."""

    def __init__(self):
        super().__init__()
        self.attributes, self.scripts = [], 0

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        self.scripts += tag == "script"


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_weights_of_a_text_model_that_are_a_pickle_are_refused(text_model, payload, trap, mails, tmp_path):
    (text_model / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.safetensors"):
        (text_model / name).write_bytes(payload)
        with pytest.raises(RequestError, match="cannot be read as plain tensors"):
            unfreeze.train(str(mails), output_dir=tmp_path / "run", backbone=str(text_model), **TINY)
        (text_model / name).unlink()
    assert not trap.exists()


@pytest.mark.parametrize("kind", ["config", "tokenizer"])
def test_code_beside_a_text_model_is_not_run(kind, text_model, trap, mails, tmp_path):
    (text_model / "evil.py").write_text(
        f"import os\nos.mkdir({str(trap)!r})\nfrom transformers import BertConfig as Evil, BertModel, BertTokenizer\n"
    )
    if kind == "config":
        change_json(
            text_model / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.BertModel"}
        )
    else:
        change_json(
            text_model / "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["evil.BertTokenizer", None]},
            tokenizer_class="Evil",
        )
    # Its code left alone, what is declared beside it may still be a model that is known.
    try:
        run = unfreeze.train(str(mails), output_dir=tmp_path / "run", backbone=str(text_model), **TINY)
    except RequestError:
        run = None
    assert not trap.exists()
    if run is not None:
        assert "auto_map" not in (run.folder / "bundle.json").read_text()


def test_a_run_cannot_ask_for_code(text_run, text_model, trap, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(text_run.run.folder, folder)
    (text_model / "evil.py").write_text(f"import os\nos.mkdir({str(trap)!r})\n")
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(trap)!r})\n")
    bundle = json.loads((folder / "bundle.json").read_text())
    recipe = bundle["backbone"]["recipe"]
    asked = {"trust_remote_code": True, "auto_map": {"AutoModel": "evil.Evil"}, "source": str(text_model)}
    for changes in (asked, {"config": dict(recipe.get("config", {})) | asked}):
        bundle["backbone"]["recipe"] = recipe | changes
        (folder / "bundle.json").write_text(json.dumps(bundle))
        try:
            answers = unfreeze.load(folder).predict(["meeting agenda"])
        except UnfreezeError:
            continue
        finally:
            assert not trap.exists()
        assert answers[0].label == "ham"


@pytest.mark.parametrize("name", ["model.safetensors", "golden.safetensors", "examples.safetensors"])
def test_a_pickle_in_a_run_is_refused_even_with_its_hash(
    name, image_run, payload, trap, tmp_path, command, plain_torch
):
    from unfreeze.runtime.files import file_hash

    folder = tmp_path / "run"
    shutil.copytree(image_run.run.folder, folder)
    bundle = json.loads((folder / "bundle.json").read_text())
    (folder / name).write_bytes(payload)
    bundle["files"][name] = file_hash(folder / name)
    (folder / "bundle.json").write_text(json.dumps(bundle))
    answer = command(
        "predict", folder, image_run.data / "green" / "00.png", "--explain", tmp_path / "explained"
    )
    assert (answer.status, answer.out) == (2, ""), answer.err
    assert answer.err.startswith("Error: ")
    assert not trap.exists()


def test_a_checkpoint_that_is_a_pickle_is_passed_over(payload, trap, tmp_path):
    import torch

    from unfreeze.engine.checkpoints import TENSORS, Checkpoint, Checkpoints, Position

    kept = Checkpoints(tmp_path / "checkpoints", {"data": "d"})
    for step in (1, 2):
        kept.save(Checkpoint(Position(step=step), {"w": torch.full((2,), float(step))}))
    newest = max((tmp_path / "checkpoints").iterdir())
    (newest / TENSORS).write_bytes(payload)
    assert kept.newest().position.step == 1
    assert not trap.exists()


def test_a_store_that_is_a_pickle_is_computed_again(image_run, payload, trap, tmp_path, plain_torch):
    cache = tmp_path / "unfreeze-cache"
    shutil.copytree(image_run.cache, cache)
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(payload)
    run = unfreeze.train(str(image_run.data), output_dir=tmp_path / "run", **image_run.settings)
    assert run.test.to_dict() == image_run.run.test.to_dict()
    assert not trap.exists()


@pytest.mark.parametrize("where", ["../secret.bin", "{absolute}", "link.bin"])
def test_an_exported_model_reads_no_file_outside_its_folder(where, image_onnx, tmp_path):
    onnx = pytest.importorskip("onnx")
    from unfreeze.runtime import load

    folder, secret = tmp_path / "exported", tmp_path / "secret.bin"
    shutil.copytree(image_onnx.file.parent, folder)
    model = onnx.load(folder / "model.onnx")
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    secret.write_bytes(tensor.raw_data)
    (folder / "link.bin").symlink_to(secret)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=where.format(absolute=secret))
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(RequestError, match="no ONNX model that can be loaded"):
        load(folder)


def test_a_safetensors_header_of_any_length_is_no_reason_to_take_memory(image_run, tmp_path):
    from unfreeze.runtime.files import file_hash

    folder = tmp_path / "run"
    shutil.copytree(image_run.run.folder, folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    bundle = json.loads((folder / "bundle.json").read_text())
    bundle["files"]["model.safetensors"] = file_hash(folder / "model.safetensors")
    (folder / "bundle.json").write_text(json.dumps(bundle))
    with pytest.raises(RequestError):
        unfreeze.load(folder)


def test_names_that_are_markup_change_no_page(command, tmp_path, tiny_vit, plain_torch):
    chance = np.random.default_rng(0)
    # A file's name holds no slash, so that no closing tag can be written in one.
    evil = "<img src=x onerror=alert(1)>", "<script>alert(1)<script>", '"><svg onload=alert(1)>', "{{7*191}}"
    for place, name in enumerate(evil[:3]):
        for number in range(8):
            folder = tmp_path / "data" / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(chance.normal(60 + 70 * place, 30, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{evil[number % 4]}{number}.png")
    made = ["--backbone", tiny_vit, "--device", "cpu"]
    few = ["--epochs", "1", "--batch-size", "8"]
    data, run = tmp_path / "data", tmp_path / "run"
    target = ["--target", data, "--output-dir", tmp_path / "adapted"]
    for arguments in (
        ["train", data, "--output-dir", run, "--strategy", "partial", *few, *made],
        ["compare", data, "--output-dir", tmp_path / "cmp", "--strategies", "partial", "--seeds", "1", *few, *made],
        ["adapt", run, *target],
        ["predict", run, data / evil[0] / f"{evil[1]}1.png", "--explain", tmp_path / "explained"],
    ):  # fmt: skip
        answer = command(*arguments)
        assert answer.status == 0, answer.err
    pages = [path for path in tmp_path.rglob("*.html") if "data" not in path.relative_to(tmp_path).parts]
    assert {path.name for path in pages} >= {"report.html", "compare.html"}
    assert len(pages) >= 4, pages
    for path in [*pages, *tmp_path.glob("*/README.md")]:
        page = path.read_text(encoding="utf-8")
        seen = Elements()
        seen.feed(page)
        assert ("img", "src", "x") not in seen.attributes, path
        assert not [name for _, name, _ in seen.attributes if name.startswith("on")], path
        assert not seen.scripts, path
        # A template that was rendered twice.
        assert "1337" not in page
    assert "&lt;img src=x" in (run / "report.html").read_text(encoding="utf-8")


def test_a_run_answers_with_nothing_unpickled(image_run):
    import subprocess

    script = (
        "import pickle, sys\n"
        "def refuse(*a, **k): raise SystemExit('a pickle was read')\n"
        "class Refusing(pickle.Unpickler):\n    __init__ = refuse\n"
        "pickle.load, pickle.loads, pickle.Unpickler = refuse, refuse, Refusing\n"
        "import unfreeze\n"
        "print(unfreeze.load(sys.argv[1]).predict([sys.argv[2]])[0].label)\n"
    )
    picture = image_run.data / "green" / "00.png"
    ended = subprocess.run(
        [sys.executable, "-c", script, image_run.run.folder, picture], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() in ("green", "red")
