"""Arrays that memory has no room for lie in a file, and a disk without room is said before it is written to."""

import errno
import os
import tempfile

import numpy as np
import pytest

from unfreeze import arrays
from unfreeze.arrays import allocate
from unfreeze.errors import UnfreezeError


@pytest.mark.parametrize("limit", [0, 2**30])
def test_an_array_is_zeros_that_can_be_written(limit, monkeypatch):
    monkeypatch.setattr(arrays, "MEMORY_BYTES", limit)
    found = allocate((3, 5), np.float32)
    assert isinstance(found, np.memmap) == (limit == 0)
    assert not found.any()
    found[1] = 2.0
    assert found.sum() == 10.0


def test_its_file_is_as_large_as_it_and_gone_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MEMORY_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reserved = []
    reserve = os.posix_fallocate
    monkeypatch.setattr(
        os, "posix_fallocate", lambda file, start, size: reserved.append(size) or reserve(file, start, size)
    )
    allocate((1000, 10), np.uint8)
    assert reserved == [10_000]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
    def full(file, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(arrays, "MEMORY_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UnfreezeError, match=f"{tmp_path} has no room for 10 MB.*TMPDIR"):
        allocate((1000, 10_000), np.uint8)
