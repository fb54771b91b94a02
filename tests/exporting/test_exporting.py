"""An exported file gives the trained model's answers on real rows, or it is not left behind."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import unfreeze
from unfreeze import runtime
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.exporting import formats
from unfreeze.exporting import run as module
from unfreeze.exporting.network import Network
from unfreeze.exporting.run import export
from unfreeze.predicting import open_predictor
from unfreeze.runtime.card import KEY, read_card

pytestmark = pytest.mark.usefixtures("plain_torch")


def test_raw_bytes_of_every_kind_are_answered_as_by_the_run(image_onnx, image_run, raw_files):
    files = raw_files
    exported, model = runtime.load(image_onnx.file), image_run.run.model()
    for batch_size in (1, 4):
        found = exported.predict(files, batch_size=batch_size)
        for one, wanted in zip(found, model.predict(files), strict=True):
            assert (one.input, one.label, one.error) == (wanted.input, wanted.label, None)
            assert one.probability == pytest.approx(wanted.probability, abs=1e-4)
            assert one.abstain == wanted.abstain
    picture = Image.open(files[-1]).convert("RGB")
    forms = [files[-1].read_bytes(), picture, np.asarray(picture)]
    given = exported.predict_proba(forms)
    assert np.abs(given - given[0]).max() < 1e-6


def test_texts_are_answered_as_by_the_run(text_onnx, text_run):
    texts = ["prize winner cash", "meeting report Monday " * 30, "?", "election"]
    exported, model = runtime.load(text_onnx.file.parent), text_run.run.model()
    assert np.abs(exported.predict_proba(texts) - model.predict_proba(texts)).max() < 1e-4
    (file,) = exported.predict([3.5])
    assert "give strings" in file.error


def test_the_card_says_what_the_outputs_mean(image_onnx, image_run):
    import onnx

    model = onnx.load(image_onnx.file)
    (text,) = (entry.value for entry in model.metadata_props if entry.key == KEY)
    card = read_card(text, source="model")
    bundle = json.loads((image_run.run.folder / "bundle.json").read_text())
    assert list(card.labels) == bundle["labels"]
    assert card.backbone == bundle["backbone"]["weights_hash"]
    assert card.parity["rows"] == 24
    assert card.parity["agreement"] == 1.0
    assert card.parity["gap"] < 1e-4
    assert text == (image_onnx.file.parent / "export.json").read_text()
    assert [i.name for i in model.graph.input] == ["images"]
    assert [o.name for o in model.graph.output] == ["logits", "probabilities"]
    assert next(o.version for o in model.opset_import if o.domain == "") == formats.OPSET


def test_it_predicts_in_a_process_that_has_no_torch(image_onnx, photos):
    picture = photos / "red" / "00.png"
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "transformers", "sklearn", "pyarrow", "openvino"):
            raise ImportError(name + " is not here")
sys.meta_path.insert(0, Refuse())
import unfreeze.runtime
(answer,) = unfreeze.runtime.load({str(image_onnx.file)!r}).predict({str(picture)!r})
print(answer.label, answer.probability)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    label, probability = done.stdout.split()
    assert label in ("green", "red")
    assert 0.5 <= float(probability) <= 1


def test_the_command_line_writes_checks_and_predicts(image_run, image_onnx, photos, tmp_path, command):
    out = ("--output", tmp_path / "out", "--format", "torchscript")
    done = command("export", image_run.run.folder, *out, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["parity"]["problem"] == ""
    files = sorted((photos / "red").iterdir())[:3]
    (tmp_path / "bad.png").write_bytes(b"none")
    for model in (image_onnx.file, image_run.run.folder):
        found = command("predict", model, *files, tmp_path / "bad.png", tmp_path / "gone.png", "--json")
        assert found.status == 0, found.err
        rows = json.loads(found.out)["predictions"]
        if model.is_file():
            first = rows
    for mine, theirs in zip(first, rows, strict=True):
        assert (mine["input"], mine["label"], mine["error"]) == (
            theirs["input"],
            theirs["label"],
            theirs["error"],
        )


@pytest.mark.parametrize(
    ("kind", "format"), [("image", "torchscript"), ("image", "pt2"), ("text", "openvino")]
)
def test_other_formats_pass_the_same_gate(image_run, text_run, tmp_path, kind, format, recorder):
    run = image_run if kind == "image" else text_run
    done = export(run.run.folder, format=format, output=tmp_path / "out", progress=recorder)
    assert not done.parity.problem
    assert done.file.is_file()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("tokenizer.json" in names) == (kind == "text")
    assert "model.onnx" not in names
    if format == "torchscript":
        assert "deprecated" in recorder.said[0]
    with pytest.raises(RequestError, match="no ONNX export"):
        open_predictor(done.file)


class Sabotaged(Network):
    """The classifier with something wrong in it that no exporter would notice."""

    how = ""

    def forward(self, h, mask=None):
        if self.how == "normalisation":
            h = h.flip(-1)
        logits, probabilities = super().forward(h, mask)
        if self.how == "head":
            logits = probabilities = torch.cat([logits, logits], dim=1)
        if self.how == "batch":
            # A size that is written down instead of read: fine for the example, wrong for any other batch.
            probabilities = probabilities.reshape(2, -1)
        return logits, probabilities


@pytest.mark.parametrize("how", ["normalisation", "head", "batch"])
def test_a_sabotaged_graph_is_caught_and_deleted(image_run, tmp_path, monkeypatch, how):
    monkeypatch.setattr(Sabotaged, "how", how)
    monkeypatch.setattr(formats, "Network", Sabotaged)
    with pytest.raises(UnfreezeError, match="was deleted") as caught:
        export(image_run.run.folder, format="torchscript", output=tmp_path / "out")
    assert caught.value.exit_status == 1
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob(".out*"))


def test_permuted_labels_are_caught(image_run, tmp_path, monkeypatch):
    real = module._card

    def swapped(*given):
        card = real(*given)
        return type(card)(**(vars(card) | {"labels": card.labels[::-1]}))

    monkeypatch.setattr(module, "_card", swapped)
    with pytest.raises(UnfreezeError, match="by the exported one"):
        export(image_run.run.folder, format="torchscript", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_the_new_exporter_fails_the_older_one_is_named(image_run, tmp_path, monkeypatch, recorder):
    real = torch.onnx.export

    def broken(*given, dynamo, **more):
        if dynamo:
            raise RuntimeError("an operator is not known")
        return real(*given, dynamo=dynamo, **more)

    monkeypatch.setattr(torch.onnx, "export", broken)
    done = export(image_run.run.folder, output=tmp_path / "out", progress=recorder)
    assert not done.parity.problem
    assert "an operator is not known" in recorder.said[0]
    assert done.card.made_with["exporter"] == "TorchScript"


def test_a_wrong_request_is_refused_in_a_sentence(image_run, text_onnx, mails, tmp_path, monkeypatch):
    run = image_run.run.folder
    with pytest.raises(RequestError, match="'onx' is unknown"):
        export(run, format="onx")
    with pytest.raises(RequestError) as several:
        export(run, format="onx", quantize=True, private=True)
    private, unknown = str(several.value).splitlines()
    assert private.startswith("--private belongs to")
    assert "'onx' is unknown" in unknown
    (tmp_path / "taken").mkdir()
    for taken in (tmp_path / "taken", str(tmp_path / "taken")):
        with pytest.raises(RequestError, match="exists already"):
            export(run, output=taken)
    with pytest.raises(RequestError, match="other classes"):
        export(run, output=tmp_path / "out", data=str(mails))
    monkeypatch.setattr(module, "open_source", lambda *_: (None, "It is gone"))
    with pytest.raises(RequestError, match="It is gone: give labelled rows"):
        export(run, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    alone = tmp_path / "alone"
    shutil.copytree(text_onnx.file.parent, alone)
    (alone / "tokenizer.json").unlink()
    with pytest.raises(RequestError, match="not beside it"):
        runtime.load(alone)
    with pytest.raises(RequestError, match="does not exist"):
        runtime.load(tmp_path / "nothing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(RequestError, match="no ONNX model"):
        runtime.load(tmp_path / "broken.onnx")


@pytest.mark.parametrize(
    ("text", "told"),
    [("[]", "no card"), ("{}", "no card"), ('{"version": 99}', "newer"), ("no json", "no card")],
)
def test_a_card_that_is_none_is_refused(text, told):
    with pytest.raises(RequestError, match=told):
        read_card(text, source="this file")


def test_it_is_a_public_name(image_run):
    assert unfreeze.export is export
