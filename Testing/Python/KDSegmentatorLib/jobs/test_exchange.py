from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.errors import JobError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs import exchange as module
from KDSegmentatorLib.jobs.exchange import read_exchange, write_exchange


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "uint16", "int64", "float32", "float64"])
def test_a_volume_comes_back_as_it_was(tmp_path: Path, volume: Volume, dtype: str) -> None:
    given = volume.with_voxels(volume.voxels.astype(dtype))
    write_exchange(given, tmp_path / "a.npy")
    found = read_exchange(tmp_path / "a.npy")
    assert found.voxels.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(found.voxels, given.voxels)
    assert (found.spacing, found.origin, found.direction) == (given.spacing, given.origin, given.direction)


def test_an_array_that_is_a_view_of_another(tmp_path: Path) -> None:
    voxels = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8).transpose(2, 0, 1)[::-1, :, ::2]
    write_exchange(Volume(voxels, (1, 2, 3)), tmp_path / "a.npy")
    assert np.array_equal(read_exchange(tmp_path / "a.npy").voxels, voxels)


def test_a_truncated_file_is_refused(tmp_path: Path, volume: Volume) -> None:
    path = tmp_path / "a.npy"
    write_exchange(volume, path)
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(JobError, match="not complete"):
            read_exchange(path)


def test_a_file_that_claims_to_be_huge_is_refused_before_memory_is_taken(tmp_path: Path, volume: Volume) -> None:
    path = tmp_path / "a.npy"
    write_exchange(volume, path)
    content = path.read_bytes()
    assert content.count(b"(20, 24, 18)") == 1
    path.write_bytes(content.replace(b"(20, 24, 18), }  ", b"(20,24,18000000)}"))
    with pytest.raises(JobError, match="bytes are left"):
        read_exchange(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="not complete"):
        read_exchange(tmp_path / "a.npy")


def test_a_file_of_other_arrays(tmp_path: Path) -> None:
    for array in (np.zeros((2, 2, 2)), np.zeros((5, 3)), np.array([[{}]], dtype=object)):
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        with pytest.raises(JobError, match="not complete"):
            read_exchange(tmp_path / "a.npy")


def test_a_full_disk_leaves_nothing(tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    original = module._write_array

    def full(file: Any, array: Any) -> None:
        original(file, array)
        if array.ndim == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write_array", full)
    with pytest.raises(JobError, match="the disk is full"):
        write_exchange(volume, tmp_path / "a.npy")
    assert list(tmp_path.iterdir()) == []
