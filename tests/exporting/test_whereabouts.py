"""The rows of the gate are found from any folder, or it is said what to do."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

import unfreeze
from unfreeze.errors import RequestError
from unfreeze.exporting.run import export

pytestmark = pytest.mark.usefixtures("plain_torch")


@pytest.fixture
def project(photos, vit_weights, tmp_path, monkeypatch):
    """A folder with data, validation data and the run that was trained on them, all named from there."""
    place = tmp_path / "project"
    shutil.copytree(photos, place / "photos")
    for picture in sorted(photos.rglob("*1.png")):
        target = place / "checked" / picture.parent.name / f"new-{picture.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(picture).rotate(180).save(target)
    monkeypatch.chdir(place)
    settings = {"backbone": f"timm:test_vit@{vit_weights}", "image_size": 32}
    unfreeze.train("photos", val="checked", output_dir="run", strategy="feature-extraction", **settings)
    return place


def test_a_run_of_relative_names_is_exported_from_anywhere_and_after_a_move(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = export(project / "run", format="torchscript")
    assert done.parity.rows > 4
    assert str(tmp_path) not in (done.file.parent / "README.md").read_text()
    shutil.rmtree(done.file.parent)
    moved = project.rename(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match=r"\(photos does not exist\): give labelled rows .* by --data"):
        export(moved / "run", format="torchscript")
    with_data = export(moved / "run", format="torchscript", data=str(moved / "photos"))
    assert not with_data.parity.problem
    shutil.rmtree(with_data.file.parent)
    monkeypatch.chdir(moved)
    assert export(Path("run"), format="torchscript").parity.rows == done.parity.rows


def test_data_of_a_notebook_is_asked_for(project, tmp_path, monkeypatch, command):
    pictures = sorted((project / "photos").rglob("*.png"))
    pair = [str(path) for path in pictures], [path.parent.name for path in pictures]
    run = unfreeze.train(
        pair, output_dir=project / "two", strategy="feature-extraction", backbone=str(project / "run")
    )
    told = command("export", run.folder, "--format", "torchscript")
    assert told.status == 2
    assert "(they were given in memory): give labelled rows" in told.err
