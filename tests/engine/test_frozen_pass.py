import threading

import numpy as np
import pytest
import torch

from unfreeze.contracts import Passed
from unfreeze.data.reading import content_hashes
from unfreeze.engine import frozen_pass
from unfreeze.engine.batches import CHANGED, ahead, golden_batch, pad_texts, read_batches
from unfreeze.engine.frozen_pass import compute_features, open_store
from unfreeze.engine.threads import reading_threads
from unfreeze.errors import UnfreezeError

ALL = (1, 2, 3)
TEXTS = ["a", "b c d", "e f g h i j k l m n o p", "q", "r s", "t u v w x y z a b c d e f", "q q q"]


@pytest.fixture
def images(toys):
    return toys.images(), toys.dataset([toys.picture(seed) for seed in range(7)], "image")


def test_a_text_that_is_no_longer_what_it_was_is_left_out(toys):
    backbone, dataset = toys.texts(), toys.dataset(TEXTS, "text")
    expected, _ = content_hashes(dataset.samples, threads=1)
    expected[3] ^= 1
    bad = []
    settings = {"batch_size": 3, "threads": 1, "bad": bad, "expected": expected}
    read = list(read_batches(dataset, backbone, np.arange(len(TEXTS)), **settings))
    assert [(entry.row, entry.reason) for entry in bad] == [(3, CHANGED)]
    places = np.concatenate([batch.positions for batch in read])
    assert sorted(places.tolist()) == [0, 1, 2, 4, 5, 6]
    digests = np.concatenate([batch.digests for batch in read])
    assert (digests == expected[places]).all()


def run(dataset, backbone, executor, **options):
    settings = {"rows": np.arange(len(dataset)), "boundaries": ALL, "batch_size": 3, "threads": 2} | options
    return compute_features(dataset, backbone, executor=executor, **settings)


def half(array):
    return array.astype(np.float16).astype(np.float32)


def one_by_one(dataset, backbone, counting, rows):
    executor = counting(backbone, ALL)
    batches = [executor(golden_batch(dataset, backbone, [row])).summaries for row in rows]
    return {
        boundary: np.concatenate([summaries[index].numpy() for summaries in batches])
        for index, boundary in enumerate(ALL)
    }


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_features_are_those_of_each_row_alone_in_the_order_asked_for(
    toys, counting, tmp_path, modality, kept
):
    if modality == "image":
        backbone, dataset = toys.images(), toys.dataset([toys.picture(seed) for seed in range(7)], "image")
    else:
        backbone, dataset = toys.texts(), toys.dataset(TEXTS, "text")
    rows = np.array([5, 0, 6, 2])
    executor = counting(backbone, ALL)
    store = open_store(backbone, executor, ALL, root=tmp_path) if kept else None
    features = run(dataset, backbone, executor, rows=rows, store=store)
    wanted = one_by_one(dataset, backbone, counting, rows)
    assert features.rows.tolist() == rows.tolist()
    assert (features.computed, features.reused, features.quarantined) == (4, 0, ())
    for boundary in ALL:
        assert features.arrays[boundary].dtype == np.float32
        expected = half(wanted[boundary]) if kept else wanted[boundary]
        # One unit of float16 apart where two orders of summation round to different sides.
        assert np.abs(features.arrays[boundary] - expected).max() < (1e-3 if kept else 1e-6)
        assert np.array_equal(half(features.arrays[boundary]), features.arrays[boundary]) == kept


def test_a_second_pass_computes_nothing_decodes_nothing_and_gives_the_same_bits(
    images, counting, tmp_path, monkeypatch
):
    backbone, dataset = images
    executor = counting(backbone, ALL)
    first = run(dataset, backbone, executor, store=open_store(backbone, executor, ALL, root=tmp_path))
    executor.sizes.clear()
    monkeypatch.setattr(frozen_pass, "read_batches", None)
    second = run(dataset, backbone, executor, store=open_store(backbone, executor, ALL, root=tmp_path))
    assert executor.sizes == []
    assert (first.computed, first.reused) == (7, 0)
    assert (second.computed, second.reused) == (0, 7)
    for boundary in ALL:
        assert np.array_equal(first.arrays[boundary], second.arrays[boundary])


def test_new_rows_compute_only_themselves(images, counting, tmp_path):
    backbone, dataset = images
    executor = counting(backbone, ALL)
    run(
        dataset,
        backbone,
        executor,
        rows=[0, 1, 2, 3],
        store=open_store(backbone, executor, ALL, root=tmp_path),
    )
    executor.sizes.clear()
    features = run(dataset, backbone, executor, store=open_store(backbone, executor, ALL, root=tmp_path))
    assert executor.sizes == [3]
    assert (features.computed, features.reused) == (3, 4)


