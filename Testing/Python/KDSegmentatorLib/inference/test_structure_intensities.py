from __future__ import annotations

import numpy as np
import pytest

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.structure_measures import structure_intensities

SPACING = (1.0, 1.0, 1.0)


def volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels, SPACING)


def random_case() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, (9, 8, 7)).astype(np.uint8)
    return labels, random.normal(1000 + 50 * labels.astype(np.float64), 20)


def test_against_numpy() -> None:
    labels, image = random_case()
    labelled = image[labels > 0]
    found = structure_intensities(volume(labels), volume(image), 4)
    assert np.isnan(found[[0, 4]]).all()
    for value in (1, 2, 3):
        assert found[value] == pytest.approx((image[labels == value].mean() - labelled.mean()) / labelled.std())


def test_scale_and_offset_do_not_matter() -> None:
    labels, image = random_case()
    found, other = (structure_intensities(volume(labels), volume(each), 3) for each in (image, 0.01 * image - 7))
    np.testing.assert_allclose(found[1:], other[1:], rtol=1e-6)


@pytest.mark.parametrize("labels", [np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8)])
def test_nothing_to_compare(labels: np.ndarray) -> None:
    assert np.isnan(structure_intensities(volume(labels), volume(np.full((3, 3, 3), 5.0)), 2)).all()


@pytest.mark.parametrize("intensity", [0.1, 1234.567, 3e8])
def test_equal_intensities_differ_by_nothing_whatever_they_are(intensity: float) -> None:
    """Sums of many such numbers are rounded, and their variance must not be what rounding left."""
    labels = random_case()[0]
    assert np.isnan(structure_intensities(volume(labels), volume(np.full(labels.shape, intensity)), 3)).all()
