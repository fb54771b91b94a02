"""``predict --explain`` writes why each answer was given, and changes none of them."""

import shutil

import numpy as np
from PIL import Image


def test_pictures_lie_beside_the_page_and_a_bad_file_has_none(command, image_run, photos, tmp_path):
    (tmp_path / "=bad<b>.png").write_bytes(b"no image")
    inputs = [photos / "red" / "00.png", tmp_path / "=bad<b>.png", photos / "green" / "00.png"]
    plain = command("predict", image_run.run.folder, *inputs)
    found = command("predict", image_run.run.folder, *inputs, "--explain", tmp_path / "why")
    assert found.status == 0
    assert found.out == plain.out
    assert {path.name for path in (tmp_path / "why").iterdir()} == {
        "000000.png", "000002.png", "explanations.html",
    }  # fmt: skip
    with Image.open(tmp_path / "why" / "000000.png") as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (64, 128, 3)
    assert np.abs(pixels[:, :64] - pixels[:, 64:]).max() > 50
    page = (tmp_path / "why" / "explanations.html").read_text()
    # The two pictures, and four training rows for each.
    assert page.count("<img") == 2 + 2 * 4
    assert page.count('src="data:image/jpeg;base64,') == 2 * 4
    assert "2 answers" in page
    # A picture of the training data is most like itself.
    assert "<b>red</b>" in page.split("</section>")[0]
    assert '<span class="muted">1.00</span>' in page


def test_texts_are_marked_and_escaped(command, text_run, mails, tmp_path):
    rows = tmp_path / "new.csv"
    rows.write_text("text\nclaim your <script>prize\n")
    found = command("predict", text_run.run.folder, rows, "--column", "text", "--explain", tmp_path / "why")
    assert found.status == 0
    page = (tmp_path / "why" / "explanations.html").read_text()
    assert "<mark" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<blockquote>") == 4


def test_without_training_rows_nothing_is_said_of_them(command, image_run, photos, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(image_run.run.folder, run)
    (run / "examples.safetensors").unlink()
    found = command("predict", run, photos / "red" / "00.png", "--explain", tmp_path / "why")
    assert found.status == 0
    page = (tmp_path / "why" / "explanations.html").read_text()
    assert page.count("<img") == 1
    assert "training" not in page


def test_what_cannot_be_explained_is_a_sentence(command, image_run, image_onnx, photos, tmp_path):
    photo = photos / "red" / "00.png"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for run, folder, says in (
        (image_onnx.file, "new", "exported file"),
        (image_run.run.folder, "full", "is not empty"),
        (image_run.run.folder, "full/x", "cannot be written"),
    ):
        found = command("predict", run, photo, "--explain", tmp_path / folder)
        assert found.status == 2
        assert says in found.err
        assert "Traceback" not in found.err
