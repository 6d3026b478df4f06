from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.cleaning import without_empty
from KDSegmentatorLib.inference.region import only_region, within

LENGTHS = st.tuples(*[st.integers(1, 9)] * 3)
SPACINGS = st.tuples(*[st.sampled_from([0.7, 1.0, 2.5, 5.0])] * 3)


@settings(max_examples=60, deadline=None)
@given(shape=LENGTHS, spacing=SPACINGS, margin=st.sampled_from([0.0, 0.7, 2.1, 5.0, 30.0]), seed=st.integers(0, 99))
def test_distances_are_those_of_the_whole_volume(shape, spacing, margin, seed):
    random = np.random.default_rng(seed)
    mask = random.random(shape) < 0.05
    mask[tuple(random.integers(length) for length in shape)] = True
    distance = distance_transform_edt(~mask, sampling=spacing[::-1])
    expected = distance <= margin * (1 + 1e-6)
    np.testing.assert_array_equal(within(mask, spacing, margin), expected)
    voxels = random.normal(size=shape).astype(np.float32)
    volume = only_region(Volume(voxels, spacing), mask, margin)
    np.testing.assert_array_equal(volume.voxels, np.where(expected, voxels, 0))
    assert volume.spacing == spacing


def test_it_can_be_stopped():
    def stop():
        raise KeyboardInterrupt

    volume = Volume(np.ones((4, 4, 4), np.float32), (1.0, 1.0, 1.0))
    with pytest.raises(KeyboardInterrupt):
        only_region(volume, np.ones((4, 4, 4), bool), 2.0, stop)


def test_nothing_is_labelled_in_the_empty_part_of_a_scan():
    z, y, x = np.ogrid[:12, :14, :16]
    distance = (z - 6) ** 2 + (y - 6) ** 2 + (x - 8) ** 2
    scan = np.where((distance < 20) & (distance > 4), 90, 0)  # with a hole, as a ventricle that a threshold made 0
    labels = np.ones(scan.shape, np.uint8)
    cleared = without_empty(labels, scan)
    np.testing.assert_array_equal(cleared, distance < 20)
    assert labels.all()  # the given ones stay as they are
    np.testing.assert_array_equal(without_empty(labels, np.ones_like(scan)), labels)
    np.testing.assert_array_equal(without_empty(labels, np.zeros_like(scan)), 0)
