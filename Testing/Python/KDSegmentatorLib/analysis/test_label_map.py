from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from KDSegmentatorLib.analysis.labels import label_map
from KDSegmentatorLib.errors import UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume

VALUES = np.array([[[0, 3, 3], [0, 0, 0]], [[0, 0, 3], [0, 7, 0]]])


def volume(voxels: npt.NDArray[Any]) -> Volume:
    return Volume(voxels, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("kind", ["uint8", "uint16", ">u2", "int16", "int64", "float32", "float64"])
def test_boxes_of_the_values_that_occur(kind: str) -> None:
    labels = label_map(volume(VALUES.astype(kind)))
    np.testing.assert_array_equal(labels.voxels, VALUES)
    assert labels.boxes == {
        3: (slice(0, 2), slice(0, 1), slice(1, 3)),
        7: (slice(1, 2), slice(1, 2), slice(1, 2)),
    }


def test_unsigned_labels_are_not_copied() -> None:
    for kind in (np.uint8, np.uint16):
        voxels = VALUES.astype(kind)
        assert label_map(volume(voxels)).voxels is voxels


def test_the_largest_label_and_an_empty_map() -> None:
    assert list(label_map(volume(np.full((1, 1, 1), 65535.0))).boxes) == [65535]
    assert label_map(volume(np.zeros((2, 2, 2), dtype=np.int32))).boxes == {}
    assert list(label_map(volume(VALUES > 0)).boxes) == [1]


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.array([[[0.0, 0.5]]]), "not whole numbers"),
        (np.array([[[-1, 2]]]), "from -1 to 2"),
        (np.array([[[0, 65536]]]), "from 0 to 65536"),
        (np.array([[[0.0, np.nan]]]), "from nan to nan"),
        (np.array([[[0, 1j]]]), "complex128"),
    ],
)
def test_what_is_no_label_map(voxels: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(UnsuitableVolumeError, match=f"the teacher.*{message}"):
        label_map(volume(voxels), "the teacher")


def test_a_scan_of_whole_numbers_is_told_from_many_labels() -> None:
    random = np.random.default_rng(0)
    scan = random.gamma(2, 50, size=(8, 9, 10)).astype(np.uint16)
    with pytest.raises(UnsuitableVolumeError, match="looks like a scan"):
        label_map(volume(scan))
    labels = np.repeat(np.arange(100, dtype=np.uint8).reshape(10, 10, 1), 4, axis=2)
    assert len(label_map(volume(labels)).boxes) == 99
    speckles = (random.random((8, 9, 10)) < 0.05).astype(np.uint8)  # single voxels, but of one label
    assert list(label_map(volume(speckles)).boxes) == [1]