def test_equal_contents_are_computed_once(toys, counting, tmp_path):
    backbone = toys.images()
    dataset = toys.dataset([toys.picture(seed) for seed in (1, 2, 1, 1, 2)], "image")
    executor = counting(backbone, ALL)
    features = run(dataset, backbone, executor, store=open_store(backbone, executor, ALL, root=tmp_path))
    assert executor.sizes == [2]
    assert (features.computed, features.reused) == (2, 3)
    assert np.array_equal(features.arrays[3][0], features.arrays[3][2])
    assert not np.array_equal(features.arrays[3][0], features.arrays[3][1])


def test_boundaries_may_be_a_part_of_what_the_executor_and_the_store_hold(images, counting, tmp_path):
    backbone, dataset = images
    executor = counting(backbone, ALL)
    whole = run(dataset, backbone, executor)
    part = run(dataset, backbone, executor, boundaries=(1, 3))
    assert list(part.arrays) == [1, 3]
    assert np.array_equal(part.arrays[3], whole.arrays[3])
    stored = run(
        dataset, backbone, executor, boundaries=(2,), store=open_store(backbone, executor, ALL, root=tmp_path)
    )
    assert np.array_equal(stored.arrays[2], half(whole.arrays[2]))


@pytest.mark.parametrize("kept", [False, True])
def test_bad_rows_are_named_and_never_replaced_by_their_neighbours(toys, counting, tmp_path, kept):
    backbone = toys.images()
    contents = [toys.picture(seed) for seed in range(8)]
    broken = contents[0][:60]
    contents[1] = contents[6] = broken
    contents[3] = None
    dataset = toys.dataset(contents, "image")
    executor = counting(backbone, ALL)
    store = open_store(backbone, executor, ALL, root=tmp_path) if kept else None
    features = run(dataset, backbone, executor, store=store)
    assert [(bad.row, bad.name) for bad in features.quarantined] == [(1, "row-1"), (3, "row-3"), (6, "row-6")]
    assert "No such file" in features.quarantined[1].reason
    assert features.quarantined[0].reason == features.quarantined[2].reason
    assert features.rows.tolist() == [0, 2, 4, 5, 7]
    wanted = one_by_one(dataset, backbone, counting, features.rows)
    assert np.abs(features.arrays[3] - wanted[3]).max() < 1e-3
    assert (features.computed, features.reused) == (5, 0)


@pytest.mark.parametrize("kept", [False, True])
def test_a_pass_without_a_readable_row_still_knows_its_widths(toys, counting, tmp_path, kept):
    backbone = toys.images()
    executor = counting(backbone, ALL)
    dataset = toys.dataset([b"", None], "image")
    store = open_store(backbone, executor, ALL, root=tmp_path) if kept else None
    features = run(dataset, backbone, executor, store=store)
    assert [features.arrays[boundary].shape for boundary in ALL] == [(0, 4), (0, 6), (0, 6)]
    assert len(features.quarantined) == 2
    texts = run(toys.dataset([None], "text"), toys.texts(), counting(toys.texts(), ALL))
    assert texts.arrays[3].shape == (0, 8)
    assert texts.quarantined[0].name == "row-0"


def test_an_image_that_changes_between_hashing_and_decoding_is_not_stored_under_the_old_hash(
    images, toys, counting, tmp_path, monkeypatch
):
    backbone, dataset = images
    hashes = frozen_pass.content_hashes

    def then_change(samples, *, threads):
        result = hashes(samples, threads=threads)
        dataset.samples.contents[2] = toys.picture(99)
        return result

    monkeypatch.setattr(frozen_pass, "content_hashes", then_change)
    executor = counting(backbone, ALL)
    features = run(dataset, backbone, executor, store=open_store(backbone, executor, ALL, root=tmp_path))
    assert [bad.row for bad in features.quarantined] == [2]
    assert "changed" in features.quarantined[0].reason


def test_each_image_is_read_once_without_a_store_and_twice_with_one(images, counting, tmp_path):
    backbone, dataset = images
    executor = counting(backbone, ALL)
    run(dataset, backbone, executor)
    assert sorted(dataset.samples.reads) == list(range(7))
    dataset.samples.reads.clear()
    run(dataset, backbone, executor, store=open_store(backbone, executor, ALL, root=tmp_path))
    assert sorted(dataset.samples.reads) == sorted([*range(7), *range(7)])
    dataset.samples.reads.clear()
    run(dataset, backbone, executor, store=open_store(backbone, executor, ALL, root=tmp_path))
    assert sorted(dataset.samples.reads) == list(range(7))


def test_texts_are_padded_to_their_own_batch_and_the_longest_come_first(toys, counting):
    seen = []
    backbone = toys.texts()

    class Watching(counting):
        def __call__(self, batch):
            seen.append((tuple(batch.h.shape), batch.mask.sum(dim=1).tolist()))
            return super().__call__(batch)

    run(toys.dataset(TEXTS, "text"), backbone, Watching(backbone, ALL), batch_size=3)
    assert seen == [((3, 16), [13, 12, 3]), ((3, 8), [3, 2, 1]), ((1, 8), [1])]


