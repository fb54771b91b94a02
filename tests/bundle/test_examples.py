"""The training rows that a run carries: whose they are, what is nearest, and what happens without them."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import unfreeze
from unfreeze.bundle.examples import Examples, carries_examples, read_examples, unit, write_examples
from unfreeze.bundle.folder import EXAMPLES
from unfreeze.bundle.loading import load, read_bundle
from unfreeze.errors import RequestError
from unfreeze.runtime.files import file_hash
from unfreeze.training.exampling import BYTES, MOST, choose_examples, thumbnail


def examples_of(run):
    return read_examples(run.folder, read_bundle(run.folder))


@pytest.mark.parametrize("which", ["image_run", "text_run"])
def test_a_run_carries_training_rows_with_the_features_that_its_head_reads(which, request):
    trained = request.getfixturevalue(which)
    examples, model = examples_of(trained.run), trained.run.model()
    tested = set(trained.run.test_names)
    assert len(examples.names) >= 20
    assert not tested & set(examples.names)
    if which == "image_run":
        raws = [str(trained.data / name) for name in examples.names]
        for name, shown, label in zip(examples.names, examples.shown, examples.labels, strict=True):
            assert name.startswith(model.labels[label])
            assert Image.open(io.BytesIO(shown)).size == (40, 36)
    else:
        raws = list(examples.shown)
    wanted = unit(model.features(raws))
    assert examples.features.dtype == np.float16
    assert np.abs(examples.features.astype(np.float32) - wanted).max() < 2e-3
    # Each row is nearest to itself, or to one that the network cannot tell from it.
    for place, found in enumerate(examples.nearest(wanted, 3)):
        assert found[0][1] == pytest.approx(1.0, abs=2e-3)
        assert found[0][0] == place or found[0][1] >= dict(found).get(place, -1.0)
        assert [similar for _, similar in found] == sorted((similar for _, similar in found), reverse=True)


def test_a_thawed_run_carries_the_features_of_its_own_network(photos, tmp_path, plain_torch):
    settings = {
        "backbone": "efficientnet-lite0",
        "image_size": 64,
        "strategy": "partial",
        "epochs": 1,
        "lr": 5e-3,
    }
    run = unfreeze.train(str(photos), output_dir=tmp_path / "run", **settings)
    examples = examples_of(run)
    wanted = unit(run.model().features([str(photos / name) for name in examples.names]))
    assert np.abs(examples.features.astype(np.float32) - wanted).max() < 2e-3


def test_the_choice_is_the_same_each_time_and_classes_take_turns():
    labels = np.array([0] * 900 + [1] * 30 + [2] * 900, dtype=np.int32)
    chosen = choose_examples(labels, width=100, seed=3)
    assert np.array_equal(chosen, choose_examples(labels, width=100, seed=3))
    assert not np.array_equal(chosen, choose_examples(labels, width=100, seed=4))
    assert np.array_equal(chosen, np.unique(chosen))
    assert np.bincount(labels[chosen]).tolist() == [235, 30, 235]
    wide = choose_examples(labels, width=10_000, seed=3)
    assert len(wide) < MOST
    assert len(wide) * 20_000 < BYTES
    assert len(choose_examples(labels[:3], width=100, seed=3)) == 3


def test_a_run_stays_small(image_run, text_run):
    for trained in (image_run, text_run):
        assert (trained.run.folder / EXAMPLES).stat().st_size < 2 * 2**20


def test_nearest_are_the_most_similar_and_nothing_is_like_zeros():
    given = np.array([[2.0, 0.0], [3.0, 3.0], [0.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    examples = Examples(unit(given).astype(np.float16), np.zeros(4, np.int32), tuple("abcd"), tuple("abcd"))
    ((first, second, *_),) = examples.nearest(np.array([[5.0, 0.1]], dtype=np.float32), 9)
    assert first == (0, pytest.approx(1.0, abs=1e-3))
    assert second == (1, pytest.approx(0.72, abs=1e-2))
    assert [similar for _, similar in examples.nearest(np.zeros((1, 2), np.float32), 2)[0]] == [0.0, 0.0]


def test_what_is_no_number_is_like_none():
    examples = Examples(np.ones((1, 2), np.float16), np.zeros(1, np.int32), ("a",), ("a",))
    rows = np.array([[np.nan, 1.0], [np.inf, 1.0], [1.0, 1.0]], dtype=np.float32)
    assert [len(found) for found in examples.nearest(rows, 3)] == [0, 0, 1]


def test_a_thumbnail_has_nothing_of_the_file_but_pixels():
    noise, buffer = Image.effect_noise((300, 200), 90).convert("RGB"), io.BytesIO()
    exif = Image.Exif()
    exif[0x8298] = "secret"
    noise.save(buffer, format="JPEG", comment=b"secret", exif=exif, xmp=b"secret", icc_profile=b"secret")
    assert buffer.getvalue().count(b"secret") == 4
    small = thumbnail(buffer.getvalue())
    assert Image.open(io.BytesIO(small)).size == (64, 43)
    assert b"secret" not in small


def test_any_name_and_text_is_read_as_it_was_written(text_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(text_run.run.folder, folder)
    names, shown = ("", "é\n", "x" * 300), ("", "日本語 😀", "a\0b")
    written = Examples(np.zeros((3, 4), np.float16), np.array([0, 1, 2], np.int32), names, shown)
    (folder / EXAMPLES).write_bytes(write_examples(written))
    rehash(folder)
    found = read_examples(folder, read_bundle(folder))
    assert (found.names, found.shown) == (names, shown)


def test_they_may_be_left_out_or_removed_later(mails, text_run, tmp_path, plain_torch):
    run = unfreeze.train(
        str(mails),
        output_dir=tmp_path / "run",
        strategy="feature-extraction",
        backbone="all-minilm-l6-v2",
        max_length=16,
        examples=False,
    )
    assert not (run.folder / EXAMPLES).exists()
    assert EXAMPLES not in read_bundle(run.folder).files
    assert examples_of(run) is None
    assert EXAMPLES not in (run.folder / "README.md").read_text()
    assert EXAMPLES in (text_run.run.folder / "README.md").read_text()
    assert EXAMPLES in (text_run.run.folder / "report.html").read_text()
    copy = tmp_path / "copy"
    shutil.copytree(text_run.run.folder, copy)
    (copy / EXAMPLES).unlink()
    assert not carries_examples(copy, load(copy).bundle)


def test_changed_ones_are_refused(text_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(text_run.run.folder, folder)
    data = bytearray((folder / EXAMPLES).read_bytes())
    data[-1] ^= 1
    (folder / EXAMPLES).write_bytes(data)
    with pytest.raises(RequestError, match="was changed after the run was saved"):
        load(folder)
    with pytest.raises(RequestError, match="its hash does not match"):
        read_examples(folder, read_bundle(folder))


@pytest.mark.parametrize(
    "change", ["labels", "ends", "unsigned", "floats", "short", "deep", "flat", "nan", "missing", "garbage"]
)
def test_a_file_that_contradicts_itself_is_refused(text_run, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(text_run.run.folder, folder)
    tensors = load_file(folder / EXAMPLES)
    if change == "labels":
        tensors["labels"] = tensors["labels"] + 3
    elif change == "ends":
        tensors["text.ends"] = tensors["text.ends"][::-1].copy()
    elif change == "unsigned":
        tensors["text.ends"] = tensors["text.ends"].astype(np.uint64)
        tensors["text.ends"][:2] = tensors["text.ends"][1::-1]
    elif change == "floats":
        tensors["text.ends"] = np.full(len(tensors["text.ends"]), np.nan)
    elif change == "deep":
        tensors["labels"] = tensors["labels"][:, None]
    elif change == "flat":
        tensors["labels"] = np.array(0, dtype=np.int32)
    elif change == "nan":
        tensors["features"][0, 0] = np.nan
    elif change == "short":
        tensors["features"] = tensors["features"][1:].copy()
    else:
        del tensors["names"]
    save_file(tensors, folder / EXAMPLES)
    if change == "garbage":
        (folder / EXAMPLES).write_bytes(b"no tensors")
    rehash(folder)
    with pytest.raises(RequestError, match="cannot be used"):
        read_examples(folder, read_bundle(folder))


def rehash(folder):
    bundle = json.loads((folder / "bundle.json").read_text())
    bundle["files"][EXAMPLES] = file_hash(folder / EXAMPLES)
    (folder / "bundle.json").write_text(json.dumps(bundle))
