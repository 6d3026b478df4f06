from __future__ import annotations

import numpy as np
import pytest

from KDSegmentatorLib.analysis.disagreement import FIELDS, checkerboard
from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import Volume

SPACING = (1.0, 1.5, 2.0)


def volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels.astype(np.uint8), SPACING)


@pytest.mark.parametrize(("length", "side"), [(3, 2), (16, 2), (40, 5)])
def test_fields_are_cubes_and_as_many_as_promised(length: int, side: int) -> None:
    labelled = np.zeros((4, 6, 50))
    labelled[1, 2, 5 : 5 + length] = 1
    other = labelled * 2
    found = checkerboard(volume(labelled), volume(other)).voxels
    k, j, i = np.indices(found.shape)
    odd = (k // side + j // side + i // side) % 2 == 1
    np.testing.assert_array_equal(found, np.where(odd, other, labelled))
    assert side == max(2, round(length / FIELDS))


def test_the_same_twice_is_the_same() -> None:
    labels = volume(np.random.default_rng(0).integers(0, 4, (7, 8, 9)))
    np.testing.assert_array_equal(checkerboard(labels, labels).voxels, labels.voxels)


def test_nothing_labelled() -> None:
    empty = volume(np.zeros((3, 3, 3)))
    assert not checkerboard(empty, empty).voxels.any()


def test_other_grids_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"^A .* and B .* are not on the same grid"):
        checkerboard(volume(np.zeros((3, 3, 3))), volume(np.zeros((3, 3, 4))), titles=("A", "B"))
