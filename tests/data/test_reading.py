"""Reading in parallel: in order, each file once, bounded, and bad rows keep their place."""

from __future__ import annotations

import threading
from hashlib import blake2b

import numpy as np
import pytest

from unfreeze.data.load import load_dataset
from unfreeze.data.reading import content_hash, content_hashes, in_order, read_images, read_texts
from unfreeze.runtime.decode import Quarantined
from unfreeze.runtime.preprocess import ImagePreprocess

SQUARE = ImagePreprocess(height=4, width=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Counting:
    """Samples that count how often each row is read."""

    def __init__(self, samples):
        self.samples, self.reads, self.lock = samples, {}, threading.Lock()

    def __len__(self):
        return len(self.samples)

    def name(self, row):
        return self.samples.name(row)

    def read(self, row):
        with self.lock:
            self.reads[row] = self.reads.get(row, 0) + 1
        return self.samples.read(row)


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_come_back_in_order_and_are_read_once(class_folders, threads):
    data = load_dataset(class_folders({"a": 20, "b": 20}))
    samples = Counting(data.samples)
    rows = np.random.default_rng(0).permutation(40)
    results = list(read_images(samples, rows, SQUARE, threads=threads))
    assert [row for row, _, _ in results] == rows.tolist()
    assert samples.reads == dict.fromkeys(range(40), 1)
    for row, image, digest in results:
        assert image.shape == (4, 4, 3)
        assert digest == blake2b(data.samples.read(row), digest_size=16).digest()


def test_bad_rows_keep_their_place_and_their_name(class_folders):
    root = class_folders({"a": 5, "b": 5})
    data = load_dataset(root)
    (root / "a" / "001.png").write_bytes(b"")
    (root / "a" / "003.png").unlink()
    (root / "b" / "000.png").write_text("not a picture")
    results = list(read_images(data.samples, range(10), SQUARE, threads=2))
    bad = {row: image for row, image, _ in results if isinstance(image, Quarantined)}
    assert bad == {
        1: Quarantined("a/001.png", "the file is empty"),
        3: Quarantined("a/003.png", "cannot be read: No such file or directory"),
        5: Quarantined("b/000.png", "its content is not an image in a known format"),
    }
    assert results[1][2] == content_hash(b"")
    assert results[3][2] == bytes(16)
    assert results[5][2] == content_hash("not a picture")
    hashes, unreadable = content_hashes(data.samples)
    assert [entry.name for entry in unreadable] == ["a/003.png"]
    assert hashes.shape == (10, 16)
    assert [bytes(row) for row in hashes] == [digest for _, _, digest in results]


def test_impossible_paths_are_quarantined():
    inputs = [f"nowhere/{n}\0.png" for n in range(8)]
    data = load_dataset((inputs, ["a", "b"] * 4))
    row, image, digest = next(read_images(data.samples, [3], SQUARE, threads=1))
    assert (row, digest) == (3, bytes(16))
    assert isinstance(image, Quarantined)
    assert "embedded null" in image.reason


def test_few_results_wait_for_a_slow_consumer():
    taken = []
    items = (taken.append(item) or item for item in range(1000))
    results = in_order(lambda item: item, items, threads=2)
    assert next(results) == 0
    assert len(taken) == 16
    assert [next(results) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert len(taken) == 21
    results.close()


def test_closing_ends_the_threads():
    before = threading.active_count()
    results = in_order(lambda item: item, range(100), threads=3)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_errors_reach_the_consumer():
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [1, 0, 1], threads=2))


def test_texts_come_in_the_order_asked_for():
    data = load_dataset(([f"text {n}" for n in range(12)], ["a", "b"] * 6))
    assert read_texts(data.samples, [7, 0, 3]) == ["text 7", "text 0", "text 3"]