def test_padding_is_on_the_right_and_masked():
    state = pad_texts([np.array([5, 6, 7]), np.arange(9)], 0, most=24)
    assert state.h.shape == (2, 16)
    assert state.h[0].tolist() == [5, 6, 7] + [0] * 13
    assert state.mask.sum(dim=1).tolist() == [3, 9]
    assert state.mask[1, :9].all()
    assert state.full is False
    # Of as many tokens as a batch is wide, nothing is padded.
    assert pad_texts([np.arange(8), np.arange(8)], 0, most=24).full is True
    assert pad_texts([np.arange(9), np.arange(9)], 0, most=24).full is False


def test_numbers_that_are_not_finite_stop_the_pass_and_name_the_row(images, counting):
    backbone, dataset = images

    class Broken(counting):
        def __call__(self, batch):
            summaries = super().__call__(batch).summaries
            summaries[1][1, 0] = float("nan")
            return Passed(summaries)

    with pytest.raises(UnfreezeError, match="not finite for row-4"):
        run(dataset, backbone, Broken(backbone, ALL), rows=[3, 4, 5])


def test_progress_counts_the_rows_that_are_computed(images, counting, tmp_path):
    backbone, dataset = images
    executor = counting(backbone, ALL)
    said = []
    run(dataset, backbone, executor, progress=lambda done, total: said.append((done, total)))
    assert said == [(3, 7), (6, 7), (7, 7)]
    run(dataset, backbone, executor, rows=[0, 1], store=open_store(backbone, executor, ALL, root=tmp_path))
    said.clear()
    store = open_store(backbone, executor, ALL, root=tmp_path)
    run(dataset, backbone, executor, store=store, progress=lambda done, total: said.append((done, total)))
    assert said == [(3, 5), (5, 5)]


def test_a_failing_executor_leaves_no_thread_behind(toys, counting):
    backbone = toys.images()
    dataset = toys.dataset([toys.picture(seed) for seed in range(40)], "image")

    class Failing(counting):
        def __call__(self, batch):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(dataset, backbone, Failing(backbone, ALL), batch_size=1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unfreeze")]
    assert len(dataset.samples.reads) < 40


def test_a_producer_stays_a_bounded_number_of_items_ahead():
    made = []
    gate = threading.Semaphore(0)

    def produce():
        for item in range(20):
            made.append(item)
            gate.release()
            yield item

    items = ahead(produce(), depth=2)
    assert next(items) == 0
    # One was taken, two wait, one is in the producer's hand.
    for _ in range(4):
        assert gate.acquire(timeout=5)
    assert not gate.acquire(timeout=0.3)
    assert made == [0, 1, 2, 3]
    assert list(items) == list(range(1, 20))


def test_an_error_of_the_producer_arrives_at_the_consumer():
    def produce():
        yield 1
        raise OSError("gone")

    items = ahead(produce())
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_large_features_are_mapped_from_a_file_that_has_no_name(images, counting, monkeypatch):
    backbone, dataset = images
    plain = run(dataset, backbone, counting(backbone, ALL))
    monkeypatch.setattr("unfreeze.arrays.MEMORY_BYTES", 0)
    mapped = run(dataset, backbone, counting(backbone, ALL))
    for boundary in ALL:
        assert isinstance(mapped.arrays[boundary], np.memmap)
        assert np.array_equal(plain.arrays[boundary], mapped.arrays[boundary])


def test_a_golden_batch_keeps_the_order_and_refuses_bad_rows(toys):
    texts = golden_batch(toys.dataset(TEXTS, "text"), toys.texts(), [3, 2, 1])
    assert texts.mask.sum(dim=1).tolist() == [1, 12, 3]
    images = toys.dataset([toys.picture(0), b"no image"], "image")
    assert golden_batch(images, toys.images(), [0]).h.dtype == torch.uint8
    with pytest.raises(UnfreezeError, match="row-1 cannot be read"):
        golden_batch(images, toys.images(), [0, 1])


def test_decoders_leave_the_cores_to_the_processor_and_feed_an_accelerator_with_all():
    assert [reading_threads("cpu", cores) for cores in (1, 2, 8, 64)] == [1, 1, 4, 16]
    assert [reading_threads("cuda:0", cores) for cores in (1, 2, 8, 64)] == [1, 1, 7, 16]
    assert reading_threads("cpu") >= 1
    assert [reading_threads(None, cores) for cores in (1, 2, 8, 64)] == [1, 2, 8, 16]


def test_what_a_pass_waits_for_is_part_of_what_it_takes(images, counting, tmp_path):
    backbone, dataset = images
    executor = counting(backbone, ALL)
    store = open_store(backbone, executor, ALL, root=tmp_path)
    for passed in (
        run(dataset, backbone, executor, store=store),
        run(dataset, backbone, executor, store=store),
    ):
        assert 0 < passed.seconds_read < passed.seconds
        assert 0 <= passed.seconds_run < passed.seconds
