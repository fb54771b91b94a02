"""Test rows that look like learnt ones, of features whose likeness is known."""

import numpy as np
import pytest

from unfreeze.data.dataset import Dataset
from unfreeze.data.samples import ListSamples
from unfreeze.engine.frozen_pass import Features
from unfreeze.runtime.labels import Labels
from unfreeze.training.copies import near_copies


def features(array, rows, digests):
    """What a pass over these rows gave; the network has two boundaries."""
    arrays = {1: np.zeros((len(rows), 2), dtype=np.float32), 2: array}
    return Features(arrays, np.array(rows), (), 0, 0, 0.0, 0.0, 0.0, digests)


@pytest.fixture
def parts():
    """Twenty rows to train on, ten to validate on, ten to test on; rows 31 and 32 are copies of 3 and 25."""
    random = np.random.default_rng(0)
    array = random.normal(size=(40, 64)).astype(np.float32)
    array[31], array[32], array[33] = array[3] + 0.01, array[25] + 0.01, array[4]
    digests = random.integers(0, 255, (40, 16), dtype=np.uint8)
    digests[33] = digests[4]
    part = np.repeat(np.array([0, 1, 2], dtype=np.int8), [20, 10, 10])
    return (
        features(array[30:], range(30, 40), digests[30:]),
        features(array[:30], range(30), digests[:30]),
        part,
    )


@pytest.mark.parametrize(("given", "wanted"), [((), [31, 32]), (("val",), [31])])
def test_validation_rows_that_were_given_are_not_learnt_from(parts, given, wanted):
    tested, learnt, part = parts
    dataset = Dataset(
        source="toy",
        modality="text",
        labels=Labels(("no", "yes")),
        samples=ListSamples(("text",) * 40, np.arange(40)),
        label=np.arange(40, dtype=np.int32) % 2,
        part=part,
        given=given,
    )
    found = near_copies(dataset, tested, learnt)
    assert sorted(found.tested.tolist()) == wanted
    assert dict(zip(found.tested.tolist(), found.known.tolist(), strict=True))[31] == 3
    assert (found.similarity > 0.95).all()
    # An exact copy is no pair, and none of the others.
    assert found.compared == 10
    assert found.others.tolist() == [row for row in range(30, 40) if row not in (*wanted, 33)]
    marks = ["~" if row in wanted else "=" if row == 33 else "." for row in range(30, 40)]
    assert found.marks(np.arange(29, 40)) == "?" + "".join(marks)
