"""What goes through the gate: the user's own rows, read once, and a handful of them in every form of file."""

import io
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image, ImageOps

from unfreeze.data.samples import FileSamples
from unfreeze.errors import UnfreezeError
from unfreeze.exporting import gate_rows, pixels, resizing
from unfreeze.exporting import run as module
from unfreeze.exporting.gate_rows import GateRows
from unfreeze.exporting.network import Network
from unfreeze.exporting.parity import LARGEST_GAP, LARGEST_LOGITS_GAP, SIZES, check, logits_gap
from unfreeze.exporting.raw_forms import FORMS, PICTURES, reencode
from unfreeze.exporting.run import export
from unfreeze.runtime import reading
from unfreeze.runtime.decode import BadImage, Quarantined, fit_picture, open_picture

pytestmark = pytest.mark.usefixtures("plain_torch")


class Pictures:
    """Samples in memory: one picture, so many times."""

    def __init__(self, picture, count):
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        self.content, self.count = buffer.getvalue(), count

    def __len__(self):
        return self.count

    def name(self, row):
        return f"picture {row}"

    def read(self, row):
        return self.content

    def select(self, rows):
        assert np.all(np.diff(rows) > 0)
        chosen = Pictures(Image.new("RGB", (1, 1)), len(rows))
        chosen.content = self.content
        return chosen


@pytest.fixture
def slope():
    """A picture that is dark on the left and bright on the right, wider than high."""
    values = np.linspace(0, 255, 900).astype(np.uint8)
    return Image.fromarray(np.repeat(np.tile(values, (300, 1))[..., None], 3, axis=2))


def rows_of(picture, count):
    label = np.arange(count, dtype=np.int32) % 2
    return GateRows(Pictures(picture, count), ("a", "b"), label, np.full((count, 2), 0.5), ())


def test_every_form_is_what_its_name_says_and_shows_the_same_picture(slope):
    samples, label = reencode(rows_of(slope, 9))
    assert len(samples) == len(FORMS) * PICTURES <= 24
    assert label.tolist() == [value for row in (0, 2, 5, 8) for value in [row % 2] * len(FORMS)]
    opened = {samples.form(row): Image.open(io.BytesIO(samples.read(row))) for row in range(len(FORMS))}
    assert samples.name(1) == "picture 0 as CMYK JPEG"
    found = {form: (image.format, image.mode, image.size) for form, image in opened.items()}
    assert found == {
        "EXIF-rotated JPEG": ("JPEG", "RGB", (171, 512)),
        "CMYK JPEG": ("JPEG", "CMYK", (512, 171)),
        "16-bit PNG": ("PNG", "I;16", (512, 171)),
        "palette PNG": ("PNG", "P", (512, 171)),
        "8 x 8 pixels": ("PNG", "RGB", (8, 8)),
        "6 x 600 pixels": ("PNG", "RGB", (6, 600)),
    }
    for row in range(len(FORMS)):
        shown = np.asarray(open_picture(samples.read(row)).resize((8, 8)), dtype=float)[4].mean(axis=1)
        wanted = np.asarray(slope.resize((8, 8)), dtype=float)[4].mean(axis=1)
        assert np.abs(shown - wanted).max() < 12, samples.form(row)


def test_fewer_rows_than_that_are_taken_once(slope):
    assert len(reencode(rows_of(slope, 2))[0]) == 2 * len(FORMS)


