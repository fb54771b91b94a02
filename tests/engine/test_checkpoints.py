"""A checkpoint is whole or it does not exist, and it belongs to one run."""

import errno
import json
import os
import shutil

import pytest
import torch

from unfreeze.engine import checkpoints as module
from unfreeze.engine.checkpoints import Checkpoint, Checkpoints, Position
from unfreeze.errors import RequestError, UnfreezeError

IDENTITY = {"--val": "none", "data": "d1", "--backbone": "b1"}


def checkpoint(phase=0, epoch=0, step=0):
    value = float(100 * phase + 10 * epoch + step)
    tensors = {
        "live.a.b": torch.full((2, 3), value),
        "optimizer.step.a.b": torch.tensor(value),
        "live.norm.num_batches_tracked": torch.tensor(7),
        "live.mask": torch.tensor([True, False]),
        "live.turned": torch.arange(6.0).reshape(2, 3).t(),
    }
    return Checkpoint(Position(phase, epoch, step, 5), tensors, {"loss": 0.1 + 0.2, "best": [value, None]})


@pytest.fixture
def saved(tmp_path):
    found = Checkpoints(tmp_path / "checkpoints", IDENTITY)
    found.save(checkpoint(0, 1))
    found.save(checkpoint(0, 2))
    return found


def folders(tmp_path):
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def test_what_was_saved_comes_back_to_the_bit(tmp_path, saved):
    found, wanted = saved.newest(), checkpoint(0, 2)
    assert found.position == wanted.position
    assert found.numbers == wanted.numbers
    assert found.tensors.keys() == wanted.tensors.keys()
    for name, tensor in wanted.tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_nothing_saved_is_nothing_found(tmp_path):
    assert Checkpoints(tmp_path / "none", IDENTITY).newest() is None


def test_two_are_kept_and_a_later_phase_is_newer_than_any_epoch(tmp_path, saved):
    saved.save(checkpoint(0, 12))
    saved.save(checkpoint(1, 0, 3))
    assert len(folders(tmp_path)) == 2
    assert saved.newest().position == Position(1, 0, 3, 5)


def test_what_stands_later_than_a_training_that_went_back_is_forgotten(tmp_path, saved):
    saved.save(checkpoint(0, 3, 4))
    saved.save(checkpoint(0, 3, 0), diverged=True)
    assert saved.newest().position == Position(0, 3, 0, 5)
    assert len(folders(tmp_path)) == 2


def damage_tensors(folder):
    data = bytearray((folder / "tensors.safetensors").read_bytes())
    data[-3] ^= 1
    (folder / "tensors.safetensors").write_bytes(data)


def damage_numbers(folder):
    values = json.loads((folder / "manifest.json").read_text())
    values["numbers"]["best"] = [0.0, None]
    (folder / "manifest.json").write_text(json.dumps(values))


def piped(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "torn tensors": lambda folder: os.truncate(folder / "tensors.safetensors", 40),
    "changed tensors": damage_tensors,
    "no tensors": lambda folder: (folder / "tensors.safetensors").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "torn manifest": lambda folder: os.truncate(folder / "manifest.json", 30),
    "changed numbers": damage_numbers,
    "another manifest": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "a pipe for a manifest": lambda folder: piped(folder / "manifest.json"),
    "a pipe for tensors": lambda folder: piped(folder / "tensors.safetensors"),
    "empty": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_passed_over(tmp_path, saved, damage):
    newest = tmp_path / "checkpoints" / folders(tmp_path)[-1]
    damage(newest)
    assert saved.newest().position == Position(0, 1, 0, 5)
    saved.save(checkpoint(0, 2))
    assert saved.newest().position == Position(0, 2, 0, 5)


def test_an_unfinished_folder_is_no_checkpoint(tmp_path, saved):
    newest = tmp_path / "checkpoints" / folders(tmp_path)[-1]
    newest.rename(newest.with_name(f".{newest.name}.1.partial"))
    assert saved.newest().position == Position(0, 1, 0, 5)
    saved.save(checkpoint(0, 3))
    assert not any(name.startswith(".") for name in folders(tmp_path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": "d2"}, "other data[.]"),
        ({"--backbone": "b2"}, "another --backbone [(]b1, now b2[)]"),
        ({"data": "d2", "--backbone": "b2"}, "other data[.]"),
        ({"data": "d2", "--val": "0.2"}, "another --val [(]none, now 0.2[)]"),
    ],
    ids=str,
)
def test_another_run_is_refused_by_the_entry_that_differs(tmp_path, saved, change, told):
    other = Checkpoints(tmp_path / "checkpoints", IDENTITY | change)
    with pytest.raises(RequestError, match=f"--resume: the checkpoint was made with {told}"):
        other.newest()


def test_data_may_be_named_in_another_way(tmp_path, saved):
    other = Checkpoints(tmp_path / "checkpoints", IDENTITY | {"--val": "0.15"})
    assert other.newest().position == saved.newest().position


def test_a_checkpoint_of_another_version_is_told_as_such(tmp_path, saved):
    later = Checkpoints(tmp_path / "checkpoints", IDENTITY | {"--views": "3"})
    with pytest.raises(RequestError, match=r"another version .* does not say which --views"):
        later.newest()


def test_a_training_without_a_checkpoint_yet_is_known_too(tmp_path, saved):
    saved.begin()
    assert saved.newest() is None
    with pytest.raises(RequestError, match=r"other data\."):
        Checkpoints(tmp_path / "checkpoints", IDENTITY | {"data": "d2"}).newest()


def test_only_after_a_loss_that_was_no_number_may_the_rate_be_another(tmp_path, saved):
    first, lower = (Checkpoints(tmp_path / "checkpoints", IDENTITY | {"--lr": rate}) for rate in ("1", "0.3"))
    first.save(checkpoint(0, 3))
    with pytest.raises(RequestError, match="another --lr"):
        lower.newest()
    first.save(checkpoint(0, 4), diverged=True)
    assert lower.newest().position == Position(0, 4, 0, 5)
    with pytest.raises(RequestError, match="other data"):
        Checkpoints(tmp_path / "checkpoints", IDENTITY | {"--lr": "1", "data": "d2"}).newest()


@pytest.mark.parametrize("call", [1, 2])
def test_a_full_disk_leaves_the_last_good_one(tmp_path, saved, monkeypatch, call):
    calls = []
    write = module.write_atomically

    def full(path, content):
        calls.append(path)
        if len(calls) == call:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(UnfreezeError, match=r"No space left on device.*--resume"):
        saved.save(checkpoint(0, 3))
    assert saved.newest().position == Position(0, 2, 0, 5)
    assert not any(name.startswith(".") for name in folders(tmp_path))


def test_a_folder_that_went_away_is_a_sentence(tmp_path, saved):
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UnfreezeError, match=r"The checkpoint in .* could not be written .*--resume"):
        saved.save(checkpoint(0, 3))


def test_a_finished_run_leaves_nothing(tmp_path, saved):
    saved.clear()
    assert not (tmp_path / "checkpoints").exists()
