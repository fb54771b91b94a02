import json
import subprocess
import sys
from dataclasses import replace

import filelock
import numpy as np
import pytest

from unfreeze import contracts
from unfreeze.backbones import with_truncation
from unfreeze.engine import store as store_module
from unfreeze.engine import store_files
from unfreeze.engine.store import FeatureStore, open_store, store_key
from unfreeze.errors import UnfreezeError
from unfreeze.executors.conversion import model_key
from unfreeze.runtime.files import cache_root

KEY = "k"
BOUNDARIES = (1, 3)


def digests_of(*numbers):
    return np.array([[number % 256, number // 256] + [7] * 14 for number in numbers], dtype=np.uint8)


def features_of(*numbers, scale=1.0):
    rng = [np.random.default_rng(number) for number in numbers]
    return [np.stack([r.normal(size=width) * scale for r in rng]).astype(np.float32) for width in (2, 5)]


def half(array):
    return array.astype(np.float16).astype(np.float32)


@pytest.fixture
def fill(tmp_path):
    def filled(*numbers, scale=1.0):
        with FeatureStore.open(KEY, BOUNDARIES, tmp_path) as store:
            store.append(digests_of(*numbers), features_of(*numbers, scale=scale))
        return FeatureStore.open(KEY, BOUNDARIES, tmp_path)

    return filled


def test_what_was_kept_comes_back_rounded_to_half_precision_in_any_order(fill):
    store = fill(1, 2, 3, 300)
    assert len(store) == 4
    for boundary, wanted in zip(BOUNDARIES, features_of(300, 1, 1, 2), strict=True):
        got = store.read(digests_of(300, 1, 1, 2), boundary)
        assert got.dtype == np.float32
        assert np.array_equal(got, half(wanted))
        assert not np.array_equal(got, wanted)


def test_numbers_are_the_same_before_and_after_they_reach_the_disk(tmp_path):
    store = FeatureStore.open(KEY, BOUNDARIES, tmp_path / "a")
    blocked = tmp_path / "file"
    blocked.write_text("")
    memory = FeatureStore.open(KEY, BOUNDARIES, blocked)
    for one in (store, memory):
        one.append(digests_of(1, 2), features_of(1, 2))
    assert np.array_equal(store.read(digests_of(2), 3), memory.read(digests_of(2), 3))


def test_missing_names_each_unknown_content_once(fill):
    store = fill(1, 2)
    assert store.missing(digests_of(5, 1, 6, 5, 2, 6)).tolist() == [0, 2]
    assert store.missing(digests_of(2, 1)).tolist() == []


def test_reading_what_is_not_there_is_an_error(fill):
    with pytest.raises(UnfreezeError, match="run again"):
        fill(1).read(digests_of(1, 9), 1)


def test_features_of_another_width_are_refused(fill):
    store = fill(1)
    with pytest.raises(UnfreezeError, match="do not belong"):
        store.append(digests_of(2), [np.zeros((1, 2)), np.zeros((1, 4))])


def test_a_number_beyond_half_precision_widens_the_store_and_loses_nothing(fill, tmp_path):
    fill(1, 2).close()
    store = fill(3, scale=1e6)
    assert store.dtype == "float32"
    assert np.array_equal(store.read(digests_of(3), 3), features_of(3, scale=1e6)[1])
    assert np.array_equal(store.read(digests_of(1, 2), 3), half(features_of(1, 2)[1]))
    assert store.missing(digests_of(1, 2, 3)).tolist() == []
    assert sorted(path.suffix for path in (tmp_path / KEY).glob("rows.*")) == [".float32"]
    with store:
        store.append(digests_of(4), features_of(4))
    again = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    assert np.array_equal(again.read(digests_of(4), 1), features_of(4)[0])


def test_the_largest_half_does_not_widen(tmp_path):
    with FeatureStore.open(KEY, (1,), tmp_path) as store:
        store.append(digests_of(1), [np.array([[65504.0, -65504.0]])])
        assert store.dtype == "float16"
        assert store.read(digests_of(1), 1).tolist() == [[65504.0, -65504.0]]
        store.append(digests_of(2), [np.array([[65505.0, 0.0]])])
        assert store.read(digests_of(2), 1).tolist() == [[65505.0, 0.0]]


def test_a_torn_tail_is_ignored_and_cut_off_by_the_next_writer(fill, tmp_path):
    fill(1, 2).close()
    for name in ("rows.float16", "index.float16"):
        with (tmp_path / KEY / name).open("ab") as file:
            file.write(b"rows that nothing counts" * 9)
    assert len(FeatureStore.open(KEY, BOUNDARIES, tmp_path)) == 2
    store = fill(3)
    assert np.array_equal(store.read(digests_of(3, 1), 3), half(features_of(3, 1)[1]))
    assert store.missing(digests_of(1, 2, 3)).tolist() == []
    assert (tmp_path / KEY / "rows.float16").stat().st_size == 3 * 7 * 2
    assert store.notes == ()


def test_rows_count_only_once_the_meta_names_them(fill, tmp_path, monkeypatch):
    fill(1).close()
    store = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    store.append(digests_of(2), features_of(2))
    with monkeypatch.context() as patch:
        patch.setattr(
            store_files, "write_atomically", lambda *args: (_ for _ in ()).throw(OSError(28, "full"))
        )
        store.flush()
    assert "full" in store.notes[0]
    assert np.array_equal(store.read(digests_of(2, 1), 3), half(features_of(2, 1)[1]))
    later = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    assert later.missing(digests_of(1, 2)).tolist() == [1]


KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from unfreeze.engine import store, store_files
def die(path, content):
    os._exit(9)
one = store.FeatureStore.open("k", (1, 3), Path(sys.argv[1]))
one.append(np.full((1, 16), 9, dtype=np.uint8), [np.ones((1, 2)), np.ones((1, 5))])
one.flush()
store_files.write_atomically = die
one.append(np.full((1, 16), 8, dtype=np.uint8), [np.ones((1, 2)), np.ones((1, 5))])
one.flush()
"""


def test_a_process_that_dies_while_writing_leaves_what_it_had_committed(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == 9
    store = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    both = np.array([[9] * 16, [8] * 16], dtype=np.uint8)
    assert store.missing(both).tolist() == [1]
    store.append(both[1:], features_of(8))
    store.flush()
    assert store.notes == ()
    assert store.read(both[:1], 3).tolist() == [[1.0] * 5]


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def set_meta(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGES = {
    "no json": lambda folder: (folder / "meta.json").write_text("{"),
    "no object": lambda folder: (folder / "meta.json").write_text("[]"),
    "a field less": lambda folder: (folder / "meta.json").write_text('{"key": "k"}'),
    "another version": lambda folder: set_meta(folder / "meta.json", version=0),
    "another type": lambda folder: set_meta(folder / "meta.json", dtype="int8"),
    "a larger count": lambda folder: set_meta(folder / "meta.json", count=3),
    "another key": lambda folder: set_meta(folder / "meta.json", key="other"),
    "other boundaries": lambda folder: set_meta(folder / "meta.json", boundaries=[1, 2]),
    "other widths": lambda folder: set_meta(folder / "meta.json", widths=[5, 2]),
    "a changed index": lambda folder: flip(folder / "index.float16", 3),
    "a changed checksum": lambda folder: flip(folder / "index.float16", 17),
    "a changed number": lambda folder: flip(folder / "rows.float16", 20),
    "a missing file": lambda folder: (folder / "rows.float16").unlink(),
    "a missing index": lambda folder: (folder / "index.float16").unlink(),
    "a short file": lambda folder: (folder / "rows.float16").write_bytes(b"short"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_computed_again_and_never_served(fill, tmp_path, damage):
    fill(1, 2).close()
    DAMAGES[damage](tmp_path / KEY)
    store = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    assert store.missing(digests_of(1, 2)).tolist() == [0, 1]
    assert len(store.notes) == 1
    assert "computed again" in store.notes[0]
    store.append(digests_of(1, 2), features_of(1, 2))
    store.close()
    rebuilt = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    assert rebuilt.notes == ()
    assert rebuilt.missing(digests_of(1, 2)).tolist() == []
    assert np.array_equal(rebuilt.read(digests_of(2, 1), 3), half(features_of(2, 1)[1]))


def test_rows_that_another_process_has_mapped_stay_when_the_store_begins_again(fill, tmp_path):
    fill(1, 2).close()
    reader = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    assert len(reader.missing(digests_of(1, 2))) == 0
    before = (tmp_path / KEY / "rows.float16").stat()
    with (tmp_path / KEY / "index.float16").open("r+b") as file:
        file.write(b"\xff\xff")
    other = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    other.append(digests_of(5), features_of(5))
    other.close()
    # Cut in place, the mapping would end the reader with a bus error.
    assert (tmp_path / KEY / "rows.float16").stat().st_ino != before.st_ino
    assert np.array_equal(reader.read(digests_of(2, 1), 3), half(features_of(2, 1)[1]))


def test_a_full_disk_is_a_note_and_the_rows_stay(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "append_committed", full)
    store = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    for number in (1, 2):
        store.append(digests_of(number), features_of(number))
        store.flush()
    assert len(store.notes) == 1
    assert "No space left on device" in store.notes[0]
    assert np.array_equal(store.read(digests_of(2, 1), 1), half(features_of(2, 1)[0]))


def test_a_place_that_cannot_be_written_is_a_note(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = FeatureStore.open(KEY, BOUNDARIES, blocked)
    store.append(digests_of(1), features_of(1))
    store.close()
    assert "memory only" in store.notes[0]
    assert "UNFREEZE_CACHE" in store.notes[0]


def test_two_writers_share_a_store_and_keep_each_content_once(tmp_path):
    first = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    second = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    first.append(digests_of(1, 2), features_of(1, 2))
    first.flush()
    second.append(digests_of(2, 3), features_of(2, 3))
    second.flush()
    first.append(digests_of(4), features_of(4))
    first.flush()
    assert len(first) == 4
    assert len(FeatureStore.open(KEY, BOUNDARIES, tmp_path)) == 4
    assert np.array_equal(first.read(digests_of(4, 3, 2, 1), 3), half(features_of(4, 3, 2, 1)[1]))


def test_a_reader_does_not_see_what_is_not_committed(tmp_path):
    writer = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    writer.append(digests_of(1), features_of(1))
    assert len(FeatureStore.open(KEY, BOUNDARIES, tmp_path)) == 0
    writer.flush()
    assert len(FeatureStore.open(KEY, BOUNDARIES, tmp_path)) == 1


def test_a_lock_that_is_never_released_does_not_stop_the_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.05)
    store = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    store.append(digests_of(1), features_of(1))
    with filelock.FileLock(tmp_path / KEY / "lock"):
        store.flush()
    assert "memory only" in store.notes[0]
    assert np.array_equal(store.read(digests_of(1), 1), half(features_of(1)[0]))


def test_a_store_that_is_removed_while_in_use_still_answers(tmp_path):
    store = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    store.append(digests_of(1), features_of(1))
    store.flush()
    (tmp_path / KEY / "meta.json").unlink()
    store.append(digests_of(2), features_of(2))
    store.flush()
    assert "removed" in store.notes[0]
    assert np.array_equal(store.read(digests_of(1, 2), 1), half(features_of(1, 2)[0]))


def test_groups_reach_the_disk_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "GROUP_BYTES", 4 * 7 * 2)
    store = FeatureStore.open(KEY, BOUNDARIES, tmp_path)
    for number in range(5):
        store.append(digests_of(number), features_of(number))
    assert len(FeatureStore.open(KEY, BOUNDARIES, tmp_path)) == 4
    monkeypatch.setattr(store_module, "GROUP_SECONDS", 0.0)
    store.append(digests_of(5), features_of(5))
    assert len(FeatureStore.open(KEY, BOUNDARIES, tmp_path)) == 6


def test_the_key_changes_with_all_that_decides_a_feature(toys):
    backbone = toys.images()
    keys = {
        store_key(backbone, (1, 2)),
        store_key(backbone, (1, 3)),
        store_key(backbone, (1, 2), precision="bf16"),
        store_key(backbone, (1, 2), view="flip"),
        store_key(toys.images(seed=1), (1, 2)),
        store_key(toys.texts(), (1, 2)),
        store_key(with_truncation(toys.texts(), "head+tail"), (1, 2)),
    }
    assert len(keys) == 7
    assert store_key(toys.images(), (1, 2)) in keys


@pytest.mark.parametrize("key_of", [store_key, lambda backbone, at: model_key(backbone, at, ())])
def test_a_key_names_the_library_that_is_installed_and_not_the_one_of_a_run(toys, monkeypatch, key_of):
    def came_from(version):
        backbone = toys.images()
        return replace(backbone, recipe={**backbone.recipe, "timm": version})

    assert key_of(came_from("0.1"), (1, 2)) == key_of(came_from("0.2"), (1, 2))
    before = key_of(came_from("0.1"), (1, 2))
    monkeypatch.setattr(contracts, "version", lambda name: "99.0")
    assert key_of(came_from("0.1"), (1, 2)) != before


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("UNFREEZE_CACHE", raising=False)
    assert cache_root() == tmp_path / "unfreeze"
    monkeypatch.setenv("UNFREEZE_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.delenv("UNFREEZE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root().parts[-2:] == (".cache", "unfreeze")


def test_off_means_no_store(toys, counting, tmp_path):
    backbone = toys.images()
    executor = counting(backbone, (1, 2, 3))
    assert open_store(backbone, executor, (1, 2, 3), use="off") is None
    assert len(open_store(backbone, executor, (1, 2, 3), root=tmp_path)) == 0