def test_what_became_of_the_forms_is_printed_and_stands_in_the_card(image_run, quick_onnx, tmp_path, command):
    done = command("export", image_run.run.folder, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    assert "6 x 600 pixels): 24 of 24 answered alike" in done.out
    found = json.loads((tmp_path / "out" / "export.json").read_text())["parity"]["raw_forms"]
    assert found["counts"] == dict.fromkeys(FORMS, PICTURES)
    for parity in (found, found["preprocess"]):
        assert (parity["rows"], parity["agreement"], parity["problem"]) == (24, 1.0, "")
    assert found["preprocess"]["levels"] == 0
    assert found["own_preprocessing"] == {}


def test_forms_that_a_library_reads_otherwise_are_named(shared):
    card = json.loads((shared["lite0", "timm"].folder / "export.json").read_text())
    own = card["parity"]["raw_forms"]["own_preprocessing"]
    assert own.keys() == FORMS.keys()
    assert all(own[form] == PICTURES for form in ("EXIF-rotated JPEG", "CMYK JPEG", "palette PNG"))


def clipped(image):
    """As Pillow's own conversion does: 16 bits are clipped to 8."""
    return ImageOps.exif_transpose(image).convert("RGB")


def inverted(image):
    """As programs do that miss how a JPEG stores its inks."""
    picture = ImageOps.exif_transpose(image).convert("RGB")
    return ImageOps.invert(picture) if image.mode == "CMYK" else picture


@pytest.mark.parametrize(("wrong", "told"), [(clipped, "16-bit PNG"), (inverted, "CMYK JPEG")])
def test_an_export_that_reads_a_form_otherwise_is_deleted(image_run, tmp_path, monkeypatch, wrong, told):
    monkeypatch.setattr(
        reading, "decode_image", lambda raw, reads: fit_picture(wrong(Image.open(io.BytesIO(raw))), reads)
    )
    with pytest.raises(UnfreezeError, match=rf"\.png as {told} is '(red|green)' with"):
        export(image_run.run.folder, format="torchscript", output=tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_each_row_is_read_once_by_the_model_and_once_by_the_gate(
    image_run, quick_onnx, tmp_path, monkeypatch
):
    read, decoded = Counter(), []
    real_read, real_decode = FileSamples.read, pixels.decode_picture

    def counted(samples, row):
        read[samples.name(row)] += 1
        return real_read(samples, row)

    def decode(raw, reads):
        decoded.append(raw)
        return real_decode(raw, reads)

    monkeypatch.setattr(FileSamples, "read", counted)
    monkeypatch.setattr(pixels, "decode_picture", decode)
    done = export(image_run.run.folder, output=tmp_path / "out")
    assert len(read) == done.parity.rows
    assert sum(read.values()) == 2 * done.parity.rows + PICTURES
    assert len(decoded) == done.parity.rows + PICTURES * len(FORMS)


def test_of_many_validation_rows_an_even_share_is_taken(image_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEAST_ROWS", 2)
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    done = export(image_run.run.folder, format="torchscript", output=tmp_path / "out")
    assert done.parity.rows == 3


@pytest.mark.parametrize("how", ["gone", "bad"])
def test_a_row_that_only_the_model_could_read_is_named(image_run, tmp_path, monkeypatch, how):
    if how == "gone":
        monkeypatch.setattr(gate_rows, "read_raw", lambda *_: Quarantined("red/07.png", "it is gone"))
    else:

        def refuse(raw, reads):
            raise BadImage("it is bad")

        monkeypatch.setattr(reading, "decode_image", refuse)
    with pytest.raises(UnfreezeError, match=r"\.png was read by the trained model .*it is (gone|bad)"):
        export(image_run.run.folder, format="torchscript", output=tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_preprocess_graph_that_does_not_run_is_deleted(image_run, quick_onnx, tmp_path, monkeypatch):
    real = resizing.write_preprocess

    def narrowed(preprocess, folder):
        file = real(preprocess, folder)
        model = onnx.load(file)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
        onnx.save(model, file)
        return file

    monkeypatch.setattr(resizing, "write_preprocess", narrowed)
    with pytest.raises(UnfreezeError, match="does not run on 40 x 36 pixels"):
        export(image_run.run.folder, output=tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def answering(logits):
    """The network's forward pass with other logits beside the same probabilities."""
    forward = Network.forward

    def changed(self, *inputs):
        raw, probabilities = forward(self, *inputs)
        return logits(raw, self._classifier.temperature), probabilities

    return changed


@pytest.mark.parametrize(
    "logits",
    [
        lambda raw, temperature: torch.full_like(raw, 7.0),
        lambda raw, temperature: raw / temperature,
        lambda raw, temperature: 1.01 * raw,
    ],
)
def test_logits_that_are_not_the_trained_model_s_are_not_exported(text_run, tmp_path, monkeypatch, logits):
    monkeypatch.setattr(Network, "forward", answering(logits))
    with pytest.raises(UnfreezeError, match=r"differ by .* of the largest logit"):
        export(text_run.run.folder, format="torchscript", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Sure:
    """A classifier whose every answer is as good as sure, and its export, which may have forgotten the temperature."""

    def __init__(self, forgets):
        rng = np.random.default_rng(0)
        self.raw = (90 * rng.normal(size=(8, 3))).astype(np.float32)
        self.temperature, self.forgets, self.labels = 0.25, forgets, ("a", "b", "c")
        self.prepared = list(self.raw)

    def logits(self, state):
        return state.h

    def batch(self, prepared):
        return {"h": np.stack(prepared)}

    def graph(self, arrays):
        given = torch.from_numpy(arrays["h"])
        return given.numpy(), torch.softmax(
            given if self.forgets else given / self.temperature, dim=1
        ).numpy()


@pytest.mark.parametrize("forgets", [True, False])
def test_a_temperature_that_was_left_out_shows_where_every_answer_is_sure(forgets):
    sure = Sure(forgets)
    raw = torch.from_numpy(sure.raw)
    gap = (torch.softmax(raw, dim=1) - torch.softmax(raw / sure.temperature, dim=1)).abs().max()
    assert float(gap) < LARGEST_GAP
    assert (logits_gap(sure, sure, sure, calibrated=False) > LARGEST_LOGITS_GAP) == forgets


def test_few_rows_go_through_batches_of_every_size_and_the_worst_answer_counts():
    class Counted:
        labels = ("a", "b")

        def __init__(self):
            self.sizes = []

        def run(self, batch):
            self.sizes.append(len(batch))
            # Wrong in a batch of seven alone.
            share = 0.9 if len(batch) == 7 else 0.5
            return None, np.tile([share, 1 - share], (len(batch), 1))

    rows = replace(rows_of(Image.new("RGB", (2, 2)), 3), prepared=[0, 1, 2])
    counted = Counted()
    found = check(counted, rows)
    assert counted.sizes == list(SIZES)
    assert found.gap == pytest.approx(0.4)
    assert found.problem


@pytest.mark.parametrize("odd", [(1,), (7,), (1, 2, 7), (64,)])
def test_an_answer_that_is_no_number_is_not_made_good_by_a_later_one(odd):
    class Broken:
        labels = ("a", "b")

        def run(self, batch):
            return None, np.full((len(batch), 2), np.nan if len(batch) in odd else 0.5)

    rows = replace(rows_of(Image.new("RGB", (2, 2)), 3), prepared=[0, 1, 2])
    assert "no answer that is a number" in check(Broken(), rows).problem


@pytest.mark.parametrize(
    "card",
    [
        b"---\nlicense: [broken: {\n---\n# Mine\n",
        b"\xff\xfe",
        b"---\ndate: 2026-02-30\n---\n# Mine\n",
        b"---\na: " + 5_000 * b"[" + b"\n---\n# Mine\n",
    ],
    ids=["yaml", "bytes", "date", "depth"],
)
def test_a_card_that_was_edited_into_no_yaml_costs_nothing_but_itself(text_run, tmp_path, card):
    folder = tmp_path / "run"
    shutil.copytree(text_run.run.folder, folder)
    (folder / "README.md").write_bytes(card)
    done = export(folder, format="torchscript", output=tmp_path / "out")
    assert done.file.is_file()
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\n")


def test_an_exporter_that_fails_is_a_sentence(text_run, tmp_path, monkeypatch, command):
    def fails(*_, **__):
        raise TypeError("Dynamic control flow\nis not supported")

    monkeypatch.setattr(torch.export, "export", fails)
    done = command("export", text_run.run.folder, "--format", "pt2", "--output", tmp_path / "out")
    assert done.status == 1
    assert "cannot be written as pt2 (Dynamic control flow): choose another --format." in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
