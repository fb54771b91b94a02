"""Data that are not the same for all processes, or from one moment to the next: it is said, and nothing is trained."""

import csv
import shutil

import pytest
from PIL import Image

from unfreeze.config import TrainRequest
from unfreeze.engine.ranks import PeerLostError
from unfreeze.errors import DataError, UnfreezeError
from unfreeze.run import train
from unfreeze.training import probed
from unfreeze.training.together import follow, leading

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("plain_torch"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


@pytest.fixture
def outcomes(tmp_path, together, tiny_cnn):
    """What becomes of a training by two processes, of which each reads what is given for it."""
    settings = {"backbone": tiny_cnn, "image_size": 32, "strategy": "full", "epochs": 1, "precision": "fp32"}

    def run(*data, **changes):
        def work(ranks):
            values = settings | {"store": "off", "device": "cpu", "output_dir": tmp_path / "run"} | changes
            request = TrainRequest(data=str(data[ranks.rank]), **values)
            if not ranks.leads:
                return follow(request, ranks)
            with leading(ranks):
                return train(request, ranks=ranks).folder.name

        return together(2, tmp_path / "answers", work)

    return run


@pytest.fixture
def copies(photos, tmp_path):
    """The photographs twice, in folders of one name, as on two machines."""
    return [shutil.copytree(photos, tmp_path / place / "photos") for place in ("here", "there")]


def test_the_same_data_in_two_places_are_trained_on(outcomes, copies):
    assert outcomes(*copies) == ["run", None]


def test_another_label_is_told_by_both(outcomes, copies, tmp_path):
    tables = []
    for place, folder in enumerate(copies):
        tables.append(folder.parent / "photos.csv")
        with tables[-1].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "label"])
            for number, path in enumerate(sorted(folder.glob("*/*.png"))):
                writer.writerow([path, "red" if place and number == 0 else path.parent.name])
    first, second = outcomes(*tables)
    assert isinstance(first, UnfreezeError)
    assert "labels or parts of the data of process 1 are not those of process 0" in str(first)
    assert second is None


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: Image.new("RGB", (40, 36)).save(path), "is not what the first process has read"),
        (lambda path: path.write_bytes(b"no picture"), "could be read before and now cannot"),
    ],
    ids=["another", "none"],
)
def test_another_picture_under_the_same_name_is_named(outcomes, copies, damage, told):
    for path in copies[1].glob("green/*.png"):
        damage(path)
    first, second = outcomes(*copies)
    assert isinstance(second, DataError)
    assert told in str(second)
    assert isinstance(first, PeerLostError)


@pytest.mark.parametrize("how", ["changed", "vanished"])
@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_what_changes_between_the_frozen_pass_and_the_training_is_named(
    kind, how, photos, tmp_path, monkeypatch, tiny_cnn
):
    if kind == "pictures":
        data = shutil.copytree(photos, tmp_path / "photos")
        settings = {"backbone": tiny_cnn, "image_size": 32}
        changed = data / "red" / "00.png"
    else:
        data = tmp_path / "texts"
        for label, words in (("ham", "meeting report"), ("spam", "prize cash")):
            (data / label).mkdir(parents=True)
            for number in range(12):
                (data / label / f"{number:02}.txt").write_text(f"{words} {number}")
        settings = {"backbone": "all-minilm-l6-v2", "max_length": 8}
        changed = data / "ham" / "00.txt"
    probe = probed.probe_features

    def change_and_probe(*arguments):
        if how == "changed":
            changed.write_bytes(changed.read_bytes() + b" ")
        else:
            changed.unlink()
        return probe(*arguments)

    monkeypatch.setattr(probed, "probe_features", change_and_probe)
    request = TrainRequest(data=str(data), output_dir=tmp_path / "run", strategy="full", epochs=1, **settings)
    told = (
        "is not what it was when this training began" if how == "changed" else "could be read before and now"
    )
    with pytest.raises(DataError, match=rf"{changed.name} {told}"):
        train(request)
