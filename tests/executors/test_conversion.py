import dataclasses
import os
from pathlib import Path

import pytest
import torch

from unfreeze.executors import build_executor, conversion
from unfreeze.runtime.files import own_temporary

ALL = (1, 2, 3)


def build(backbone, folder, boundaries=ALL):
    return build_executor("openvino-fp32", backbone, boundaries=boundaries, cache_dir=folder)


@pytest.fixture
def conversions(monkeypatch):
    """How often something was converted."""
    calls = []
    convert = conversion.convert

    def counted(*args, **kwargs):
        calls.append(args[1])
        return convert(*args, **kwargs)

    monkeypatch.setattr(conversion, "convert", counted)
    return calls


def test_a_model_is_converted_once_and_read_back_with_the_same_bits(toys, tmp_path, conversions):
    batch = toys.image_batch(3)
    first = build(toys.images(), tmp_path)(batch).summaries
    second = build(toys.images(), tmp_path)(batch).summaries
    assert len(conversions) == 1
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_weights_recipe_preprocessing_and_boundaries_each_ask_for_a_model_of_their_own(toys):
    backbone = toys.images()
    others = [
        toys.images(seed=1),
        dataclasses.replace(backbone, recipe={"toy": "other"}),
        dataclasses.replace(backbone, preprocess=dataclasses.replace(backbone.preprocess, height=24)),
    ]
    keys = {conversion.model_key(one, ALL, ()) for one in [backbone, *others]}
    keys |= {conversion.model_key(backbone, (3,), ())}
    keys |= {conversion.model_key(backbone, ALL, (3,))}
    keys |= {conversion.model_key(backbone, (1, 2), ())}
    assert len(keys) == 7
    assert conversion.model_key(toys.images(), ALL, ()) in keys


@pytest.mark.parametrize("name", [conversion.GRAPH, conversion.WEIGHTS, conversion.MANIFEST])
def test_a_damaged_file_is_never_used(toys, tmp_path, conversions, name):
    batch = toys.texts(), toys.text_batch(3)
    wanted = build(toys.texts(), tmp_path)(batch[1]).summaries[-1]
    (path,) = tmp_path.glob(f"*/{name}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    got = build(toys.texts(), tmp_path)(batch[1]).summaries[-1]
    assert torch.equal(got, wanted)
    assert len(conversions) == 2
    build(toys.texts(), tmp_path)
    assert len(conversions) == 2


def test_a_place_that_cannot_be_written_costs_only_the_next_conversion(toys, tmp_path, conversions):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for _ in range(2):
        assert build(toys.texts(), blocked / "models")(toys.text_batch(2)).summaries[-1].shape == (2, 8)
    assert len(conversions) == 2


def test_nothing_half_written_stays_behind(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        conversion, "write_atomically", lambda *args: (_ for _ in ()).throw(OSError(28, "full"))
    )
    build(toys.texts(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_what_a_killed_process_was_writing_is_removed_by_the_next(toys, tmp_path):
    place = tmp_path / "left"
    gone = os.fork()
    if gone == 0:
        place.write_text(str(own_temporary(tmp_path, "key")))
        os._exit(0)
    os.waitpid(gone, 0)
    left, busy = Path(place.read_text()), own_temporary(tmp_path, "key")
    for folder in (left, busy):
        folder.mkdir()
        (folder / "model.xml").write_text("half")
    build(toys.texts(), tmp_path)
    assert not left.exists()
    assert busy.exists()
