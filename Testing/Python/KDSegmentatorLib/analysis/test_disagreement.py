from __future__ import annotations

import numpy as np
import pytest

from KDSegmentatorLib.analysis.disagreement import (
    Disagreement,
    DisagreementRegion,
    disagreement_map,
    largest_disagreement,
)
from KDSegmentatorLib.analysis.labels import each_label, label_map
from KDSegmentatorLib.errors import GeometryError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume

SPACING = (0.5, 1.0, 4.0)
ORIGIN = (10.0, -20.0, 30.0)
TURNED = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))


def volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels.astype(np.uint8), SPACING, ORIGIN, TURNED)


def test_map() -> None:
    first = volume(np.array([[[0, 1, 0, 1, 2, 2]]]))
    second = volume(np.array([[[0, 1, 1, 0, 2, 1]]]))
    result = disagreement_map(first, second)
    assert result.same_grid(first) and result.voxels.dtype == np.uint8
    none, only_first, only_second, other = Disagreement
    assert result.voxels.tolist() == [[[none, none, only_second, only_first, none, other]]]
    # what is not looked at is background
    assert disagreement_map(first, second, [1]).voxels.tolist() == [[[0, 0, 2, 1, 0, 2]]]
    assert disagreement_map(first, second, [2]).voxels.tolist() == [[[0, 0, 0, 0, 0, 1]]]
    assert not disagreement_map(first, second, [7]).voxels.any()


def test_map_of_empty_and_large_labels() -> None:
    empty = volume(np.zeros((2, 3, 4)))
    assert not disagreement_map(empty, empty).voxels.any()
    large = empty.with_voxels(np.full((2, 3, 4), 65535, dtype=np.int64))
    assert (disagreement_map(empty, large).voxels == Disagreement.ONLY_IN_SECOND).all()


def test_map_of_bad_input() -> None:
    first = volume(np.zeros((2, 3, 4)))
    with pytest.raises(GeometryError, match=r"a\.nii .*b\.nii .*same grid"):
        disagreement_map(first, Volume(first.voxels, SPACING), titles=("a.nii", "b.nii"))
    with pytest.raises(UnsuitableVolumeError, match="the second segmentation"):
        disagreement_map(first, first.with_voxels(np.full((2, 3, 4), 0.5)))


def largest(first: np.ndarray, second: np.ndarray) -> DisagreementRegion | None:
    volumes = volume(first), volume(second)
    found = each_label(*map(label_map, volumes), SPACING, [1], lambda pair: largest_disagreement(pair, volumes[0]))
    return found[1]


def test_the_deepest_voxel_of_the_largest_region() -> None:
    first, second = np.zeros((2, 9, 12, 16))
    first[2:5, 3:8, 5:10] = 1
    second[2:5, 3:8, 5:10] = 1
    second[4:7, 3:8, 8:13] = 1  # 75 voxels, of which 10 are in both
    first[8, 11, 15] = 1  # a smaller region, at a corner of the image
    region = largest(first, second)
    assert region is not None
    assert region.index == (10, 5, 5)
    assert region.volume_ml == pytest.approx(65 * 2e-3)
    i, j, k = region.index
    assert region.position == pytest.approx((10 - j * 1.0, -20 + i * 0.5, 30 + k * 4.0))


def test_depth_is_measured_in_mm() -> None:
    first = np.zeros((9, 12, 16))
    first[4, 1:4, 1:8] = 1  # 3.5 x 3 mm: 2 mm from the outside, two voxels
    first[4, 2, 8:10] = 1
    first[4, 0:5, 10:15] = 1  # 2.5 x 5 mm: 1.5 mm from the outside, three voxels
    region = largest(first, np.zeros((9, 12, 16)))
    assert region is not None and region.index == (4, 2, 4)
    assert region.volume_ml == pytest.approx((21 + 2 + 25) * 2e-3)


def test_equal_masks_have_no_region() -> None:
    assert largest(np.ones((2, 3, 4)), np.ones((2, 3, 4))) is None


def test_of_equally_deep_voxels_the_one_nearest_to_the_centre() -> None:
    first = np.zeros((3, 9, 9))
    first[1, 4, 1:8] = 1
    region = largest(first, np.zeros((3, 9, 9)))
    assert region is not None and region.index == (4, 4, 1)


def test_voxels_that_touch_at_an_edge_are_not_connected() -> None:
    first = np.zeros((3, 8, 8))
    first[1, 1:3, 1:3] = 1
    first[1, 3:5, 3:6] = 1
    region = largest(first, np.zeros((3, 8, 8)))
    assert region is not None and region.volume_ml == pytest.approx(6 * 2e-3)


def test_a_label_that_fills_the_image_is_deepest_in_its_middle() -> None:
    region = largest(np.ones((3, 13, 25)), np.zeros((3, 13, 25)))
    assert region is not None and region.index == (12, 6, 1)
    assert region.volume_ml == pytest.approx(3 * 13 * 25 * 2e-3)
